"""`ollamux logs`: what the servers wrote, of all instances in order of time, each line behind its instance's name."""

from __future__ import annotations

import heapq
import os
import re
import time
from calendar import timegm
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from ollamux.cli import screen
from ollamux.cli.names import require_known
from ollamux.cli.target import simulation_meant, way_to_records
from ollamux.domain.errors import DeniedError, Exit, NotFoundError, UsageError
from ollamux.domain.text import parse_duration, safe_text
from ollamux.render.cells import cut
from ollamux.render.lines import log_prefix
from ollamux.system.clock import wall
from ollamux.system.logfile import Follower
from ollamux.system.places import log_dir

_POLL_S = 0.2
_CHUNK = 256 * 1024
_SLOG = re.compile(r"time=(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
_GIN = re.compile(r"\[GIN\] (\d{4})/(\d\d)/(\d\d) - (\d\d:\d\d:\d\d)")
_OUR_PROBE = re.compile(r'^\[GIN\] .*\| +(?:127\.0\.0\.1|::1) \| GET +"/api/(?:version|ps)"\s*$')
_OUR_CANARY = re.compile(r'^\[GIN\] .*\| POST +"/api/(?:generate|show)\?ollamux=canary"\s*$')
_LOG_SUFFIX = ".log"
_OWN_LOG = "supervisor.log"


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


def logs(
    names: list[str] | None,
    *,
    follow: bool,
    lines: int,
    since: str | None,
    grep: str | None,
    probes: bool,
    config: str | None,
    simulated: bool,
) -> int:
    """Show the last lines of each instance, and with `follow` those that come."""
    folder = log_dir(os.environ, simulated=simulation_meant(simulated))
    known = _known(folder)
    if not known and not follow:
        raise NotFoundError("nothing has been logged yet", hint=way_to_records(simulated))
    if known:
        require_known(names, known, "no log")
    wanted = Filter(_since(since), _pattern(grep), probes)
    shown = [name for name in known if _is_chosen(name, names)]
    show = MergedLines(shown)
    followers: dict[str, Follower] = {}
    for name in shown:
        followers[name] = Follower(f"{folder}/{name}{_LOG_SUFFIX}")
        followers[name].at = _size(followers[name].path)
        show.add(_last(folder, name, lines, wanted))
    try:
        show.flush()
        while follow and screen.is_read():
            time.sleep(_POLL_S)
            _follow(folder, names, followers, wanted)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return int(Exit.OK)


def _follow(folder: str, names: list[str] | None, followers: dict[str, Follower], wanted: Filter) -> None:
    """Print what was written since the last look, also by instances that were not there then."""
    for name in _known(folder):
        if name not in followers and _is_chosen(name, names):
            followers[name] = Follower(f"{folder}/{name}{_LOG_SUFFIX}")
    show = MergedLines(list(followers))
    for name, follower in followers.items():
        show.add([line for line in timed(name, whole_lines(follower), wall()) if wanted.takes(line)])
    show.flush()


def _known(folder: str) -> list[str]:
    try:
        files = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DeniedError(f"{folder} cannot be read: {error.strerror}", hint=f"ls -ld {folder}") from None
    return [name.removesuffix(_LOG_SUFFIX) for name in files if name.endswith(_LOG_SUFFIX) and name != _OWN_LOG]


def _is_chosen(name: str, names: list[str] | None) -> bool:
    return not names or any(fnmatchcase(name, one) for one in names)


def _since(text: str | None) -> float:
    if text is None:
        return 0.0
    ago = parse_duration(text)
    if ago is not None:
        return wall() - ago
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"):
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    raise UsageError(f"--since: {text!r} is no time", hint="write 10m, or 2026-01-31T12:00")


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"--grep: {text!r} is no regular expression: {error}") from None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _last(folder: str, name: str, count: int, wanted: Filter) -> list[Line]:
    """Return the last lines of one instance that are wanted, looking back into rotated files as far as needed."""
    found: list[Line] = []
    path = f"{folder}/{name}{_LOG_SUFFIX}"
    older = sorted(_rotated(path), reverse=True)
    for file in [path, *(f"{path}.{number}" for number in reversed(older))]:
        text = _tail(file, count, wanted)
        found = [line for line in timed(name, text, 0.0) if wanted.takes(line)] + found
        if len(found) >= count or not text:
            break
    return found[-count:] if count else []


def _rotated(path: str) -> list[int]:
    base = os.path.basename(path) + "."
    names = os.listdir(os.path.dirname(path))
    return [int(name.removeprefix(base)) for name in names if name.startswith(base) and name[len(base) :].isdigit()]


def _tail(path: str, count: int, wanted: Filter) -> list[str]:
    """Return enough whole lines from the end of a file to hold `count` wanted ones, or all of them."""
    try:
        with open(path, "rb") as file:
            at = os.fstat(file.fileno()).st_size
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
        return []
    lines = data.decode("utf-8", "replace").split("\n")
    return lines[(1 if at > 0 else 0) : -1] if data.endswith(b"\n") else lines[(1 if at > 0 else 0) :]


def whole_lines(follower: Follower) -> list[str]:
    """Return the lines that were completed since the last look."""
    data = follower.read()
    kept, newline, rest = data.rpartition(b"\n")
    if not newline:
        follower.at -= len(data) if len(data) < _CHUNK else 0
        return [] if len(data) < _CHUNK else [data.decode("utf-8", "replace")]
    follower.at -= len(rest)
    return kept.decode("utf-8", "replace").split("\n")


def timed(name: str, lines: Iterable[str], start: float) -> Iterator[Line]:
    """Give each line its moment; those before the first that tells one get `start`."""
    at = start
    for text in lines:
        at = _moment(text) or at
        yield Line(at, name, text)


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
