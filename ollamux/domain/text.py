"""Durations, sizes and untrusted text: how they are written and how they are read."""

from __future__ import annotations

_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_SIZE_UNITS = {
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}
LONGEST_S = 365 * 86400.0
LARGEST_BYTES = 1 << 50

DURATION_RULE = 'an integer and ms, s, m or h, as in "30s"'
SIZE_RULE = 'a number and KiB, MiB, GiB, KB, MB or GB, as in "1.5GiB"'


def parse_duration(text: str) -> float | None:
    """Return the seconds that a duration such as "30s" stands for, or None where it is none."""
    for unit in ("ms", "s", "m", "h"):
        if text.endswith(unit):
            digits = text[: -len(unit)]
            if digits.isascii() and digits.isdigit() and len(digits) <= 12:
                seconds = int(digits) * _UNIT_MS[unit] / 1000
                return seconds if seconds <= LONGEST_S else None
            return None
    return None


def parse_size(text: str) -> int | None:
    """Return the bytes that a size such as "1.5GiB" stands for, or None where it is none."""
    for unit, factor in _SIZE_UNITS.items():
        if text.endswith(unit):
            whole, dot, fraction = text[: -len(unit)].strip().partition(".")
            if not _digits(whole) or (dot and not _digits(fraction)):
                return None
            size = round(float(f"{whole}.{fraction or 0}") * factor)
            return size if size <= LARGEST_BYTES else None
    return None


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


def format_duration(seconds: float) -> str:
    """Write a duration for people, at most two units: "0.4 s", "12 s", "3 min 5 s", "3 h 2 min", "3 d 4 h"."""
    if seconds < 0:
        seconds = 0.0
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    for unit, size, small, small_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def exact_duration(seconds: float) -> str:
    """Write a duration so that `parse_duration` reads it back, in the largest unit that is exact."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return "0s" if milliseconds == 0 else f"{milliseconds}ms"


def exact_size(size: int) -> str:
    """Write a size so that `parse_size` reads it back, in the largest unit that is exact."""
    if size == 0:
        return "0GiB"
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "KB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size / 1024!r}KiB"


def format_gib(size: int | None) -> str:
    """Write bytes as GiB with one decimal, without the unit; a dash where unknown."""
    return "–" if size is None else f"{size / 1024**3:.1f}"


def format_size(size: int) -> str:
    """Write bytes for people, in the binary unit that gives one to four digits."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def full_name(name: str) -> str:
    """Return a model's name with its tag: `x` and `x:latest` are one."""
    last = name.rpartition("/")[2]
    return name if ":" in last else f"{name}:latest"


def same_model(one: str, other: str) -> bool:
    """Say whether two names mean one model. Ollama takes names without regard to case."""
    return full_name(one).lower() == full_name(other).lower()


_BIDI_AND_INVISIBLE = frozenset({
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
    *range(0x180B, 0x1810),
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xFFF9, 0xFFFC),
    *range(0x1BCA0, 0x1BCA4),
    *range(0x1D173, 0x1D17B),
    *range(0xE0000, 0xE1000),
})  # fmt: skip


def safe_text(text: str, *, limit: int | None = None) -> str:
    r"""Make text from outside safe to print: control, bidi and invisible characters become visible escapes.

    Model names, log lines and answers of servers may hold terminal escapes; rich lets them through. `limit` cuts to
    that many characters, the last of which is then an ellipsis.
    """
    if not text.isascii() or not text.isprintable():
        text = "".join(map(_visible, text))
    if limit is not None and len(text) > limit:
        text = (text[: max(limit - 1, 0)] + "…")[:limit]
    return text


def _visible(character: str) -> str:
    code = ord(character)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return f"\\x{code:02x}"
    if code in _BIDI_AND_INVISIBLE or 0xD800 <= code < 0xE000:
        return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
    return character
