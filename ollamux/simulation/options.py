"""Read the options of a request with ollama's own complaints, and work out what a runner is to be given. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ollamux.simulation.golang import FOREVER, SECOND, GoError, parse_duration

_INTEGERS = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "num_predict", "seed", "top_k"),
    *("repeat_last_n", "draft_num_predict"),
)
_FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
_BOOLEANS = ("use_mmap", "numa")
AUTOMATIC = (None, -1)


class OptionError(Exception):
    """An option of the wrong type: a 500, as recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options that a runner is started with; None lets the server choose."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    num_predict: int = -1
    seed: int = 0

    def needs_reload(self, other: Options, *, batch: int) -> bool:
        """Say whether a runner started with these options cannot serve a request with the others.

        `batch` is the one it really has: who asks for just that changes nothing (server/sched.go at v0.32.15).
        """
        if self.num_batch is None and other.num_batch == batch:
            other = replace(other, num_batch=None)
        mine, theirs = self.num_gpu, other.num_gpu
        layers_differ = mine != theirs and not (theirs is None or theirs < 0)
        rest = ("num_ctx", "num_batch", "main_gpu", "use_mmap", "num_thread")
        return layers_differ or any(getattr(self, name) != getattr(other, name) for name in rest)


def read_options(params: dict[str, Any], asked: Any) -> Options:
    """Merge the model's own parameters with those of the request."""
    if asked is None:
        asked = {}
    if not isinstance(asked, dict):
        raise GoError(f"json: cannot unmarshal {json_kind(asked)} into Go struct field .options of type map[string]")
    merged = {**params, **asked}
    for name, value in merged.items():
        _check(name, value)
    known = {name: int(merged[name]) for name in _INTEGERS if merged.get(name) is not None}
    kept = {name: known[name] for name in Options.__slots__ if name in known}
    mapped = merged.get("use_mmap")
    return Options(**kept, use_mmap=mapped if isinstance(mapped, bool) else None)


def _check(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return
    if name in _INTEGERS and not is_number:
        raise OptionError(f'option "{name}" must be of type integer')
    if name in _FLOATS and not is_number:
        raise OptionError(f'option "{name}" must be of type float32')
    if name in _BOOLEANS and not isinstance(value, bool):
        raise OptionError(f'option "{name}" must be of type boolean')
    if name == "stop" and not isinstance(value, list):
        raise OptionError('option "stop" must be of type array')


def json_kind(value: Any) -> str:
    """Return what Go's JSON calls the kind of a value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    kinds: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def read_keep_alive(value: Any) -> int | None:
    """Read keep_alive: seconds, or a Go duration; negative is for ever, None is not said."""
    if value is None:
        return None
    if isinstance(value, bool | list | dict):
        raise GoError(f"json: unsupported type {json_kind(value)} for Duration")
    if isinstance(value, int | float):
        return FOREVER if value < 0 else min(FOREVER, round(value * SECOND))
    nanoseconds = parse_duration(value)
    return FOREVER if nanoseconds < 0 else nanoseconds
