"""One entry of `preload`: the name of a model, or a table that says besides how it is loaded. Knows no other key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ollamux.config import rules, words
from ollamux.config.rules import Rule, Wrong, did_you_mean, kind
from ollamux.domain.spec import LoadOptions, PinSpec
from ollamux.domain.text import safe_text, same_model

CONTEXT = rules.integer(256, 16_777_216)
_OPTIONS: Mapping[str, Rule] = {
    "num_batch": rules.integer(1, 1 << 20),
    "num_gpu": rules.integer(0, 10_000),
    "main_gpu": rules.integer(0, 255),
    "num_thread": rules.integer(1, 4096),
    "use_mmap": rules.BOOLEAN,
}
_NOT_OF_A_LOAD = frozenset({
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "stop", "num_predict", "num_keep"),
    "repeat_last_n",
    *("repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta"),
})  # fmt: skip


def _kept(value: object) -> float:
    seconds: float = words.KEEP_ALIVE.check(value)
    if seconds == 0:
        raise Wrong("must not be 0: the model would be unloaded at once", "-1 keeps it for ever")
    return seconds


KEPT = Rule(check=_kept, schema=words.KEEP_ALIVE.schema, says="-1 for ever, or a duration")


def _options(value: object) -> LoadOptions:
    return LoadOptions(**_table(value, _OPTIONS, "options", _unknown_option))


def _unknown_option(name: str) -> str:
    if name == "num_ctx":
        return "it stands beside options, not in it"
    if name in _NOT_OF_A_LOAD:
        return "it belongs to each request, and changes nothing about how a model is loaded"
    return did_you_mean(name, list(_OPTIONS)) or f"known here: {', '.join(_OPTIONS)}"


_KEYS: Mapping[str, Rule] = {
    "name": words.MODEL,
    "num_ctx": CONTEXT,
    "keep_alive": KEPT,
    "options": Rule(check=_options, schema={}, says="table"),
}


def _unknown_key(name: str) -> str:
    if name in _OPTIONS:
        return f"it belongs in options = {{ {name} = … }}"
    if name in ("context_length", "ctx", "context"):
        return 'did you mean "num_ctx"?'
    return did_you_mean(name, list(_KEYS)) or f"known here: {', '.join(_KEYS)}"


def _table(value: object, known: Mapping[str, Rule], what: str, unknown: Callable[[str], str]) -> dict[str, Any]:
    """Return what a table says, or raise everything that is wrong with it as one."""
    if not isinstance(value, dict):
        raise Wrong(f"{what} must be a table, not {kind(value)}")
    found: dict[str, Any] = {}
    wrong: list[Wrong] = []
    for name, each in value.items():
        if name not in known:
            wrong.append(Wrong(f"{what}: unknown key {safe_text(name, limit=40)}", unknown(name)))
            continue
        try:
            found[name] = known[name].check(each)
        except Wrong as error:
            inner = error.message if name == "options" else f"{name} {error.message}"
            wrong.append(Wrong(inner, error.hint))
    if wrong:
        hints = dict.fromkeys(error.hint for error in wrong if error.hint is not None)
        raise Wrong("; ".join(error.message for error in wrong), "; ".join(hints) or None)
    return found


def _entry(value: object) -> PinSpec:
    if isinstance(value, str):
        return PinSpec(name=words.MODEL.check(value))
    if not isinstance(value, dict):
        raise Wrong(
            f'must be the name of a model, or a table as {{ name = "qwen3:8b", num_ctx = 16384 }}, not {kind(value)}'
        )
    said = _table(value, _KEYS, "preload", _unknown_key)
    if "name" not in said:
        raise Wrong("name is missing: which model?", 'as { name = "qwen3:8b", num_ctx = 16384 }')
    if "keep_alive" in said:
        said["keep_alive_s"] = said.pop("keep_alive")
    return PinSpec(**said)


def _object(properties: Mapping[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties), "required": required}


_SCHEMA = {
    "anyOf": [
        dict(words.MODEL.schema),
        _object(
            {
                **{name: dict(rule.schema) for name, rule in _KEYS.items()},
                "options": _object({name: dict(rule.schema) for name, rule in _OPTIONS.items()}, []),
            },
            ["name"],
        ),
    ]
}
ENTRY = Rule(check=_entry, schema=_SCHEMA, says="model name or table")
LIST_SCHEMA = {
    "type": "array",
    "items": dict(_SCHEMA),
    "$comment": "list of model names, or of tables `{ name, num_ctx, keep_alive, options }`",
}


def pins(value: object, each: Callable[[object], tuple[PinSpec, ...]]) -> tuple[PinSpec, ...]:
    """Return what `each` makes of the list; one model in it twice would be loaded in turn in both ways."""
    found = each(value)
    for number, pin in enumerate(found):
        if any(same_model(pin.name, other.name) for other in found[:number]):
            raise Wrong(f"{pin.name} is named twice", "an instance has a model loaded in one way at a time")
    return found
