"""Lines of logs: when each was written, which are shown, and how those of several instances become one text."""

from __future__ import annotations

import heapq
import os
import re
import time
from calendar import timegm
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ollamux.cli import screen
from ollamux.domain.text import safe_text
from ollamux.render.cells import cut
from ollamux.render.lines import log_prefix
from ollamux.system.follow import Follower

_SLOG = re.compile(r"time=(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
_GIN = re.compile(r"\[GIN\] (\d{4})/(\d\d)/(\d\d) - (\d\d:\d\d:\d\d)")
_OUR_PROBE = re.compile(r'^\[GIN\] .*\| +(?:127\.0\.0\.1|::1) \| GET +"/api/(?:version|ps)"\s*$')
_OUR_CANARY = re.compile(r'^\[GIN\] .*\| POST +"/api/(?:generate|show)\?ollamux=canary"\s*$')
_COARSE_S = 2.0
"""Requests are stamped to the second, all else more finely: so far back a line may seem to go."""


class Line(NamedTuple):
    """A line with the moment it was written: its own, or that of the last line before it that has one."""

    at: float
    name: str
    text: str


def _is_our_probe(text: str) -> bool:
    return _OUR_PROBE.match(text) is not None or _OUR_CANARY.match(text) is not None


class Filter(NamedTuple):
    """Which lines are shown."""

    since: float
    grep: re.Pattern[str] | None
    probes: bool

    def takes(self, line: Line) -> bool:
        """Say whether a line is shown."""
        if line.at < self.since or (not self.probes and _is_our_probe(line.text)):
            return False
        return self.grep is None or self.grep.search(line.text) is not None


def whole_lines(follower: Follower) -> list[str]:
    """Return the lines that were completed since the last look."""
    return [line.decode("utf-8", "replace") for line in follower.lines()]


def timed(name: str, lines: Iterable[str], start: float) -> Iterator[Line]:
    """Give each line its moment: a line without one, as runners write them, belongs to the line before it.

    Those before the first that tells one get `start`.
    """
    at = start
    for text in lines:
        told = _moment(text)
        if told is not None and not at - _COARSE_S < told < at:
            at = told
        yield Line(at, name, text)


def first_moment(lines: Iterable[str]) -> float | None:
    """Return when the first line that tells it was written."""
    return next((told for told in map(_moment, lines) if told is not None), None)


def _moment(text: str) -> float | None:
    """Return when a line says it was written, in seconds since 1970."""
    match = _SLOG.search(text)
    if match is not None:
        whole = timegm(time.strptime(f"{match[1]} {match[2]}", "%Y-%m-%d %H:%M:%S")) + float(match[3] or 0)
        if match[4] == "Z":
            return whole
        sign = 1 if match[4][0] == "+" else -1
        return whole - sign * (int(match[4][1:3]) * 3600 + int(match[4][4:6]) * 60)
    match = _GIN.match(text)
    if match is not None:
        local = time.strptime(f"{match[1]}-{match[2]}-{match[3]} {match[4]}", "%Y-%m-%d %H:%M:%S")
        return time.mktime(local)
    return None


class MergedLines:
    """Collects lines of several instances and prints them in order, cut to `width` columns where it is given."""

    def __init__(self, names: list[str], *, width: int | None = None) -> None:
        env = os.environ
        self._width = width
        self._mark = "…" if screen.unicode(env) else "..."
        color, unicode = screen.color(env), screen.unicode(env)
        self._prefixes = {name: log_prefix(name, names, color=color, unicode=unicode) for name in names}
        self._indent = max(map(len, names), default=0) + 3
        self._parts: list[list[Line]] = []

    def add(self, lines: list[Line]) -> None:
        """Take lines of one instance, in order."""
        if lines:
            self._parts.append(lines)

    def flush(self) -> None:
        """Print what was taken, in order of time."""
        parts, self._parts = self._parts, []
        merged = heapq.merge(*parts, key=lambda line: line.at)
        text = "".join(f"{self._prefixes[line.name]}{self._fit(line)}\n" for line in merged)
        if text:
            screen.say(text)

    def _fit(self, line: Line) -> str:
        text = safe_text(line.text)
        if self._width is None:
            return text
        return cut(text, max(self._width - self._indent, 20), self._mark)
