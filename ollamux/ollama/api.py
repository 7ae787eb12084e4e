"""Read the answers of ollama's HTTP API into values. Pure, bounded, and safe on answers from anything else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ollamux.ollama.version import Version, parse_version

LONGEST_BODY = 4 * 1024**2
_MOST_MODELS = 1000
_LONGEST_TEXT = 1024
_LARGEST = 1 << 60
_FOR_EVER_S = 20 * 365.25 * 86400.0


class BadAnswerError(Exception):
    """An answer is not what ollama would send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerVersion:
    """What `/api/version` says; `numbers` is None for a build from source, which has no number."""

    text: str
    numbers: Version | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that is loaded. `digest` is that of its manifest, not of its weights.

    `expires_at` is in seconds since 1970; None means it is kept for ever, or the server did not say.
    """

    name: str
    digest: str | None
    size_bytes: int
    size_vram_bytes: int
    context_length: int | None
    expires_at: float | None
    family: str | None = None
    parameter_size: str | None = None
    quantization: str | None = None


def parse_server_version(body: bytes) -> ServerVersion:
    """Read the body of `GET /api/version`."""
    text = _text(_object(body).get("version"))
    if not text:
        raise BadAnswerError("the answer holds no version")
    return ServerVersion(text=text, numbers=parse_version(text))


def parse_loaded(body: bytes, *, now: float) -> tuple[LoadedModel, ...]:
    """Read the body of `GET /api/ps`. Entries without a name are left out. `now` is in seconds since 1970."""
    models = _object(body).get("models")
    if models is None:
        return ()
    if not isinstance(models, list) or len(models) > _MOST_MODELS:
        raise BadAnswerError("the answer holds no list of models")
    read = (_model(entry, now) for entry in models if isinstance(entry, dict))
    return tuple(model for model in read if model is not None)


def spilled(model: LoadedModel) -> int:
    """Return how many bytes of a model are not on a GPU."""
    return max(model.size_bytes - model.size_vram_bytes, 0)


def _object(body: bytes) -> dict[str, Any]:
    if len(body) > LONGEST_BODY:
        raise BadAnswerError("the answer is too long")
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        raise BadAnswerError("the answer is not JSON") from None
    if not isinstance(plain, dict):
        raise BadAnswerError("the answer is not a JSON object")
    return plain


def _model(entry: dict[str, Any], now: float) -> LoadedModel | None:
    name = _text(entry.get("name")) or _text(entry.get("model"))
    if not name:
        return None
    details = entry.get("details")
    if not isinstance(details, dict):
        details = {}
    expires_at = _epoch(entry.get("expires_at"))
    if expires_at is not None and expires_at - now > _FOR_EVER_S:
        expires_at = None
    return LoadedModel(
        name=name,
        digest=_text(entry.get("digest")),
        size_bytes=_count(entry.get("size")) or 0,
        size_vram_bytes=_count(entry.get("size_vram")) or 0,
        context_length=_count(entry.get("context_length")),
        expires_at=expires_at,
        family=_text(details.get("family")),
        parameter_size=_text(details.get("parameter_size")),
        quantization=_text(details.get("quantization_level")),
    )


def _text(value: Any) -> str | None:
    return value[:_LONGEST_TEXT] if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _LARGEST else None


def _epoch(value: Any) -> float | None:
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
