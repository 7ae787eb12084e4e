"""What a store holds of a model: found, missing, or broken, and said so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ollamux.domain.errors import NotFoundError
from ollamux.ollama.gguf import GgufError
from ollamux.ollama.memory import Wish
from ollamux.ollama.needs import need_of, read_model, remedies
from ollamux.ollama.shape import ShapeError
from ollamux.ollama.stored import StoreError, read_stored
from ollamux.simulation.gguf import Gguf, Tensor, head_of

KIND = "application/vnd.ollama.image."
WIDTH, WORDS = 64, 512


def weights(**more: Any) -> bytes:
    """Return a model file: a llama of two layers."""
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": WIDTH,
        "llama.context_length": 8192,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.feed_forward_length": 160,
        **more,
    }
    shapes = {"token_embd.weight": (WIDTH, WORDS), "output_norm.weight": (WIDTH,), "output.weight": (WIDTH, WORDS)}
    for layer in range(2):
        shapes[f"blk.{layer}.attn_q.weight"] = (WIDTH, WIDTH)
        shapes[f"blk.{layer}.attn_k.weight"] = shapes[f"blk.{layer}.attn_v.weight"] = (WIDTH, 32)
        shapes[f"blk.{layer}.attn_output.weight"] = (WIDTH, WIDTH)
        shapes[f"blk.{layer}.ffn_norm.weight"] = (WIDTH,)
        shapes[f"blk.{layer}.ffn_up.weight"] = shapes[f"blk.{layer}.ffn_gate.weight"] = (WIDTH, 160)
        shapes[f"blk.{layer}.ffn_down.weight"] = (160, WIDTH)
    tensors = tuple(Tensor(name=name, type="F16", shape=shape) for name, shape in shapes.items())
    head = head_of(Gguf(metadata={key: value for key, value in metadata.items() if value is not None}, tensors=tensors))
    return head + bytes(sum(-(-tensor.size_bytes // 32) * 32 for tensor in tensors))


class Store:
    """A store that is written by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, data: bytes) -> dict[str, str]:
        digest = hashlib.sha256(data).hexdigest()
        (self.root / "blobs" / f"sha256-{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}"}

    def manifest(self, name: str, text: str) -> Path:
        path = self.root / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def model(self, name: str, **kinds: bytes) -> None:
        layers = [{"mediaType": KIND + kind, **self.blob(data)} for kind, data in kinds.items()]
        self.manifest(name, json.dumps({"schemaVersion": 2, "layers": layers}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_all_that_belongs_to_a_model(store: Store) -> None:
    parameters = json.dumps({"num_ctx": 4096, "num_gpu": 2, "num_batch": 64, "stop": ["a", "b"]}).encode()
    store.model("m", model=weights(), projector=weights(), adapter=weights(), params=parameters, template=b"x")
    found = read_stored(store.root, "m")
    assert len(found.projectors) == len(found.adapters) == 1
    assert found.digest == hashlib.sha256(found_manifest(store, "m")).hexdigest()
    assert [found.number(key) for key in ("num_ctx", "num_gpu", "stop", "none")] == [4096, 2, None, None]
    model = read_model(store.root, "m")
    wish = model.wish(Wish(context=8192), context=None)
    assert (wish.context, wish.layers, wish.batch) == (4096, 2, 64)
    assert model.wish(Wish(context=8192), context=1024).context == 1024
    need = need_of(model, wish)
    assert need.projector_bytes > WIDTH * WORDS * 4
    assert sum(layer.on_card for layer in need.layers) == 2


def found_manifest(store: Store, name: str) -> bytes:
    return (store.root / "manifests/registry.ollama.ai/library" / name / "latest").read_bytes()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a b", "x" * 400, "a/b/c/d"])
def test_no_name(store: Store, name: str) -> None:
    with pytest.raises(NotFoundError, match="no name that a model can have"):
        read_stored(store.root, name)


def test_no_such_model(store: Store) -> None:
    with pytest.raises(NotFoundError, match="there is no model m in the store") as caught:
        read_stored(store.root, "m")
    assert caught.value.hint == "ollamux pull m fetches it"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"layers": 5}', "[" * 100_000, '{"a": ' * 5000, "x" * (2 * 1024**2)],
    ids=["empty", "cut", "list", "null", "number", "deep", "deep too", "long"],
)
def test_a_broken_manifest(store: Store, text: str) -> None:
    store.manifest("m", text)
    with pytest.raises(StoreError, match=r"the manifest of m, .* cannot be read or is broken"):
        read_stored(store.root, "m")


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "names no GGUF file"),
        ([None, 5, []], "names no GGUF file"),
        ([{"mediaType": KIND + "tensor", "digest": "sha256:" + "0" * 64}], "names no GGUF file"),
        ([{"mediaType": KIND + "model"}], "names no blob for its model"),
        ([{"mediaType": KIND + "model", "digest": "sha256:../../../etc/passwd"}], "names no blob for its model"),
    ],
)
def test_a_manifest_that_names_no_weights(store: Store, layers: list[Any], reason: str) -> None:
    store.manifest("m", json.dumps({"layers": layers}))
    with pytest.raises(StoreError, match=reason):
        read_stored(store.root, "m")


@pytest.mark.parametrize("kind", ["model", "projector", "adapter", "params"])
def test_a_missing_blob_is_named(store: Store, kind: str) -> None:
    whole = {"mediaType": KIND + "model", **store.blob(weights())}
    store.manifest("m", json.dumps({"layers": [whole, {"mediaType": KIND + kind, "digest": "sha256:" + "0" * 64}]}))
    if kind == "model":
        store.manifest("m", json.dumps({"layers": [{"mediaType": KIND + kind, "digest": "sha256:" + "0" * 64}]}))
    with pytest.raises(NotFoundError, match=f"not whole: the blob of its {kind} is missing, .*/blobs/sha256-000"):
        read_stored(store.root, "m")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 10, b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"])
def test_broken_parameters(store: Store, data: bytes) -> None:
    store.model("m", model=weights(), params=data)
    with pytest.raises(StoreError, match=r"the parameters of m, .* are broken"):
        read_stored(store.root, "m")


def test_weights_that_were_cut_off_are_to_be_fetched_anew(store: Store) -> None:
    store.model("m", model=weights()[:-5000])
    with pytest.raises(GgufError, match="ends too early") as caught:
        read_model(store.root, "m")
    assert caught.value.hint == "ollamux pull m fetches it anew"


def test_a_head_that_tells_too_little_is_named_with_its_file(store: Store) -> None:
    store.model("m", model=weights(**{"llama.block_count": None}))
    with pytest.raises(ShapeError, match=r"/blobs/sha256-.* cannot be planned with: it does not say how many layers"):
        read_model(store.root, "m")


def test_what_would_make_it_fit_does(store: Store) -> None:
    store.model("m", model=weights())
    model = read_model(store.root, "m")
    wish = Wish(context=8192, parallel=4)
    whole = need_of(model, wish)
    found = remedies(model, wish, whole.least_bytes - 1)
    assert [remedy.what for remedy in found] == ["kv_type", "kv_type", "parallel", "context_length", "layers"]
    assert all(remedy.total_bytes < whole.least_bytes for remedy in found)
    context = next(remedy.value for remedy in found if remedy.what == "context_length")
    assert isinstance(context, int) and 4096 <= context < 8192
    assert remedies(model, wish, 1024) == ()
