"""Where lines of logs come from: the log of an instance with its copies, and what the supervisor itself has to say."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable
from typing import Any, Protocol

from ollamux.cli import screen
from ollamux.cli.events import decoded, recorded
from ollamux.cli.loglines import Filter, Line, first_moment, timed, whole_lines
from ollamux.render.lines import event_line
from ollamux.render.words import epoch
from ollamux.supervisor.journal import FILE_NAME
from ollamux.system.clock import wall
from ollamux.system.files import open_plain
from ollamux.system.follow import LONGEST_LINE, Follower
from ollamux.system.logfile import rotated

OWN = "supervisor"
LOST = "[ollamux: lines may be missing here; the log was rotated more often than log_keep has copies for]"
_CHUNK = 256 * 1024
_TRIES = 5


class Source(Protocol):
    """A log. `behind`: there is more to read at once."""

    behind: bool

    def last(self, count: int, wanted: Filter, *, whole: bool) -> list[Line]:
        """Return the last lines that are wanted; with `whole` a line that is still being written is left for later."""

    def new(self, wanted: Filter) -> list[Line]:
        """Return the wanted lines that were completed since the last question."""


class InstanceLog:
    """The log of an instance; read once from its end backwards, then onwards."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.behind = False
        self._follower = Follower(path)
        self._at: float | None = None

    def last(self, count: int, wanted: Filter, *, whole: bool) -> list[Line]:
        """Return the last lines, looking back into copies as far as needed. One that is rotated meanwhile is redone."""
        found: list[Line] = []
        for _ in range(_TRIES):
            end = _end(self.path, whole=whole)
            self._follower = Follower(self.path, at=end)
            self._follower.begin()
            found = self._look_back(count, wanted, end)
            if self._follower.stays():
                break
        return found[-count:] if count else []

    def new(self, wanted: Filter) -> list[Line]:
        """Return what was written since; where something was lost a line says so."""
        texts = whole_lines(self._follower)
        self.behind = self._follower.behind
        found = list(timed(self.name, texts, self._at or wall()))
        if self._follower.take_lost():
            found.insert(0, Line(found[0].at if found else self._at or wall(), self.name, LOST))
        self._at = found[-1].at if found else self._at
        return [line for line in found if wanted.takes(line) or line.text == LOST]

    def _look_back(self, count: int, wanted: Filter, end: int) -> list[Line]:
        found: list[Line] = []
        files = [(self.path, end), *((f"{self.path}.{number}", None) for number in rotated(self.path))]
        for path, until in files:
            texts, modified = _tail(path, until, count, wanted)
            start = first_moment(texts) or modified
            lines = list(timed(self.name, texts, start))
            if lines and self._at is None:
                self._at = lines[-1].at
            found = [line for line in lines if wanted.takes(line)] + found
            if len(found) >= count:
                break
        return found


class SupervisorLog:
    """What a supervisor in the background has printed, which is little, and what it has recorded."""

    def __init__(self, path: str, state: str) -> None:
        self.behind = False
        self._printed = InstanceLog(OWN, path)
        self._record = Follower(f"{state}/{FILE_NAME}")

    def last(self, count: int, wanted: Filter, *, whole: bool) -> list[Line]:
        """Return the last of both, in order of time."""
        events, self._record = recorded(self._record.path)
        told = self._lines(events, wanted)
        found = [*heapq.merge(self._printed.last(count, wanted, whole=whole), told, key=lambda line: line.at)]
        return found[-count:] if count else []

    def new(self, wanted: Filter) -> list[Line]:
        """Return what has come to both."""
        told = self._lines(decoded(self._record), wanted)
        return [*heapq.merge(self._printed.new(wanted), told, key=lambda line: line.at)]

    def _lines(self, events: Iterable[dict[str, Any]], wanted: Filter) -> list[Line]:
        found = []
        for event in events:
            text = event_line(event, color=False, width=None, unicode=screen.unicode(os.environ), date=True)
            found.append(Line(epoch(event.get("time")) or 0.0, OWN, text))
        return [line for line in found if wanted.takes(line)]


def _end(path: str, *, whole: bool) -> int:
    """Return the size of a file; with `whole` without the line that is being written."""
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not whole:
                return size
            at = max(0, size - LONGEST_LINE)
            file.seek(at)
            newline = file.read(size - at).rfind(b"\n")
    except OSError:
        return 0
    return at + newline + 1 if newline >= 0 else (size if at else 0)


def _tail(path: str, until: int | None, count: int, wanted: Filter) -> tuple[list[str], float]:
    """Return enough whole lines from the end of a file to hold `count` wanted ones, or all, and when it was changed."""
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            found = os.fstat(file.fileno())
            at = found.st_size if until is None else min(until, found.st_size)
            data = b""
            while at > 0:
                step = min(_CHUNK, at)
                at -= step
                file.seek(at)
                data = file.read(step) + data
                plain = wanted.since == 0.0 and wanted.grep is None and wanted.probes
                if plain and data.count(b"\n") > count:
                    break
                if not plain and len(data) > 64 * _CHUNK:
                    break
    except OSError:
        return [], 0.0
    lines = data.decode("utf-8", "replace").split("\n")
    first = 1 if at > 0 else 0
    return lines[first:-1] if data.endswith(b"\n") or not data else lines[first:], found.st_mtime
