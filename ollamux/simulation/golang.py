"""Write and read values as a Go program does: times, durations, quoted text, JSON, sizes. Pure but for the clock."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

SECOND = 1_000_000_000
FOREVER = (1 << 63) - 1
_UNITS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_PART = re.compile(r"([0-9]*\.?[0-9]*)(ns|us|µs|μs|ms|s|m|h)")
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


class GoError(ValueError):
    """An error with the very text that the Go library gives."""


def now_ns() -> int:
    """Return the wall clock in nanoseconds."""
    return time.time_ns()


def rfc3339(ns: int, *, utc: bool = False) -> str:
    """Write a time with as many digits of the second as it has, as RFC3339Nano does."""
    whole, fraction = divmod(ns, SECOND)
    digits = f".{fraction:09d}".rstrip("0").rstrip(".")
    try:
        moment = datetime.fromtimestamp(whole, UTC)
        moment = moment if utc else moment.astimezone()
    except (OverflowError, ValueError, OSError):
        moment = datetime.fromtimestamp(whole, UTC)
    offset = moment.strftime("%z")
    zone = "Z" if offset in ("+0000", "") else f"{offset[:3]}:{offset[3:]}"
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + digits + zone


def log_time(ns: int) -> str:
    """Write a time for a log line: milliseconds, always three digits."""
    text = rfc3339(ns - ns % 1_000_000)
    head, zone = text[:19], re.search(r"(Z|[+-]\d\d:\d\d)$", text)
    return f"{head}.{ns % SECOND // 1_000_000:03d}{zone.group(1) if zone else 'Z'}"


def duration_text(ns: int) -> str:
    """Write a duration as Go prints it: "1.5ms", "5m0s", "2562047h47m16.854775807s"."""
    if ns == 0:
        return "0s"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    for unit, size in (("ns", 1), ("µs", 1000), ("ms", 1_000_000)):
        if ns < size * 1000:
            return sign + _decimal(ns, size) + unit
    seconds = _decimal(ns % (60 * SECOND), SECOND) + "s"
    minutes = ns // (60 * SECOND)
    if minutes == 0:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return sign + (f"{hours}h" if hours else "") + f"{minutes}m{seconds}"


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    width = len(str(size)) - 1
    return f"{whole}.{rest:0{width}d}".rstrip("0").rstrip(".") if rest else str(whole)


def parse_duration(text: str) -> int:
    """Read a Go duration and return nanoseconds; raise GoError with Go's words."""
    body = text[1:] if text[:1] in ("-", "+") else text
    sign = -1 if text.startswith("-") else 1
    if body == "0":
        return 0
    total, at = 0.0, 0
    if not body:
        raise GoError(f"time: invalid duration {quote(text)}")
    while at < len(body):
        match = _PART.match(body, at)
        if match is None or match.group(1) in ("", "."):
            if re.fullmatch(r"[0-9]*\.?[0-9]+|[0-9]+\.?", body[at:]):
                raise GoError(f"time: missing unit in duration {quote(text)}")
            raise GoError(f"time: invalid duration {quote(text)}")
        total += float(match.group(1)) * _UNITS[match.group(2)]
        at = match.end()
    if total > FOREVER:
        raise GoError(f"time: invalid duration {quote(text)}")
    return sign * round(total)


def parse_bool(text: str, default: bool) -> bool:
    """Read a boolean variable: empty is the default, and any text that is none counts as true."""
    if not text:
        return default
    return text not in _FALSE


def parse_uint(text: str) -> int | None:
    """Read an unsigned integer, or None where it is none."""
    return int(text) if text.isascii() and text.isdigit() and int(text) < 1 << 64 else None


def quote(text: str) -> str:
    """Quote text as Go source does."""
    out = ['"']
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character in "\n\t\r":
            out.append({"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character])
        elif not character.isprintable():
            code = ord(character)
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}")
        else:
            out.append(character)
    return "".join([*out, '"'])


def log_value(value: object) -> str:
    """Write a value of a log line, quoted only where it must be."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if text and text.isprintable() and not any(c in text for c in ' ="'):
        return text
    return quote(text)


def to_json(value: Any) -> bytes:
    """Write JSON as Go does: no blanks, `<`, `>` and `&` escaped, plain numbers."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    for character, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(character, escape)
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    # Go writes small numbers in full down to 1e-6.
    text = re.sub(r"(?<=[:\[,])(\d)e-0([56])(?=[,}\]])", lambda m: "0." + "0" * (int(m[2]) - 1) + m[1], text)
    return text.encode("utf-8", "surrogateescape")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def binary_size(size: int) -> str:
    """Write bytes in binary units with one decimal: "23.5 GiB", "0 B"."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def decimal_size(size: int) -> str:
    """Write bytes in decimal units as the client's tables do: "5.2 GB", "320 KB"."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            value = size / factor
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{size} B"


def human_count(count: int) -> str:
    """Write a number of parameters: "8.2B", "152K"."""
    for unit, factor in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= factor:
            value = count / factor
            return (
                f"{value:.1f}{unit}" if unit in "TB" else f"{value:.0f}{unit}" if unit == "K" else f"{value:.2f}{unit}"
            )
    return str(count)
