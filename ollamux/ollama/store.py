"""Map the names of models to their weights and back, through the manifests of a store. Reads only, and little.

`/api/ps` tells the digest of a manifest, a runner's command line the path of a blob; only the manifests join the two.
A store may be shared and hostile: reads are bounded, and nothing in a manifest becomes a path without being checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollamux.ollama.env import expand

_LONGEST_MANIFEST = 1024**2
_MOST_MANIFESTS = 5000
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,349}")
_HOST_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,349}")
_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a store says of one model. `digest` is that of the manifest, as `/api/ps` tells it, `blob` a file's name."""

    name: str
    digest: str
    blob: str | None
    size_bytes: int | None


def store_path(store: str | None, home: str) -> str:
    """Return the folder of the models: as configured, else where ollama keeps them by itself."""
    return expand(store, home) if store else f"{home.rstrip('/')}/.ollama/models"


def manifest_path(store: Path, name: str) -> Path | None:
    """Return where the manifest of a model lies; None for a name that no model can have."""
    head, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    parts = head.split("/")
    if not 1 <= len(parts) <= 3:
        return None
    model, namespace, host = (*reversed(parts), *(_DEFAULT_NAMESPACE, _DEFAULT_HOST)[len(parts) - 1 :])
    if not _HOST_PART.fullmatch(host) or not all(_PART.fullmatch(part) for part in (namespace, model, tag)):
        return None
    return store / "manifests" / host / namespace / model / tag


def find_manifest(store: Path, name: str) -> Manifest | None:
    """Read the manifest of a model; None where it is missing or broken."""
    path = manifest_path(store, name)
    return None if path is None else _read(path, name)


def blob_path(store: Path, manifest: Manifest) -> Path | None:
    """Return the file of a model's weights, which may be missing."""
    return None if manifest.blob is None else store / "blobs" / manifest.blob


def blob_name(path: str) -> str | None:
    """Return the name of the blob that a path on a runner's command line ends in."""
    match = _DIGEST.fullmatch(path.rpartition("/")[2])
    return f"sha256-{match[1].lower()}" if match else None


def all_manifests(store: Path) -> tuple[Manifest, ...]:
    """Read every manifest of a store, by name; broken ones are left out."""
    root = store / "manifests"
    found: list[Manifest] = []
    for path in _tagged(root):
        host, namespace, model, tag = path.relative_to(root).parts
        manifest = _read(path, _short_name(host, namespace, model, tag))
        if manifest is not None:
            found.append(manifest)
        if len(found) >= _MOST_MANIFESTS:
            break
    return tuple(sorted(found, key=lambda manifest: manifest.name))


def names_of_blob(store: Path, path: str) -> tuple[str, ...]:
    """Return the names of all models whose weights are in this blob; several may share one."""
    wanted = blob_name(path)
    if wanted is None:
        return ()
    return tuple(manifest.name for manifest in all_manifests(store) if manifest.blob == wanted)


def _tagged(root: Path) -> list[Path]:
    level = [root]
    for _ in range(4):
        level = [child for folder in level for child in _children(folder)][: _MOST_MANIFESTS * 2]
    return level


def _children(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry, _ in zip(entries, range(_MOST_MANIFESTS), strict=False)]
    except OSError:
        return []


def _short_name(host: str, namespace: str, model: str, tag: str) -> str:
    if host != _DEFAULT_HOST:
        return f"{host}/{namespace}/{model}:{tag}"
    return f"{model}:{tag}" if namespace == _DEFAULT_NAMESPACE else f"{namespace}/{model}:{tag}"


def read_manifest(path: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the digest of a manifest and what it says; None where it is missing or broken."""
    body = _bounded(path)
    if body is None:
        return None
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict) or not isinstance(plain.get("layers"), list):
        return None
    return hashlib.sha256(body).hexdigest(), plain


def _read(path: Path, name: str) -> Manifest | None:
    found = read_manifest(path)
    if found is None:
        return None
    digest, plain = found
    layers = plain["layers"]
    layer = next((item for item in layers if isinstance(item, dict) and item.get("mediaType") == _MODEL_LAYER), {})
    return Manifest(name=name, digest=digest, blob=_blob(layer), size_bytes=_size(layer.get("size")))


def _bounded(path: Path) -> bytes | None:
    try:
        # Non-blocking, so that a FIFO in the place of a manifest does not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            body = file.read(_LONGEST_MANIFEST + 1)
        except OSError:
            return None
    return body if len(body) <= _LONGEST_MANIFEST else None


def _blob(layer: dict[str, Any]) -> str | None:
    digest = layer.get("digest")
    return blob_name(digest) if isinstance(digest, str) else None


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60 else None
