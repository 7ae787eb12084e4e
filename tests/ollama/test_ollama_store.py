"""Names, manifests and blobs of a store, also of a hostile one."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from ollamux.ollama.store import (
    all_manifests,
    blob_name,
    blob_path,
    find_manifest,
    manifest_path,
    names_of_blob,
    store_path,
)

DIGEST = "sha256:" + "ab" * 32
BLOB = "sha256-" + "ab" * 32


def put(store, name, body):
    path = manifest_path(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    path.write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()


def manifest(digest=DIGEST, media="application/vnd.ollama.image.model"):
    layers = [{"mediaType": "application/vnd.ollama.image.params", "digest": "sha256:" + "00" * 32, "size": 1}]
    return {"schemaVersion": 2, "layers": [*layers, {"mediaType": media, "digest": digest, "size": 4711}]}


def test_a_name_and_back(tmp_path) -> None:
    digest = put(tmp_path, "qwen3:8b", manifest())
    put(tmp_path, "me/own", manifest())
    put(tmp_path, "hub.example:5000/me/own:q4", manifest("sha256:" + "cd" * 32))
    found = find_manifest(tmp_path, "qwen3:8b")
    assert (found.digest, found.blob, found.size_bytes) == (digest, BLOB, 4711)
    assert blob_path(tmp_path, found) == tmp_path / "blobs" / BLOB
    assert names_of_blob(tmp_path, f"/anywhere/blobs/{BLOB}") == ("me/own:latest", "qwen3:8b")
    assert [entry.name for entry in all_manifests(tmp_path)] == [
        "hub.example:5000/me/own:q4",
        "me/own:latest",
        "qwen3:8b",
    ]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("x", "registry.ollama.ai/library/x/latest"),
        ("x:8b", "registry.ollama.ai/library/x/8b"),
        ("a/x", "registry.ollama.ai/a/x/latest"),
        ("host:5000/a/x:q4_K_M", "host:5000/a/x/q4_K_M"),
    ],
)
def test_where_a_manifest_lies(tmp_path, name, path) -> None:
    assert manifest_path(tmp_path, name) == tmp_path / "manifests" / path


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/../x", "x:..", "/etc/passwd", "a/b/c/d", "x:", "a//x", "x\0", "x\n", "-x", ".x", "ä"]
)
def test_names_that_no_model_has(tmp_path, name) -> None:
    assert manifest_path(tmp_path, name) is None
    assert find_manifest(tmp_path, name) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"layers": 3}',
        b" " * (1024**2 + 1),
    ],
)
def test_a_broken_manifest_is_none(tmp_path, body) -> None:
    put(tmp_path, "x", body)
    assert find_manifest(tmp_path, "x") is None
    assert all_manifests(tmp_path) == ()


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha256:xyz", 5, None, "md5:" + "ab" * 16])
def test_a_digest_that_is_none_becomes_no_path(tmp_path, digest) -> None:
    put(tmp_path, "x", manifest(digest))
    found = find_manifest(tmp_path, "x")
    assert found.blob is None
    assert blob_path(tmp_path, found) is None


def test_no_weights_and_odd_layers(tmp_path) -> None:
    put(tmp_path, "x", {"layers": [5, {"mediaType": []}, {"mediaType": "other"}]})
    assert find_manifest(tmp_path, "x").blob is None


def test_a_fifo_does_not_hang(tmp_path) -> None:
    path = manifest_path(tmp_path, "x")
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert find_manifest(tmp_path, "x") is None


def test_an_empty_or_missing_store(tmp_path) -> None:
    assert all_manifests(tmp_path / "nowhere") == ()
    assert find_manifest(tmp_path, "x") is None
    assert names_of_blob(tmp_path, "/blobs/other") == ()


def test_names_of_blobs() -> None:
    assert blob_name(f"/m/blobs/{BLOB}") == BLOB
    assert blob_name(DIGEST.upper().replace("SHA", "sha")) == BLOB
    assert blob_name("/m/x.gguf") is None


@pytest.mark.parametrize(
    ("store", "path"),
    [(None, "/home/me/.ollama/models"), ("~/m", "/home/me/m"), ("/srv/m", "/srv/m"), ("", "/home/me/.ollama/models")],
)
def test_where_the_store_is(store, path) -> None:
    assert store_path(store, "/home/me") == path
