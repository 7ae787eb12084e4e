"""The store of models: manifests and blobs on disk, in ollama's own layout, weights as holes in sparse files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollamux.simulation import catalogue, gguf
from ollamux.simulation.catalogue import ModelSpec
from ollamux.simulation.golang import human_count, to_json

MODEL = "application/vnd.ollama.image.model"
TEMPLATE = "application/vnd.ollama.image.template"
PARAMS = "application/vnd.ollama.image.params"
SYSTEM = "application/vnd.ollama.image.system"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_GRACE_S = 3600
SEEDED = ("qwen3:8b", "llama3.2:3b", "nomic-embed-text:latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """The name of a model, all four parts."""

    host: str = _HOST
    namespace: str = _NAMESPACE
    model: str
    tag: str = _TAG

    @property
    def short(self) -> str:
        """Return the name as it is shown: what is default is left out, the tag is not."""
        parts = [] if self.host == _HOST else [self.host]
        if parts or self.namespace != _NAMESPACE:
            parts.append(self.namespace)
        return "/".join([*parts, f"{self.model}:{self.tag}"])

    @property
    def full(self) -> str:
        """Return the name with its registry."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def path(self) -> Path:
        """Return where its manifest lies below `manifests`."""
        return Path(self.host) / self.namespace / self.model / self.tag


def parse_name(text: str) -> Name | None:
    """Read a name, or None where it is none."""
    rest = text.partition("://")[2] or text
    head, slash, last = rest.rpartition("/")
    model, colon, tag = last.partition(":")
    parts = head.split("/") if slash else []
    if len(parts) > 2 or (colon and not tag):
        return None
    namespace = parts[-1] if parts else _NAMESPACE
    host = parts[0] if len(parts) == 2 else _HOST
    plain = host.replace(":", "")
    if not all(_PART.fullmatch(part) for part in (plain, namespace, model, tag or _TAG)):
        return None
    return Name(host=host, namespace=namespace, model=model, tag=tag or _TAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A blob that a manifest names."""

    media: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest as read; `digest` is the SHA-256 of its bytes, which is what ps and tags show."""

    name: Name
    digest: str
    config: Layer
    layers: tuple[Layer, ...]
    modified_ns: int = field(compare=False)

    @property
    def size(self) -> int:
        """Return the bytes of everything it names."""
        return self.config.size + sum(layer.size for layer in self.layers)

    def layer(self, media: str) -> Layer | None:
        """Return the layer of one kind."""
        return next((layer for layer in self.layers if layer.media == media), None)


class Store:
    """The folder OLLAMA_MODELS."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.manifests = root / "manifests"
        self._configs: dict[str, dict[str, Any]] = {}

    def blob(self, digest: str) -> Path:
        """Return the file of a blob."""
        return self.blobs / digest.replace(":", "-")

    def names(self) -> Iterator[Name]:
        """Return the names of what is installed."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            host, namespace, model, tag = path.relative_to(self.manifests).parts
            if not path.name.startswith("."):
                yield Name(host=host, namespace=namespace, model=model, tag=tag)

    def read(self, name: Name) -> Manifest | None:
        """Return a manifest; None where it is missing, ValueError where it is broken."""
        path = self.manifests / name.path
        try:
            data = path.read_bytes()
            modified = path.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None
        row = json.loads(data)
        layers = tuple(_layer(item) for item in row["layers"])
        digest = hashlib.sha256(data).hexdigest()
        return Manifest(name=name, digest=digest, config=_layer(row["config"]), layers=layers, modified_ns=modified)

    def all(self) -> list[Manifest]:
        """Return what is installed and whole, newest first."""
        found = []
        for name in self.names():
            try:
                manifest = self.read(name)
            except (ValueError, KeyError):
                continue
            if manifest is not None:
                found.append(manifest)
        return sorted(found, key=lambda manifest: -manifest.modified_ns)

    def text(self, manifest: Manifest, media: str) -> str:
        """Return the text of a layer, empty where there is none."""
        layer = manifest.layer(media)
        return self.blob(layer.digest).read_text(encoding="utf-8") if layer else ""

    def params(self, manifest: Manifest) -> dict[str, Any]:
        """Return the parameters that the model itself sets."""
        text = self.text(manifest, PARAMS)
        return dict(json.loads(text)) if text else {}

    def config(self, manifest: Manifest) -> dict[str, Any]:
        """Return the configuration blob; that of a model which is loaded is known when its files are deleted."""
        digest = manifest.config.digest
        if digest not in self._configs:
            self._configs[digest] = dict(json.loads(self.blob(digest).read_text(encoding="utf-8")))
        return dict(self._configs[digest])

    def head(self, manifest: Manifest) -> gguf.Gguf:
        """Return the head of the weights."""
        layer = manifest.layer(MODEL)
        if layer is None:
            raise FileNotFoundError(errno.ENOENT, "no weights", str(self.blobs))
        return gguf.read(self.blob(layer.digest))

    def add_text(self, media: str, text: str) -> Layer:
        """Write a small blob and return its layer."""
        data = text.encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        path = self.blob(digest)
        if not path.exists():
            self.blobs.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return Layer(media=media, digest=digest, size=len(data))

    def write_manifest(self, name: Name, config: Layer, layers: Iterable[Layer]) -> None:
        """Write a manifest in place, as ollama does."""
        row = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _row(config),
            "layers": [_row(layer) for layer in layers],
        }
        path = self.manifests / name.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(row))

    def delete(self, name: Name, *, prune: bool = True) -> None:
        """Remove a manifest and the blobs nobody else names."""
        manifest = self.read(name)
        (self.manifests / name.path).unlink()
        if manifest is not None and prune:
            self.drop_unused([manifest.config, *manifest.layers])
        self._remove_empty_folders(self.manifests)

    def drop_unused(self, layers: Iterable[Layer]) -> None:
        """Remove those of the blobs that no manifest names."""
        used = self.used_digests()
        for layer in layers:
            if layer.digest not in used:
                self.blob(layer.digest).unlink(missing_ok=True)

    def used_digests(self) -> set[str]:
        """Return every digest that a manifest names."""
        return {layer.digest for m in self.all() for layer in (m.config, *m.layers)}

    def prune(self) -> tuple[int, list[tuple[Path, OSError | None]]]:
        """Remove old unused blobs and empty folders: how many were looked at, and what was removed or not.

        The grace of an hour and the order are those of 0.21.0 and later.
        """
        used = {digest.replace(":", "-") for digest in self.used_digests()}
        limit = time.time_ns() - _GRACE_S * 10**9
        old = [path for path in self.blobs.iterdir() if path.stat().st_mtime_ns < limit]
        digests = [path for path in old if re.fullmatch(r"sha256-[0-9a-f]{64}", path.name)]
        removed: list[tuple[Path, OSError | None]] = []
        for path in old:
            if path in digests and path.name in used:
                continue
            try:
                path.unlink()
                removed.append((path, None))
            except OSError as error:
                removed.append((path, error))
        self._remove_empty_folders(self.manifests)
        return len(digests), removed

    def _remove_empty_folders(self, folder: Path) -> None:
        if not folder.is_dir():
            return
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                self._remove_empty_folders(path)
        if not any(folder.iterdir()):
            folder.rmdir()


