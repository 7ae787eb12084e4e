"""The words of ollama for loading, keeping and letting go a model, and what its refusals mean. Pure."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from ollamux.domain.spec import PinSpec
from ollamux.domain.text import safe_text

GENERATE = "/api/generate"
EMBED = "/api/embed"
"""For models that only embed: they refuse the other one with 400."""
_NOT_GENERATING = b"does not support generate"


def load(pin: PinSpec) -> bytes:
    """Return the body that loads a model: without a prompt nothing is generated."""
    body: dict[str, Any] = {"model": pin.name}
    if pin.keep_alive_s is not None:
        body["keep_alive"] = -1 if pin.keep_alive_s < 0 else pin.keep_alive_s
    options = {each.name: getattr(pin.options, each.name) for each in fields(pin.options)}
    said = {"num_ctx": pin.num_ctx, **options}
    wanted = {name: value for name, value in said.items() if value is not None}
    return json.dumps({**body, "options": wanted} if wanted else body).encode()


def unload(name: str) -> bytes:
    """Return the body that unloads a model once nobody uses it."""
    return json.dumps({"model": name, "keep_alive": 0}).encode()


def only_embeds(status: int | None, body: bytes) -> bool:
    """Whether an answer says that the model is asked at the other path."""
    return status == 400 and _NOT_GENERATING in body


def is_missing(status: int | None, body: bytes) -> bool:
    """Whether an answer says that the model is not in the store."""
    return status == 404 and b"not found" in body


def error_of(status: int | None, body: bytes) -> str:
    """Return what an answer that is no success says."""
    try:
        return safe_text(str(json.loads(body)["error"]), limit=300)
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"answered with {status}"
