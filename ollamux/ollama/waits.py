"""How long ollama itself waits before it helps itself, as its environment says. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

SLACK_S = 60.0
"""ollama goes first: it ends a load that stalls, and answers whoever waits for it."""
_LOAD_TIMEOUT_S = 300.0
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d{1,12}(?:\.\d{0,9})?|\.\d{1,9})(ns|us|µs|ms|s|m|h)")


def load_patience_s(env: Iterable[tuple[str, str]]) -> float:
    """Return for how long a load may stand still before it hangs; infinite where ollama was told to wait for ever."""
    text = dict(env).get("OLLAMA_LOAD_TIMEOUT", "").strip().strip("\"'")
    wait = _duration_s(text) if text else None
    if wait is None:
        wait = _LOAD_TIMEOUT_S
    return wait + SLACK_S if wait > 0 else math.inf


def _duration_s(text: str) -> float | None:
    """Read a duration as ollama does: Go's form, else whole seconds; None for anything else."""
    sign = -1.0 if text.startswith("-") else 1.0
    body = text.lstrip("+-") if text[:1] in "+-" else text
    if body.isascii() and body.isdigit() and len(body) < 12:
        return sign * int(body)
    if not body or _PART.sub("", body):
        return None
    return sign * sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(body))
