"""Find what a log says of one load, from the end backwards: in the file, then in the copies that were rotated away.

A runner is known by its port, which no other living one has; so it makes no difference who followed the log when it was
loaded, or whether anybody did.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ollamux.ollama.account import Account, account_of, begins
from ollamux.system.files import open_plain

_LONGEST_LOAD = 1 << 20
"""A load writes some 20 kB; what lies between its lines are those of other requests."""
_MOST_COPIES = 64
_LONGEST_LINE = 64 * 1024
_PIECE = 1 << 20
_MOST_READ = 64 << 20
"""Of all files together: nobody searches for long."""


class Found(NamedTuple):
    """What a log says of a load; `begins`: the line is there with which it began, so that the rest may still come."""

    account: Account | None
    begins: bool


def find_account(path: str, *, port: int, blob: str) -> Found:
    """Return what the log at a path says of the load of a living runner."""
    left = _MOST_READ
    for number in range(_MOST_COPIES):
        try:
            with open(open_plain(_copy(path, number), os.O_RDONLY), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                at = _place(file.fileno(), size, max(0, size - left), port=port, blob=blob)
        except FileNotFoundError:
            break
        except OSError:
            continue
        if at is not None:
            return Found(account_of(_lines(path, number, at)), True)
        left -= size
        if left <= 0:
            break
    return Found(None, False)


def _copy(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path


def _place(fd: int, end: int, least: int, *, port: int, blob: str) -> int | None:
    """Return where the line begins that started the runner last. Read, not mapped: a log may be cut at any time."""
    while end > least:
        start = max(0, end - _PIECE)
        data = os.pread(fd, end - start + _LONGEST_LINE, start)
        at = _last(data, port, blob, is_whole=start == 0)
        if at is not None:
            return start + at
        end = start
    return None


def _last(data: bytes, port: int, blob: str, *, is_whole: bool) -> int | None:
    """Return where the last such line begins in a piece of a log, which may begin in the middle of another line."""
    at = len(data)
    while (at := data.rfind(f"--port {port}".encode(), 0, at)) >= 0:
        start = data.rfind(b"\n", 0, at) + 1
        line = data[start : start + _LONGEST_LINE].partition(b"\n")[0]
        if (start or is_whole) and begins(line.decode("utf-8", "replace"), port=port, blob=blob):
            return start
    return None


def _lines(path: str, number: int, at: int) -> Iterator[str]:
    """Return the lines from a place on, into the newer copies and the file itself."""
    left, rest = _LONGEST_LOAD, b""
    while number >= 0 and left > 0:
        try:
            with open(open_plain(_copy(path, number), os.O_RDONLY), "rb") as file:
                file.seek(at)
                data = file.read(left)
        except OSError:
            return
        left -= len(data)
        *whole, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace").rstrip("\r") for line in whole)
        number, at = number - 1, 0
