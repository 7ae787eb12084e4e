"""The observer: looks at /proc, the starts of the servers and the strangers, all the time, and names what may not be.

It shares no code with the program under test and asks it nothing.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.ground import Ground
from tests.chaos.strangers import DECOY as DECOY_PATH
from tests.chaos.strangers import Strangers

PERIOD_S = 0.04
SWEEP_BOUND_S = 12.0
"""Stop time-out, sweep and kill of a hastened supervisor are 2 s; the rest is for a machine with other work."""
_YOUNG_S = 5.0
DECOY = os.fsencode(DECOY_PATH)


@dataclass(frozen=True, slots=True)
class Violation:
    """What was seen that may not be."""

    invariant: str
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A living process with our marker."""

    pid: int
    start: int
    instance: str
    gen: int
    runner: bool


@dataclass(slots=True)
class _Look:
    """What one look at all processes found."""

    marked: list[Seen] = field(default_factory=list)
    supervisors: list[int] = field(default_factory=list)


def stat_of(pid: int) -> tuple[str, int] | None:
    """Return (state, start in ticks) of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            rest = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (rest[0].decode(), int(rest[19])) if len(rest) > 19 else None


def lives(pid: int, start: int) -> bool:
    """Whether the very process is there and no zombie."""
    found = stat_of(pid)
    return found is not None and found[0] not in "ZX" and found[1] == start


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


class Observer(threading.Thread):
    """Runs beside everything else. `report` is called once for every violation."""

    def __init__(self, ground: Ground, strangers: Strangers, report: Callable[[Violation], None]) -> None:
        super().__init__(daemon=True, name="observer")
        self._ground = ground
        self._strangers = strangers
        self._report = report
        self._over = threading.Event()
        self._kinds: dict[tuple[int, int], Seen | str] = {}
        self._born: dict[tuple[int, int], float] = {}
        self._unswept: dict[tuple[int, int], float] = {}
        self._told: set[object] = set()
        self.bound_s = SWEEP_BOUND_S
        self.excused = False
        """Whether a supervisor cannot sweep at present: it has no descriptors."""
        self.marked: list[Seen] = []
        self.supervisor: int | None = None
        self.looks = 0

    def run(self) -> None:
        """Look until told to end."""
        last = time.monotonic()
        while not self._over.wait(PERIOD_S):
            now = time.monotonic()
            self.look(min(now - last, 0.2))
            last = now

    def end(self) -> None:
        """End the watch."""
        self._over.set()
        if self.is_alive():
            self.join()

    def look(self, seconds: float) -> None:
        """Look once; `seconds` have passed since the last look."""
        found = self._scan()
        self.marked = found.marked
        self.supervisor = self._holder(found.supervisors)
        self._two_at_once(found.marked)
        self._overlaps()
        self._orphans(found.marked, seconds)
        self._hurt_strangers()
        self.looks += 1

    def _say(self, key: object, invariant: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._report(Violation(invariant, text))

    def age_s(self, pid: int) -> float:
        """Return for how long a process has been seen."""
        born = [since for (known, _), since in list(self._born.items()) if known == pid]
        return time.monotonic() - max(born) if born else 0.0

    # -- what there is

    def _scan(self) -> _Look:
        found = _Look()
        now = time.monotonic()
        kinds: dict[tuple[int, int], Seen | str] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            pid = int(name)
            state = stat_of(pid)
            if state is None or state[0] in "ZX":
                continue
            key = (pid, state[1])
            kind = self._kinds.get(key)
            # What has only just been forked still shows the words and the environment of its parent.
            young = now - self._born.get(key, 0.0) < _YOUNG_S
            if kind is None or young or kind == "supervisor" or (isinstance(kind, Seen) and not kind.runner):
                self._born.setdefault(key, now)
                kind = self._kind(pid, state[1])
            kinds[key] = kind
            if isinstance(kind, Seen):
                found.marked.append(kind)
            elif kind == "supervisor":
                found.supervisors.append(pid)
        self._kinds = kinds
        self._born = {key: self._born[key] for key in kinds if key in self._born}
        return found

    def _kind(self, pid: int, start: int) -> Seen | str:
        env = dict(
            item.partition(b"=")[::2] for item in _read(f"/proc/{pid}/environ").split(b"\0") if b"=" in item
        )  # fmt: skip
        words = _read(f"/proc/{pid}/cmdline").split(b"\0")
        if DECOY in words:
            return "other"
        if env.get(b"OLLAMUX_SUPERVISOR") == os.fsencode(self._ground.state) and b"OLLAMUX_INSTANCE" in env:
            instance, gen = env[b"OLLAMUX_INSTANCE"].decode(), int(env.get(b"OLLAMUX_GENERATION", b"0"))
            return Seen(pid, start, instance, gen, b"runner" in words)
        if b"ollamux.supervisor" in words and env.get(b"OLLAMUX_STATE_DIR") == os.fsencode(self._ground.state):
            return "supervisor"
        return "other"

    def _holder(self, candidates: list[int]) -> int | None:
        """Return the supervisor that holds the lock; another one is on its way to being refused."""
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        held = {
            int(match[1])
            for match in re.finditer(rb"FLOCK\s+ADVISORY\s+WRITE (\d+)", _read("/proc/locks"))
        }  # fmt: skip
        return next((pid for pid in candidates if pid in held), candidates[0])

    # -- what may not be

    def _two_at_once(self, marked: list[Seen]) -> None:
        """I1. The old one is looked at again after the new one was seen: then both were there at once."""
        by_name: dict[str, list[Seen]] = {}
        for seen in marked:
            by_name.setdefault(seen.instance, []).append(seen)
        for name, family in by_name.items():
            newest = max((seen.gen for seen in family if not seen.runner), default=None)
            if newest is None or all(seen.gen == newest for seen in family):
                continue
            old = [seen for seen in family if seen.gen < newest]
            for seen in old:
                if lives(seen.pid, seen.start):
                    what = "runner" if seen.runner else "server"
                    text = f"{name}: {what} {seen.pid} of generation {seen.gen} lives beside generation {newest}"
                    self._say(("two", name, newest), "I1", text)

    def _overlaps(self) -> None:
        """I1 again, told by a lock that a server and its runners hold as long as one of them lives."""
        for path in Path(self._ground.root, "knobs").glob("*/overlap"):
            text = path.read_text().strip()
            self._say(("overlap", path.parent.name, text), "I1", f"{path.parent.name}: {text}")

    def _orphans(self, marked: list[Seen], seconds: float) -> None:
        """I2. Only the time counts in which a supervisor ran and could do something about it."""
        leaders = {(seen.instance, seen.gen) for seen in marked if not seen.runner}
        orphans = [seen for seen in marked if seen.runner and (seen.instance, seen.gen) not in leaders]
        state = stat_of(self.supervisor) if self.supervisor is not None else None
        able = state is not None and state[0] not in "TtZX" and not self.excused
        left: dict[tuple[int, int], float] = {}
        for seen in orphans:
            key = (seen.pid, seen.start)
            left[key] = self._unswept.get(key, 0.0) + (seconds if able else 0.0)
            if left[key] > self.bound_s and lives(seen.pid, seen.start):
                text = f"{seen.instance}: runner {seen.pid} of generation {seen.gen} was left and nobody ends it"
                self._say(("orphan", key), "I2", text)
        self._unswept = left

    def _hurt_strangers(self) -> None:
        """I3."""
        for stranger in tuple(self._strangers.all):
            news = stranger.news()
            if news is not None and stranger in self._strangers.all:
                self._say((stranger.process.pid, news, self.looks), "I3", f"{stranger.name} {news}")
