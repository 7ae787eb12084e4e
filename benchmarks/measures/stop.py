"""How long it takes until the last of 64 servers is gone, asked politely and ignored."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from benchmarks import processes
from benchmarks.errors import BenchError
from benchmarks.fleet import STUBBORN, Contender, c_loop, command, ollamux, wait_ready
from benchmarks.ground import Ground
from benchmarks.measures.cold_start import SETTINGS
from benchmarks.measures.rounds import Effort, rounds
from benchmarks.rows import Row, Target

COUNT = 64
TIMEOUT_S = 2.0
_STUBBORN_SETTINGS = f'{SETTINGS}[defaults.env]\n{STUBBORN} = "1"\n[defaults.restart]\nstop_timeout = "2s"\n'


def measure(ground: Ground, effort: Effort) -> list[Row]:
    """Stop servers that end at once, by signal and by command, and such as ignore SIGTERM."""
    return [*_obedient(ground, effort), _stubborn(ground, effort)]


def _obedient(ground: Ground, effort: Effort) -> list[Row]:
    ports = ground.ports(COUNT)
    loop, supervised = c_loop(ground, ports), ollamux(ground, ports, settings=SETTINGS)
    limit, by_signal, by_command = [], [], []
    for _ in rounds(effort.stops, f"stop {COUNT}"):
        limit.append(_stopped(loop, lambda: _terminate(loop)))
        by_signal.append(_stopped(supervised, lambda: _terminate(supervised)))
        by_command.append(_stopped(supervised, lambda: _down(supervised)))
    return [
        Row(
            group="stop",
            what=f"stop {COUNT}, SIGTERM to the last gone",
            limit=limit,
            ollamux=by_signal,
            target=Target(most=2.0),
        ),
        Row(group="stop", what=f"stop {COUNT}, ollamux down to the last gone", limit=limit, ollamux=by_command),
    ]


def _stubborn(ground: Ground, effort: Effort) -> Row:
    ports = ground.ports(COUNT)
    loop = c_loop(ground, ports, stubborn=True)
    supervised = ollamux(ground, ports, settings=_STUBBORN_SETTINGS)
    limit, ours = [], []
    for _ in rounds(effort.stubborn_stops, f"stop {COUNT} that ignore SIGTERM"):
        limit.append(_stopped(loop, lambda: _terminate(loop)))
        ours.append(_stopped(supervised, lambda: _terminate(supervised)))
    return Row(
        group="stop",
        what=f"stop {COUNT} that ignore SIGTERM, {TIMEOUT_S:g} s",
        limit=limit,
        ollamux=ours,
        target=Target(most=TIMEOUT_S * 1000 + 50, of="figure"),
    )


def _terminate(contender: Contender) -> int | None:
    os.kill(contender.pid, signal.SIGTERM)
    return None


def _down(contender: Contender) -> int | None:
    return processes.spawn(command(contender, "down"), contender.env)


def _stopped(contender: Contender, ask: Callable[[], int | None]) -> float:
    contender.start()
    if contender.name == "ollamux":
        wait_ready(contender)
    contender.wait()
    time.sleep(0.5)
    descriptors = [os.pidfd_open(pid) for pid in contender.servers()]
    began = time.perf_counter()
    asked = ask()
    gone = processes.all_gone(descriptors, within_s=TIMEOUT_S + 20)
    took = time.perf_counter() - began
    for descriptor in descriptors:
        os.close(descriptor)
    if not gone:
        raise BenchError(f"{contender.name} had not ended every server after {took:.0f} s")
    if asked is not None:
        os.waitpid(asked, 0)
    contender.stop()
    return took * 1000
