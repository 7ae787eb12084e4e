"""The two that are compared, under one face: a C loop and ollamux, each running the same server once for every port."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import answer, processes
from benchmarks.errors import BenchError
from benchmarks.ground import Ground, environment

STUBBORN = "BENCH_IGNORE_TERM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something that keeps a server running on each of its ports. May be started again after it was stopped."""

    name: str
    ground: Ground
    ports: Sequence[int]
    argv: Sequence[str]
    env: dict[str, str]
    home: Path
    _pid: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process that supervises."""
        return self._pid[-1]

    def start(self) -> None:
        """Execute it; nothing is waited for."""
        self._pid.append(self.ground.spawn(self.argv, self.env, stderr=str(self.home / "stderr")))

    def check(self) -> None:
        """Raise where it has ended."""
        if processes.ended(self.pid):
            with open(self.home / "stderr", encoding="utf-8", errors="replace") as file:
                said = file.read()[-2000:].strip()
            raise BenchError(f"{self.name} ended too early: {' '.join(self.argv[:4])} …\n{said}")

    def wait(self) -> None:
        """Wait until every port has answered."""
        answer.wait_for_all(self.ports, check=self.check)

    def servers(self) -> list[int]:
        """Return the pids of the servers it runs."""
        found = [pid for pid in processes.below(self.pid) if processes.program(pid) == self.ground.programs.server]
        if len(found) != len(self.ports):
            raise BenchError(f"{self.name} runs {len(found)} servers instead of {len(self.ports)}")
        return found

    def helpers(self) -> list[int]:
        """Return the living processes it keeps for itself, besides the servers and the supervisor."""
        programs = {pid: processes.program(pid) for pid in processes.below(self.pid)}
        return [pid for pid, runs in programs.items() if runs not in (None, self.ground.programs.server)]

    def stop(self) -> None:
        """End it and all its servers, and collect it."""
        processes.kill(self.pid, signal.SIGTERM)
        if not self.ground.collect(self.pid, within_s=30.0):
            raise BenchError(f"{self.name} did not end within 30 s of SIGTERM")


def c_loop(ground: Ground, ports: Sequence[int], *, stubborn: bool = False) -> Contender:
    """Return the limit."""
    home = ground.home()
    return Contender(
        name="the C loop",
        ground=ground,
        ports=ports,
        argv=[ground.programs.loop, ground.programs.server, "2000", *map(str, ports)],
        env={**environment(home), **({STUBBORN: "1"} if stubborn else {})},
        home=home,
    )


def ollamux(ground: Ground, ports: Sequence[int], *, settings: str = "") -> Contender:
    """Return ollamux in the foreground, with one CPU instance a port and nothing set but what is given."""
    home = ground.home()
    file = home / "ollamux.toml"
    instances = "".join(f"\n[instances.cpu{n}]\ngpus = []\nport = {port}\n" for n, port in enumerate(ports))
    file.write_text(f'version = 1\n{settings}\n[defaults]\nollama = "{ground.programs.server}"\n{instances}')
    return Contender(
        name="ollamux",
        ground=ground,
        ports=ports,
        argv=[ground.command, "up", "--config", str(file)],
        env=environment(home),
        home=home,
    )


def command(contender: Contender, *words: str) -> list[str]:
    """Return an ollamux command, to be run with the contender's environment."""
    return [contender.ground.command, *words]


def wait_ready(contender: Contender, *, within_s: float = 60.0) -> None:
    """Wait until `ollamux status` says that every instance is READY."""
    contender.wait()
    deadline = time.perf_counter() + within_s
    while True:
        pid = processes.spawn(command(contender, "status"), contender.env)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:
            return
        contender.check()
        if time.perf_counter() > deadline:
            raise BenchError(f"not every instance was READY within {within_s:.0f} s: ollamux status ended with {code}")
        time.sleep(0.1)
