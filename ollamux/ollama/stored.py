"""What a store holds of one model: its weights, projectors, adapters and parameters. Reads manifests and small blobs.

Beside `store`, which only maps names: here a model that is missing or broken is an error that says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollamux.domain.errors import Exit, NotFoundError, OllamuxError
from ollamux.domain.text import safe_text
from ollamux.ollama.store import blob_name, manifest_path, read_manifest
from ollamux.system.files import read_bounded

_TYPE = "application/vnd.ollama.image."
_LONGEST_PARAMETERS = 256 * 1024
_MOST_FILES = 16


class StoreError(OllamuxError):
    """A manifest or a blob that is broken; the message names the model and what is wrong."""

    exit_code = Exit.DEGRADED


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """The files of a model. `digest` is that of the manifest, as `/api/ps` tells it."""

    name: str
    digest: str
    weights: Path
    projectors: tuple[Path, ...]
    adapters: tuple[Path, ...]
    parameters: Mapping[str, Any]

    def number(self, name: str) -> int | None:
        """Return a parameter that counts something, such as num_ctx; None where there is none."""
        value = self.parameters.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_stored(store: Path, name: str) -> StoredModel:
    """Return what a store holds of a model. Raises NotFoundError or StoreError."""
    shown = safe_text(name, limit=200)
    path = manifest_path(store, name)
    if path is None:
        raise NotFoundError(f"{shown!r} is no name that a model can have", hint="as in qwen3:8b; ollama list shows all")
    digest, manifest = read_manifest(path) or ("", None)
    if manifest is None:
        if path.exists():
            raise StoreError(f"the manifest of {shown}, {path}, cannot be read or is broken", hint=_pull(shown))
        raise NotFoundError(f"there is no model {shown} in the store {store}", hint=_pull(shown))
    found = _Layers(store, shown, manifest)
    weights = found.files("model")
    if not weights:
        raise StoreError(f"{shown} has no weights that can be read: its manifest names no GGUF file", hint=_pull(shown))
    return StoredModel(
        name=name,
        digest=digest,
        weights=weights[0],
        projectors=found.files("projector"),
        adapters=found.files("adapter"),
        parameters=found.parameters(),
    )


def _pull(shown: str) -> str:
    return f"ollamux pull {shown} fetches it"


class _Layers:
    """The layers of one manifest, by kind."""

    def __init__(self, store: Path, shown: str, manifest: Mapping[str, Any]) -> None:
        self._store = store
        self._shown = shown
        layers = manifest.get("layers")
        self._layers = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []

    def files(self, kind: str) -> tuple[Path, ...]:
        """Return the blobs of a kind, each of which has to be there."""
        layers = [layer for layer in self._layers if layer.get("mediaType") == _TYPE + kind]
        return tuple(self._blob(layer, kind) for layer in layers[:_MOST_FILES])

    def parameters(self) -> Mapping[str, Any]:
        """Return the parameters of the Modelfile; a list holds one value for each line."""
        for layer in self._layers:
            if layer.get("mediaType") == _TYPE + "params":
                path = self._blob(layer, "params")
                try:
                    plain = json.loads(read_bounded(str(path), _LONGEST_PARAMETERS) or b"")
                except (OSError, ValueError, RecursionError):
                    raise StoreError(f"the parameters of {self._shown}, {path}, are broken") from None
                return plain if isinstance(plain, dict) else {}
        return {}

    def _blob(self, layer: Mapping[str, Any], kind: str) -> Path:
        digest = layer.get("digest")
        name = blob_name(digest) if isinstance(digest, str) else None
        if name is None:
            raise StoreError(f"the manifest of {self._shown} names no blob for its {kind}", hint=_pull(self._shown))
        path = self._store / "blobs" / name
        if not path.exists():
            raise NotFoundError(
                f"{self._shown} is not whole: the blob of its {kind} is missing, {path}", hint=_pull(self._shown)
            )
        return path
