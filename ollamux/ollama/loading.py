"""The words of ollama for loading, keeping and letting go a model, and what its refusals mean. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

from ollamux.domain.spec import LoadOptions, PinSpec
from ollamux.domain.text import safe_text

GENERATE = "/api/generate"
EMBED = "/api/embed"
"""For models that only embed: they refuse the other one with 400."""
USUAL_S = 300.0
"""How long ollama keeps a model that is not used, where nothing else is set."""
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


def kept_for(left_s: float | None, usual_s: float | None) -> float | None:
    """Return the keep_alive of a model of which so many seconds are left, None where it is the server's usual one.

    `left_s` is None for ever, `usual_s` for what ollama itself takes.
    """
    usual = USUAL_S if usual_s is None else usual_s
    if left_s is None:
        return None if usual < 0 else -1.0
    return None if usual < 0 or left_s <= usual else float(round(left_s))


def options_told(arguments: Sequence[str]) -> LoadOptions:
    """Return the options that a runner's arguments tell; runners before 0.30 tell none.

    Of a batch only one that ollama would not choose by itself for that context is an option.
    """
    told = {name: value for name, value in pairwise(arguments) if value.isascii() and value.isdigit()}
    layers, threads, batch = (int(told[name]) if name in told else None for name in ("-ngl", "-t", "-b"))
    context = int(told.get("-c", 0)) // max(1, int(told.get("-np", 1)))
    usual = 512 if context <= 4096 else 1024 if context <= 32768 else 2048
    return LoadOptions(num_gpu=layers, num_thread=threads, num_batch=None if batch == usual else batch)


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
