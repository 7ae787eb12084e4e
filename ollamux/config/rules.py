"""What a single value may be: check, words and JSON Schema of each kind of value in one place. Knows no key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ollamux.domain.text import (
    DURATION_RULE,
    LARGEST_BYTES,
    LONGEST_S,
    SIZE_RULE,
    exact_duration,
    exact_size,
    parse_duration,
    parse_size,
)

DURATION_PATTERN = "^[0-9]{1,12}(ms|s|m|h)$"
SIZE_PATTERN = r"^\s*[0-9]{1,15}(\.[0-9]{1,15})?\s*(KiB|MiB|GiB|KB|MB|GB)$"

_DURATION_LIKE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]*)")
_SECONDS = {
    "": 1.0,
    **dict.fromkeys(("ms", "msec", "millis", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_SIZE_LIKE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmg])(?:i?b?|i?bytes?)")


class Wrong(ValueError):  # noqa: N818 - it reads as what it says: raise Wrong("must be …")
    """A value is not what it must be: the rule it breaks, and the way out where one can be guessed."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A kind of value: `check` returns the value for the specification or raises Wrong; `says` is for the reference."""

    check: Callable[[object], Any]
    schema: Mapping[str, Any]
    says: str


def kind(value: object) -> str:
    """Name the kind of a TOML value for people."""
    names = {bool: "true or false", int: "a whole number", float: "a decimal number", str: "text"}
    names |= {list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def did_you_mean(word: str, known: list[str]) -> str | None:
    """Return a hint with the closest known word, or None."""
    import difflib  # only where something is wrong

    folded = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f'did you mean "{folded[close[0]]}"?' if close else None


def integer(low: int, high: int) -> Rule:
    """A whole number between two bounds."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            quoted = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
            hint = f"write it without quotes: {value}" if quoted else None
            raise Wrong(f"must be a whole number, not {kind(value)}", hint)
        if not low <= value <= high:
            raise Wrong(f"must be between {low} and {high}")
        return value

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Rule(check=check, schema=schema, says=f"whole number, {low} to {high}")


def number(low: float, high: float) -> Rule:
    """A number between two bounds, with or without decimals."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong(f"must be a number, not {kind(value)}")
        if not low <= value <= high:  # false for nan, too
            raise Wrong(f"must be between {low:g} and {high:g}")
        return float(value)

    schema = {"type": "number", "minimum": low, "maximum": high}
    return Rule(check=check, schema=schema, says=f"number, {low:g} to {high:g}")


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        word = value.lower() if isinstance(value, str) else str(value) if isinstance(value, int) else ""
        meant = {"true": "true", "yes": "true", "on": "true", "1": "true"} | dict.fromkeys(
            ("false", "no", "off", "0"), "false"
        )
        hint = f"write {meant[word]}, without quotes" if word in meant else None
        raise Wrong(f"must be true or false, not {kind(value)}", hint)
    return value


BOOLEAN = Rule(check=_boolean, schema={"type": "boolean"}, says="true or false")


def choice(words: type[Enum]) -> Rule:
    """One word of an enumeration."""
    known = [str(each.value) for each in words]
    rule = one_of(*known)
    return Rule(check=lambda value: words(rule.check(value)), schema=rule.schema, says=rule.says)


def one_of(*words: str) -> Rule:
    """One of a few words."""
    listed = ", ".join(f'"{each}"' for each in words)

    def check(value: object) -> str:
        if not isinstance(value, str):
            raise Wrong(f"must be one of {listed}, not {kind(value)}")
        if value not in words:
            raise Wrong(f"must be one of {listed}", did_you_mean(value, list(words)))
        return value

    return Rule(check=check, schema={"type": "string", "enum": list(words)}, says=f"one of {listed}")


def duration(*, zero: str | None = None) -> Rule:
    """A time such as "30s"; `zero` says what "0s" stands for, where it may stand at all."""

    def check(value: object) -> float:
        if not isinstance(value, str):
            hint = f'write "{value}s"' if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
            raise Wrong(f"must be a duration in quotes, not {kind(value)}", hint or DURATION_RULE)
        seconds = parse_duration(value)
        if seconds is None:
            raise _not_a_duration(value)
        if seconds == 0 and zero is None:
            raise Wrong("must be longer than 0s")
        return seconds

    says = f"duration, {'0s' if zero else '1ms'} to {exact_duration(LONGEST_S)}" + (f'; "0s": {zero}' if zero else "")
    schema = {"type": "string", "pattern": DURATION_PATTERN}
    if zero is None:
        schema["pattern"] = "^0{0,11}[1-9][0-9]{0,11}(ms|s|m|h)$"
    return Rule(check=check, schema=schema, says=says)


def _not_a_duration(text: str) -> Wrong:
    if re.fullmatch(DURATION_PATTERN[1:-1], text):
        return Wrong(f"must be at most {exact_duration(LONGEST_S)}, which is a year")
    if text.lstrip().startswith("-"):
        return Wrong("must not be negative", DURATION_RULE)
    parts = _DURATION_LIKE.findall(text.lower())
    clean = "".join(text.lower().split()) == "".join("".join(part) for part in parts)
    if clean and parts and all(unit in _SECONDS for _, unit in parts):
        seconds = sum(float(amount) * _SECONDS[unit] for amount, unit in parts)
        if 0.001 <= seconds <= LONGEST_S:
            return Wrong(f"must be a duration, {DURATION_RULE}", f'did you mean "{exact_duration(seconds)}"?')
    return Wrong(f"must be a duration, {DURATION_RULE}")


def size(low: int, *, zero: str | None = None) -> Rule:
    """An amount of memory or disk such as "1.5GiB"; `zero` says what "0GiB" stands for, where it may stand."""

    def check(value: object) -> int:
        if not isinstance(value, str):
            is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_BYTES
            hint = f'write "{exact_size(value)}"' if is_count and isinstance(value, int) and value % 1024 == 0 else None
            raise Wrong(f"must be a size in quotes, not {kind(value)}", hint or SIZE_RULE)
        amount = parse_size(value)
        if amount is None:
            raise _not_a_size(value)
        if amount < low and not (amount == 0 and zero):
            raise Wrong(f"must be at least {exact_size(low)}" + (f', or "0GiB": {zero}' if zero else ""))
        return amount

    says = f"size, {exact_size(low)} or more" + (f'; "0GiB": {zero}' if zero else "")
    return Rule(check=check, schema={"type": "string", "pattern": SIZE_PATTERN}, says=says)


def _not_a_size(text: str) -> Wrong:
    if re.fullmatch(SIZE_PATTERN[1:-1], text):
        return Wrong(f"must be at most {exact_size(LARGEST_BYTES)}")
    like = _SIZE_LIKE.fullmatch(text.strip().lower())
    hint = f'did you mean "{like[1]}{like[2].upper()}iB"?' if like else None
    return Wrong(f"must be a size, {SIZE_RULE}", hint)
