"""Plain lines on standard output, one per event, for whoever runs the supervisor in the foreground without a terminal.

Writing must never hold the supervisor up: a reader that stops reading loses lines, a closed pipe ends the talking.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from typing import Any

from ollamux.render.lines import event_line
from ollamux.system.loop import Loop

_MOST_UNWRITTEN = 64 * 1024
_PIECE = 512
"""POSIX promises that a writable pipe takes this much without blocking."""


class Console:
    """Writes events to a descriptor without ever blocking on it."""

    def __init__(self, loop: Loop, fd: int, *, unicode: bool) -> None:
        self._loop = loop
        self._fd = fd
        self._unicode = unicode
        self.name_width = 0
        self.unwritten = b""
        self._closed = False
        self._planned = False

    def event(self, event: Mapping[str, Any]) -> None:
        """Say what happened."""
        line = event_line(event, color=False, width=None, unicode=self._unicode, name_width=self.name_width)
        self.say(line)

    def say(self, line: str) -> None:
        """Write a line, soon."""
        data = line.encode("utf-8" if self._unicode else "ascii", "replace") + b"\n"
        if not self._closed and len(self.unwritten) + len(data) <= _MOST_UNWRITTEN:
            self.unwritten += data
            self.flush()

    def flush(self) -> None:
        """Write what can be written now."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self.unwritten and not self._closed:
            ready = poll.poll(0)
            if not ready:
                self._later()
                return
            try:
                self.unwritten = self.unwritten[os.write(self._fd, self.unwritten[:_PIECE]) :]
            except BlockingIOError:
                self._later()
                return
            except OSError:
                self._closed = True

    def _later(self) -> None:
        if not self._planned:
            self._planned = True
            self._loop.call_later(0.2, self._again)

    def _again(self) -> None:
        self._planned = False
        self.flush()