def _layer(row: dict[str, Any]) -> Layer:
    return Layer(media=row["mediaType"], digest=row["digest"], size=int(row["size"]))


def _row(layer: Layer) -> dict[str, Any]:
    return {"mediaType": layer.media, "digest": layer.digest, "size": layer.size}


def weights_of(spec: ModelSpec) -> Layer:
    """Return the layer of a model's weights. Its digest stands for the head and the size, not for the hole."""
    head = catalogue.gguf_of(spec)
    size = gguf.file_size(head)
    digest = hashlib.sha256(gguf.head_of(head) + str(size).encode()).hexdigest()
    return Layer(media=MODEL, digest=f"sha256:{digest}", size=size)


def write_weights(path: Path, spec: ModelSpec) -> None:
    """Write the head of the weights and make the file as long as the real one."""
    head = catalogue.gguf_of(spec)
    with path.open("wb") as file:
        file.write(gguf.head_of(head))
        file.truncate(gguf.file_size(head))


def finish_install(store: Store, name: Name, spec: ModelSpec, weights: Layer) -> None:
    """Write the small blobs and the manifest of a model whose weights are there."""
    layers = [weights]
    if not spec.embeds_only:
        layers.append(store.add_text(TEMPLATE, catalogue.TEMPLATE))
    if spec.stop:
        layers.append(store.add_text(PARAMS, to_json({"stop": list(spec.stop)}).decode() + "\n"))
    head = catalogue.gguf_of(spec)
    config = {
        "model_format": "gguf",
        "model_family": spec.architecture,
        "model_families": [spec.architecture],
        "model_type": human_count(head.parameters),
        "file_type": head.quantization,
        "capabilities": list(spec.capabilities),
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    store.write_manifest(name, store.add_text(_CONFIG, to_json(config).decode()), layers)


def install(root: Path, spec: ModelSpec) -> None:
    """Put a model into a store, at once."""
    store, name = Store(root), parse_name(spec.name)
    if name is None:
        raise ValueError(f"{spec.name} is no model name")
    store.blobs.mkdir(parents=True, exist_ok=True)
    weights = weights_of(spec)
    path = store.blob(weights.digest)
    if not path.exists():
        draft = path.with_name(f"{path.name}-partial-{os.getpid()}")
        write_weights(draft, spec)
        draft.replace(path)
    finish_install(store, name, spec, weights)


def seed_store(store: Path) -> None:
    """Put a few well-known models into a store; what is there stays."""
    for model in SEEDED:
        name = parse_name(model)
        if name is not None and not (store / "manifests" / name.path).exists():
            install(store, catalogue.CATALOGUE[model])
