"""What the terminal, or whatever stands in its place, can show. Light: the hot commands use it."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in ollamux.protocol.client
if TYPE_CHECKING:
    from collections.abc import Mapping

_POLL_ERROR = 0x008
"""POLLERR: what a pipe reports whose reader went away (poll(2))."""
_SET_BY_PYTHON = ("C.UTF-8", "C.utf8", "UTF-8")
_gone: set[int] = set()
"""Descriptors whose reader went away."""


def is_terminal(fd: int = 1) -> bool:
    """Whether a descriptor is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def is_drawable(env: Mapping[str, str]) -> bool:
    """Whether lines can be drawn over: on a terminal that knows how to move its cursor."""
    return env.get("TERM", "dumb") not in ("", "dumb") and is_terminal()


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
    return not env.get("NO_COLOR") and is_drawable(env)


def unicode(env: Mapping[str, str]) -> bool:
    """Whether the locale shows more than ASCII.

    Python itself sets LC_CTYPE to one of three where there is no locale, as under cron, or one that is not installed
    (PEP 538): it tells nothing about the terminal.
    """
    kind = env.get("LC_CTYPE", "")
    named = env.get("LC_ALL") or ("" if kind in _SET_BY_PYTHON else kind) or env.get("LANG") or ""
    return "utf-8" in named.lower() or "utf8" in named.lower()


def say(text: str, fd: int = 1) -> None:
    """Write text for people: in ASCII where the locale shows no more."""
    if not text.isascii() and not unicode(os.environ):
        from ollamux.render.pen import ascii_text

        text = ascii_text(text)
    write(text, fd)


def say_beside(head: str, text: str, fd: int = 1) -> None:
    """Write a line for people; on a terminal `text` is wrapped by words, and goes on below its own beginning."""
    if is_terminal(fd):
        from ollamux.render.cells import cells, wrap
        from ollamux.render.pen import ascii_text

        text = text if unicode(os.environ) else ascii_text(text)
        columns = width(os.environ)
        narrow = cells(head) > columns // 2
        indent = 4 if narrow else cells(head)
        lines = ["".join(part for part, _ in line) for line in wrap(((text, ""),), columns - indent)]
        text = ("\n" + " " * indent).join(["", *lines] if narrow else lines)
    say(f"{head}{text}\n", fd)


def write(text: str, fd: int = 1) -> None:
    """Write a whole text; a reader that went away is no error. Raises OllamuxError where it cannot be written.

    What cannot be told on standard error is lost: there is no other place to tell it.
    """
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        hush(fd)
    except OSError as error:
        if fd == 2:
            return
        from ollamux.domain.errors import OllamuxError

        raise OllamuxError(f"the output could not be written: {error.strerror}") from None


def is_read(fd: int = 1) -> bool:
    """Whether anybody can still read what is written: a pipe into `head` ends, and who follows a log has to notice."""
    if fd in _gone:
        return False
    import select

    poll = select.poll()
    poll.register(fd, 0)
    return not any(found & _POLL_ERROR for _, found in poll.poll(0))


def hush(fd: int) -> None:
    """Lead the descriptor nowhere: what else is written there, the interpreter's last words too, is no error."""
    _gone.add(fd)
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)
    if fd == 1:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - stands in for the interpreter's own
