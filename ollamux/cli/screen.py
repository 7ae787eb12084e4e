"""What the terminal, or whatever stands in its place, can show. Light: the hot commands use it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping


def is_terminal(fd: int = 1) -> bool:
    """Whether a descriptor is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def width(env: Mapping[str, str]) -> int:
    """Return the columns to draw in: the terminal's, else `COLUMNS`, else 80."""
    columns = env.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and 0 < int(columns) < 10000:
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def color(env: Mapping[str, str]) -> bool:
    """Whether to use colour: on a terminal that knows it, unless `NO_COLOR` is set (no-color.org)."""
    return not env.get("NO_COLOR") and env.get("TERM", "dumb") not in ("", "dumb") and is_terminal()


def unicode(env: Mapping[str, str]) -> bool:
    """Whether the locale shows more than ASCII.

    LC_CTYPE=C.UTF-8 alone is what Python itself sets where there was no locale at all (PEP 538), as under cron.
    """
    named = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    if named == "C.UTF-8" and not env.get("LC_ALL") and env.get("LANG", "") in ("", "C", "POSIX"):
        return False
    return "utf-8" in named.lower() or "utf8" in named.lower()


def write(text: str, fd: int = 1) -> None:
    """Write a whole text; a reader that went away is no error."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        hush()


def hush() -> None:
    """Keep the interpreter from complaining, at exit, about a pipe whose reader went away."""
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - stands in for the interpreter's own
