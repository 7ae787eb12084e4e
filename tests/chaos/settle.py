"""The quiet after the faults: everything has to become as it was wanted, and stay no fuller than it was."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from tests.chaos.asking import NEVER_SAID
from tests.chaos.intents import DOWN, UP
from tests.chaos.observer import Seen, Violation, stat_of
from tests.chaos.world import World, certain

SETTLE_BOUND_S = 60.0
WRITTEN_BOUND_S = 10.0
SLACK = 2
"""Descriptors that may be more than before: a question under way, the helper's connection."""
LONGEST_QUESTION_S = 25.0
"""A server that hung may keep a question of the supervisor open so long, and with it a descriptor."""


class Quiet:
    """Heals a world, waits for it, and compares it with what it has to be."""

    def __init__(self, world: World, *, bound_s: float = SETTLE_BOUND_S) -> None:
        self._world = world
        self._bound_s = bound_s
        self._levels: dict[int, tuple[int, int]] = {}
        self._read: dict[str, int] = {}

    def settle(self) -> float | None:
        """Heal, wait, check. Return the seconds until all that is wanted was READY, None where it never was."""
        world = self._world
        world.heal()
        healed = time.monotonic()
        world.asking.wait()
        world.heal()
        if world.up("--ensure", "-q", "--timeout", "20s") not in (0, 6):
            world.up("--ensure", "-q", "--timeout", "20s")
        if world.reload_owed:
            world.reload_owed = world.asking.run("reload", "--timeout", "20s") != 0
        wrong = self._wait_until_right(time.monotonic())
        took = time.monotonic() - healed
        for violation in wrong:
            world.report(violation)
        if not wrong:
            self._make_certain()
            self._written()
            self._levels_of_the_supervisor()
        self.read_records()
        world.asking.troubled = False
        return None if wrong else took

    def _wait_until_right(self, began: float) -> list[Violation]:
        while wrong := self._wrong():
            if time.monotonic() - began > self._bound_s:
                return wrong
            time.sleep(0.05)
        return []

    # -- I4 and I5

    def _wrong(self) -> list[Violation]:
        """Return what is not as wanted: seen in /proc and on the ports, and told by the supervisor the same way."""
        world = self._world
        status = world.asking.status()
        if status is None:
            return [Violation("I5", "no supervisor answers")]
        told = {entry["name"]: entry for entry in status["instances"]}
        found: list[Violation] = []
        for name in world.instances:
            possible = world.intents.possible(name)
            phase = told[name]["phase"] if name in told else "missing"
            family = [seen for seen in world.observer.marked if seen.instance == name]
            runs = any(not seen.runner for seen in family)
            if phase not in ("READY", "STOPPED"):
                found.append(Violation("I5", f"{name} is neither READY nor STOPPED: {told.get(name)}"))
            elif (phase == "READY") != runs or (phase == "STOPPED" and family):
                found.append(Violation("I5", f"{name} is told {phase}, but its processes are {family}"))
            elif phase == "READY" and (fault := self._serves_badly(name, family)):
                found.append(Violation("I5", fault))
            elif (UP if runs else DOWN) not in possible:
                story = world.intents.story(name)
                found.append(Violation("I4", f"{name} is {phase}, but wanted is {'/'.join(possible)}: {story}"))
        strange = {seen.instance for seen in world.observer.marked} - set(world.instances)
        found += [Violation("I5", f"{name} is not in the configuration, but runs") for name in strange]
        return found

    def _serves_badly(self, name: str, family: list[Seen]) -> str | None:
        """Return what is wrong with a server that is called READY: it answers, on its port, alone."""
        leaders = [seen for seen in family if not seen.runner]
        if len(leaders) != 1:
            return f"{name} has {len(leaders)} servers: {leaders}"
        if any(seen.gen != leaders[0].gen for seen in family):
            return f"{name} has something left of an earlier generation: {family}"
        if not self._world.answers(name):
            return f"{name} does not answer on port {self._world.ground.ports[name]}"
        if not _owns_port(leaders[0].pid, self._world.ground.host, self._world.ground.ports[name]):
            return f"the port of {name} is answered by somebody else than pid {leaders[0].pid}"
        return None

    def _make_certain(self) -> None:
        """Where nobody can say what is wanted, take what is there for it, and say so to the supervisor."""
        world = self._world
        running = {seen.instance for seen in world.observer.marked if not seen.runner}
        known = certain(world)
        unclear = {name: UP if name in running else DOWN for name in world.instances if name not in known}
        for want, word in ((UP, "start"), (DOWN, "stop")):
            names = sorted(name for name, is_wanted in unclear.items() if is_wanted == want)
            if names and (code := world.asking.run(word, *names, "--timeout", "80s")) != 0:
                world.report(Violation("I5", f"{word} {' '.join(names)} in a quiet fleet ended with {code}"))
        world.intents.settle(known | unclear)

    def _written(self) -> None:
        """I4: an intent that was acknowledged is on disk, once the disk can be written again."""
        world = self._world
        wanted = {name: want == DOWN for name, want in certain(world).items()}
        path = world.ground.state / "state.json"
        found: dict[str, Any] = {}

        def agrees() -> bool:
            try:
                units = json.loads(path.read_text())["units"]
                found.clear()
                found.update({name: bool(units[name]["stopped"]) for name in wanted})
            except (OSError, ValueError, KeyError) as error:
                found["error"] = repr(error)
                return False
            return found == wanted

        if world.wait(agrees, WRITTEN_BOUND_S):
            world.tampered = False
        else:
            world.report(Violation("I4", f"stopped is {wanted}, but {path} says {found}"))

    # -- I6

    def _levels_of_the_supervisor(self) -> None:
        """Descriptors and threads return to their level; what the instances need is taken off."""
        world = self._world
        pid = world.supervisor()
        if pid is None:
            return
        wanted = sum(want == UP for want in certain(world).values())
        level = self._level(pid, wanted)
        first = self._levels.setdefault(pid, level)
        until = time.monotonic() + LONGEST_QUESTION_S
        while _above(level, first) and time.monotonic() < until:
            level = self._level(pid, wanted)
        if _above(level, first):
            held = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd") if name != "0"]
            text = f"the supervisor had {first} descriptors and threads and now has {level}: {sorted(held)}"
            world.report(Violation("I6", text))

    def _level(self, pid: int, wanted: int) -> tuple[int, int]:
        """Return the fewest of each in a moment: a question to a disk has a thread of its own while it takes."""
        return _fewest(pid, "fd") - wanted, _fewest(pid, "task")

    def read_records(self) -> None:
        """No traceback and no word of a bug in anything that was written."""
        ground = self._world.ground
        for path in (ground.logs / "supervisor.log", ground.state / "events.jsonl", ground.state / "events.jsonl.1"):
            try:
                text = path.read_text(errors="replace")
            except OSError:
                continue
            for line in text.splitlines() if path.suffix != ".log" else [text]:
                if any(word in line for word in NEVER_SAID) and self._read.setdefault(line, 0) == 0:
                    self._read[line] = 1
                    self._world.report(Violation("I6", f"{path.name} says: {line[-3000:]}"))


def _owns_port(pid: int, host: str, port: int) -> bool:
    """Whether a process holds the socket that listens there; read from the kernel's table."""
    raw = bytes(map(int, host.split(".")))[::-1].hex().upper()
    wanted = f"{raw}:{port:04X}"
    inodes = set()
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            fields = line.split()
            if fields[1] == wanted and fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    try:
        held = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return False
    return stat_of(pid) is not None and bool(inodes & held)


def _above(level: tuple[int, int], first: tuple[int, int]) -> bool:
    return level[0] > first[0] + SLACK or level[1] > first[1]


def _fewest(pid: int, kind: str) -> int:
    fewest = 1 << 20
    for _ in range(30):
        try:
            fewest = min(fewest, len(os.listdir(f"/proc/{pid}/{kind}")))
        except OSError:
            break
        time.sleep(0.01)
    return fewest
