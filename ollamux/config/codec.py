"""Fleets as plain JSON values and back, so that they can be kept or sent. Generic over frozen dataclasses."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from ollamux.domain.spec import FleetSpec


def fleet_to_json(fleet: FleetSpec) -> dict[str, Any]:
    """Return a fleet as values that JSON can hold."""
    plain: dict[str, Any] = _encode(fleet)
    return plain


def fleet_from_json(plain: object) -> FleetSpec:
    """Return the fleet that `fleet_to_json` wrote; ValueError where it is anything else."""
    fleet: FleetSpec = _decode(FleetSpec, plain)
    return fleet


def _encode(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _encode(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [_encode(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def _decode(wanted: Any, plain: object) -> Any:
    hints = _hints(wanted)
    if not isinstance(plain, dict) or plain.keys() != hints.keys():
        raise ValueError(f"this is no {wanted.__name__}")
    return wanted(**{name: _value(hint, plain[name]) for name, hint in hints.items()})


@cache
def _hints(wanted: Any) -> dict[str, Any]:
    return get_type_hints(wanted)


def _value(hint: Any, plain: object) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        inner = [each for each in get_args(hint) if each is not type(None)]
        return None if plain is None else _value(inner[0], plain)
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), plain)
    if is_dataclass(hint) and isinstance(hint, type):
        return _decode(hint, plain)
    if issubclass(hint, Enum):
        return hint(plain)
    if type(plain) is not hint:
        raise ValueError(f"this is no {hint.__name__}")
    return plain


def _tuple(hints: tuple[Any, ...], plain: object) -> tuple[Any, ...]:
    if not isinstance(plain, list):
        raise ValueError("this is no list")
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(_value(hints[0], each) for each in plain)
    if len(plain) != len(hints):
        raise ValueError("this list is too short or too long")
    return tuple(_value(hint, each) for hint, each in zip(hints, plain, strict=True))
