"""How a field of the specification is called and written in TOML. Knows no file and no schema.

A field in seconds ends in `_s`, one in bytes in `_bytes`; the key has no suffix and the value has the unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

from ollamux.domain.spec import EVERY_CARD, InstanceSpec, PinSpec
from ollamux.domain.text import exact_duration, exact_size

FOR_EVER = -1
ANY = "any"

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def key_of(field: str) -> str:
    """Return the TOML key of a field."""
    return field.removesuffix("_s").removesuffix("_bytes")


def default_of(spec: type, field: str) -> object:
    """Return the default that the specification gives a field."""
    # `fields` wants a dataclass instance or type; every caller passes one of the specifications.
    default: object = {each.name: each.default for each in fields(spec)}[field]
    if default is MISSING:
        raise KeyError(field)
    return default


def written(field: str, value: object) -> Any:
    """Return a value as TOML holds it: durations and sizes with their unit, enumerations by their word."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and field.endswith("_s"):
        return FOR_EVER if value < 0 else exact_duration(value)
    if isinstance(value, int) and field.endswith("_bytes"):
        return exact_size(value)
    if field == "replicas" and value == EVERY_CARD:
        return "all"
    if field == "env" and isinstance(value, tuple):
        return dict(value)
    if isinstance(value, PinSpec) and value == PinSpec(name=value.name):
        return value.name
    if is_dataclass(value):
        return {
            key_of(each.name): written(each.name, said)
            for each in fields(value)
            if _is_said(each, said := getattr(value, each.name))
        }
    return [written("", each) for each in value] if isinstance(value, tuple) else value


def _is_said(field: Field[Any], value: object) -> bool:
    return value != (field.default_factory() if field.default_factory is not MISSING else field.default)


def gpus_of(spec: InstanceSpec) -> object:
    """Return what `gpus` says for an instance."""
    if spec.pinning.value == ANY:
        return ANY
    return [int(ref.value) if ref.kind.value == "index" else str(ref) for ref in spec.gpus]


def literal(value: object) -> str:
    """Write a value as TOML on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _quoted(value)
        case int() | float():
            return repr(value)
        case Mapping():
            pairs = (f"{name_literal(str(key))} = {literal(each)}" for key, each in value.items())
            return "{ " + ", ".join(pairs) + " }" if value else "{}"
        case Sequence():
            return "[" + ", ".join(map(literal, value)) + "]"
        case _:
            raise TypeError(f"TOML has no {type(value).__name__}")


def name_literal(name: str) -> str:
    """Write one part of a key, in quotes where it needs them."""
    return name if name and _BARE.issuperset(name) else _quoted(name)


def _quoted(text: str) -> str:
    escaped = json.dumps(text, ensure_ascii=False)
    if escaped.isprintable():
        return escaped
    return "".join(each if each.isprintable() else _escape(each) for each in escaped)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
