"""What a terminal sends when keys are pressed, as names: "up", "escape", or the character itself. Pure."""

from __future__ import annotations

import re

_SEQUENCES = {
    b"A": "up", b"B": "down", b"H": "home", b"F": "end", b"C": "right", b"D": "left",
    b"1~": "home", b"7~": "home", b"4~": "end", b"8~": "end", b"5~": "page-up", b"6~": "page-down", b"3~": "delete",
}  # fmt: skip
_CONTROLS = {0x0A: "enter", 0x0D: "enter", 0x7F: "backspace", 0x08: "backspace", 0x15: "ctrl-u", 0x0C: "ctrl-l"}
_SEQUENCE = re.compile(rb"\x1b(?:\[|O)([0-9;?]*[A-Za-z~])")
_BEGUN = re.compile(rb"\x1b(?:(?:\[|O)[0-9;?]*)?")
_LONGEST_SEQUENCE = 32


def keys(data: bytes, *, whole: bool = False) -> tuple[list[str], bytes]:
    """Return the keys and what is left: the beginning of a longer one, unless it is known to be whole.

    A key without a name here is "unknown key".
    """
    found: list[str] = []
    while data:
        if data[0] == 0x1B:
            sequence = _SEQUENCE.match(data)
            begun = _BEGUN.fullmatch(data)
            if sequence is not None:
                found.append(_SEQUENCES.get(sequence[1], "unknown key"))
                data = data[sequence.end() :]
            elif begun is not None and not whole and len(data) < _LONGEST_SEQUENCE:
                break
            else:
                found.append("escape")
                data = b"" if begun is not None else data[1:]
            continue
        size = _length(data[0])
        if len(data) < size and not whole:
            break
        if data[0] < 0x20 or data[0] == 0x7F:
            found.append(_CONTROLS.get(data[0], "unknown key"))
        else:
            found.append(data[:size].decode(errors="replace")[:1])
        data = data[size:]
    return found, data


def _length(first: int) -> int:
    """Return how many bytes a character takes that begins so (UTF-8)."""
    return 1 if first < 0xC0 or first > 0xF7 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
