"""The file of what loads were measured to take: read and written as a whole. What it means is not known here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

from ollamux.domain.calibration import MOST_LOADS, MeasuredLoad, Share
from ollamux.domain.text import safe_text
from ollamux.system.files import read_bounded, write_atomic

FILE_NAME = "measured.json"
SCHEMA = 1
_LARGEST = 4 << 20
_LARGEST_NUMBER = 1 << 53
_LONGEST_TEXT = 400
_MOST_SHARES = 64
_Value = TypeVar("_Value", MeasuredLoad, Share)


def read(folder: str) -> tuple[tuple[MeasuredLoad, ...], str | None]:
    """Return the measurements, the newest last, and in plain words why a file that is there could not be read."""
    path = f"{folder}/{FILE_NAME}"
    data = read_bounded(path, _LARGEST)
    if data is None:
        return (), f"{path} cannot be read, or is no plain file of a believable size" if os.path.lexists(path) else None
    try:
        plain = json.loads(data)
        if plain["schema"] != SCHEMA:
            return (), f"{path} was written by another version (schema {safe_text(str(plain['schema']), limit=20)})"
        return tuple(_load(row) for row in plain["loads"])[-MOST_LOADS:], None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return (), f"{path} is damaged, or was written by something else"


def write(folder: str, loads: Sequence[MeasuredLoad]) -> None:
    """Write them. Raises OSError."""
    plain = {"schema": SCHEMA, "loads": [asdict(load) for load in loads]}
    write_atomic(f"{folder}/{FILE_NAME}", json.dumps(plain).encode())


def is_sound(load: MeasuredLoad) -> bool:
    """Whether it can be read again once it is written: some of it is what others say, and may be anything."""
    try:
        return _load(json.loads(json.dumps(asdict(load)))) == load
    except (ValueError, LookupError, TypeError):
        return False


def put_aside(folder: str) -> str:
    """Put away a file that cannot be read, so that it is not lost; say where it went."""
    path = f"{folder}/{FILE_NAME}"
    try:
        os.replace(path, f"{path}.bad")
    except OSError as error:
        return f"nor can it be put aside ({error.strerror})"
    return f"it was put aside as {path}.bad"


def _load(row: dict[str, Any]) -> MeasuredLoad:
    shares = row["shares"]
    if not isinstance(shares, list) or not 1 <= len(shares) <= _MOST_SHARES:
        raise ValueError("no shares")
    return _checked(MeasuredLoad, row | {"shares": tuple(_checked(Share, share) for share in shares)})


def _checked(kind: type[_Value], row: dict[str, Any]) -> _Value:
    """Return a value whose parts are of the kinds that they should be; what is not known is left out."""
    found: dict[str, Any] = {}
    for field in fields(kind):
        value = row[field.name]
        wanted = str(field.type)
        good = value is None and wanted.endswith("None")
        good |= wanted == "str" and isinstance(value, str) and len(value) <= _LONGEST_TEXT and _is_writable(value)
        good |= wanted == "bool" and isinstance(value, bool)
        good |= wanted.startswith("int") and type(value) is int and 0 <= value < _LARGEST_NUMBER
        good |= wanted.startswith("tuple") and isinstance(value, tuple)
        if not good:
            raise ValueError(field.name)
        found[field.name] = value
    return kind(**found)


def _is_writable(text: str) -> bool:
    """Whether it can be written again: JSON can name half a character, which no file takes."""
    text.encode()
    return True
