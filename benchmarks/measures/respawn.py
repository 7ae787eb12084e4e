"""How long a killed server's port is without an answer: from SIGKILL to HTTP 200 of its successor."""

from __future__ import annotations

import os
import signal
import time

from benchmarks import answer
from benchmarks.fleet import Contender, c_loop, ollamux, wait_ready
from benchmarks.ground import Ground
from benchmarks.measures.rounds import Effort, rounds
from benchmarks.rows import Row, Target

INSTANCES = 8
# Past every threshold below which a supervisor takes a process for one that failed to start.
OLD_ENOUGH_S = 1.5


def measure(ground: Ground, effort: Effort) -> list[Row]:
    """Kill every server once, in turn with one of the loop: only a first crash is restarted at once."""
    limit: list[float] = []
    ours: list[float] = []
    loop = c_loop(ground, ground.ports(INSTANCES))
    supervised = ollamux(ground, ground.ports(INSTANCES))
    for _ in rounds(effort.respawn_fleets, "respawn"):
        loop.start()
        supervised.start()
        loop.wait()
        wait_ready(supervised)
        time.sleep(OLD_ENOUGH_S)
        for number in range(INSTANCES):
            limit.append(_killed(loop, loop.ports[number]))
            time.sleep(0.1)
            ours.append(_killed(supervised, supervised.ports[number]))
            time.sleep(0.1)
        loop.stop()
        supervised.stop()
    target = Target(most=1.5)
    return [Row(group="respawn", what="SIGKILL to HTTP 200, first crash", limit=limit, ollamux=ours, target=target)]


def _killed(contender: Contender, port: int) -> float:
    pid = answer.wait_for(port, check=contender.check)
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    answer.wait_for(port, check=contender.check, other_than=pid)
    return (time.perf_counter() - began) * 1000
