"""What a fault acts on: the ground, the processes on it, the commands, and a list of what has to be undone."""

from __future__ import annotations

import heapq
import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TextIO

from tests.chaos.asking import Asking
from tests.chaos.ground import CARDS, Ground
from tests.chaos.intents import DOWN, UP, Intents
from tests.chaos.observer import Observer, Seen, Violation, lives, stat_of
from tests.chaos.strangers import Strangers, session_is_marked
from tests.process.process_box import environment_of, words_of

INSTANCES: dict[str, dict[str, Any]] = {
    "gpu0": {"gpus": [CARDS[0]]},
    "gpu1": {"gpus": [CARDS[1]]},
    "cpu0": {},
    "cpu1": {},
    "any0": {"gpus": "any"},
}
_KEPT_KNOBS = ("claimed", "overlap")
BOOT_S = 2.0
"""A supervisor that is younger may not have read what is on disk."""


class World:
    """Everything of one run, without a plan."""

    def __init__(
        self,
        ground: Ground,
        *,
        log: TextIO,
        verbose: bool = False,
        instances: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.ground = ground
        self._log = log
        self._verbose = verbose
        self._began = time.monotonic()
        self.violations: list[Violation] = []
        self.hits: Counter[str] = Counter()
        self.tries: Counter[str] = Counter()
        self.instances = dict(INSTANCES if instances is None else instances)
        self.intents = Intents(frozenset(self.instances))
        self.intents.settle(dict.fromkeys(self.instances, UP))
        self.strangers = Strangers(ground)
        self.observer = Observer(ground, self.strangers, self.report)
        self.asking = Asking(ground, self.intents, report=self.report, log=self.log)
        self.on_death = "keep"
        self.tampered = False
        """Whether what is on disk may rightly be lost, until the supervisor has written it again."""
        self.reload_owed = False
        """Whether the configuration on disk may not be in force."""
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # -- the record

    def log(self, text: str) -> None:
        """Write a line with the time since the beginning."""
        line = f"{time.monotonic() - self._began:9.3f} {text}\n"
        self._log.write(line)
        self._log.flush()
        if self._verbose:
            print(line, end="", flush=True)

    def report(self, violation: Violation) -> None:
        """Take down what may not be."""
        self.violations.append(violation)
        self.log(f"!! {violation.invariant}: {violation.text}")

    def hit(self, kind: str, what: str = "") -> None:
        """Count a fault that really took effect."""
        self.hits[kind] += 1
        self.log(f"    {kind} took effect {what}")

    # -- time

    def later(self, delay_s: float, task: Callable[[], None]) -> None:
        """Do something later in the round; healing does it at once."""
        self._count += 1
        heapq.heappush(self._agenda, (time.monotonic() + delay_s, self._count, task))

    def run_until(self, moment: float) -> None:
        """Do what is due until a moment has come."""
        while (now := time.monotonic()) < moment:
            if self._agenda and self._agenda[0][0] <= now:
                heapq.heappop(self._agenda)[2]()
            else:
                next_at = self._agenda[0][0] if self._agenda else moment
                time.sleep(min(0.02, max(0.001, min(next_at, moment) - now)))

    def heal(self) -> None:
        """Undo every fault, now."""
        while self._agenda:
            heapq.heappop(self._agenda)[2]()
        for name in self.ground.ports:
            for path in self.ground.knobs(name).iterdir():
                if path.name not in _KEPT_KNOBS:
                    path.unlink()
        for seen in self.observer.marked:
            self.send(seen, signal.SIGCONT)
        supervisor = self.supervisor()
        if supervisor is not None:
            os.kill(supervisor, signal.SIGCONT)
            self.raise_limit(supervisor)

    def raise_limit(self, supervisor: int) -> None:
        """Give a supervisor its descriptors back."""
        try:
            _, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
        except ProcessLookupError:
            pass
        self.observer.excused = False

    # -- processes

    def supervisor(self) -> int | None:
        """Return the living supervisor."""
        pid = self.observer.supervisor
        if pid is None or not words_of(pid) or (stat_of(pid) or ("X", 0))[0] in "ZX":
            return None
        return pid

    def helper(self) -> int | None:
        """Return the process that reads the cards."""
        supervisor = self.supervisor()
        if supervisor is None:
            return None
        try:
            with open(f"/proc/{supervisor}/task/{supervisor}/children", encoding="ascii") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            return None
        return next((pid for pid in children if "ollamux.gpu.helper" in words_of(pid)), None)

    def name(self, number: int) -> str:
        """Return an instance by a number of the plan."""
        names = sorted(self.instances)
        return names[number % len(names)]

    def leader(self, number: int) -> Seen | None:
        """Return the living server of the instance a number means, or else the next instance that has one."""
        leaders = {seen.instance: seen for seen in self.observer.marked if not seen.runner}
        return self._nearest(number, leaders)

    def runner(self, number: int) -> Seen | None:
        """Return a living runner, likewise."""
        return self._nearest(number, {seen.instance: seen for seen in self.observer.marked if seen.runner})

    def _nearest(self, number: int, found: dict[str, Seen]) -> Seen | None:
        for offset in range(len(self.instances)):
            seen = found.get(self.name(number + offset))
            if seen is not None and lives(seen.pid, seen.start):
                return seen
        return None

    def send(self, seen: Seen, number: int) -> bool:
        """Signal the very process that was seen."""
        try:
            handle = os.pidfd_open(seen.pid)
        except OSError:
            return False
        try:
            if not lives(seen.pid, seen.start):
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def wait(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait for something outside; say whether it came."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def kill_leader(self, seen: Seen) -> bool:
        """Kill a server and see it gone."""
        self.send(seen, signal.SIGKILL)
        return self.wait(lambda: not lives(seen.pid, seen.start), 2.0)

    def kill_supervisor(self) -> bool:
        """Kill the supervisor and see it gone. What is not on disk then is lost."""
        pid = self.supervisor()
        if pid is None:
            return False
        start = (stat_of(pid) or ("X", 0))[1]
        os.kill(pid, signal.SIGKILL)
        self.asking.troubled = True
        if self.tampered:
            self.intents.doubt("the supervisor was killed while its disk could not be trusted")
        return self.wait(lambda: not lives(pid, start), 2.0)

    def tamper(self, what: str) -> None:
        """Note that what is on disk cannot be trusted from now on; without a supervisor that is lost already."""
        self.tampered = True
        pid = self.supervisor()
        if pid is None or self.observer.age_s(pid) < BOOT_S:
            self.intents.doubt(what)

    def up(self, *words: str) -> int:
        """Start a supervisor; with the configuration by name unless words say otherwise."""
        return self.asking.run(
            "up", *(words or ("-d", "-q", "--timeout", "80s", "--config", str(self.ground.config_path)))
        )

    def reconfigure(self, instances: dict[str, dict[str, Any]]) -> None:
        """Write another configuration; what is new in it is wanted."""
        self.ground.configure(instances, on_death=self.on_death)
        fresh = frozenset(instances) - frozenset(self.instances)
        self.instances = instances
        self.intents.names = frozenset(instances)
        if fresh:
            self.intents.ask(UP, fresh, "added to the configuration")

    def answers(self, name: str, path: str = "/api/version") -> bool:
        """Whether something answers on the port of an instance, quickly and with 200."""
        try:
            with socket.create_connection((self.ground.host, self.ground.ports[name]), timeout=0.4) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def begin(self) -> None:
        """Bring everything up for the first time."""
        self.ground.configure(self.instances, on_death=self.on_death)
        self.observer.start()
        if (code := self.up()) != 0:
            self.report(Violation("I5", f"nothing could be begun: up ended with {code}"))
        self.strangers.look_alikes()
        if not session_is_marked():
            leader = next((seen for seen in self.observer.marked if not seen.runner), None)
            if leader is not None:
                self.strangers.copy_of(environment_of(leader.pid))

    def end(self) -> None:
        """End everything that was started."""
        self.asking.over = True
        self.observer.end()
        self.strangers.end_all()
        self.ground.end_all()
        self.asking.wait()


def certain(world: World) -> dict[str, str]:
    """Return what is wanted of those instances of which it is certain."""
    found = {name: world.intents.possible(name) for name in world.instances}
    return {name: next(iter(wants)) for name, wants in found.items() if len(wants) == 1}


__all__ = ["DOWN", "INSTANCES", "UP", "World", "certain"]
