"""How long it takes from the execution of the command until the last of many servers answers."""

from __future__ import annotations

import time

from benchmarks.fleet import Contender, c_loop, ollamux, wait_ready
from benchmarks.ground import Ground
from benchmarks.measures.rounds import Effort, rounds
from benchmarks.rows import Row, Target

SETTINGS = "[supervisor]\nmax_parallel_starts = 0\n"


def measure(ground: Ground, effort: Effort) -> list[Row]:
    """Start 64 and 256 servers, all at once."""
    return [
        _row(ground, 64, effort.starts_of_64, Target(most=6.0)),
        _row(ground, 256, effort.starts_of_256, Target(most=3.5)),
    ]


def _row(ground: Ground, count: int, times: int, target: Target) -> Row:
    ports = ground.ports(count)
    loop, supervised = c_loop(ground, ports), ollamux(ground, ports, settings=SETTINGS)
    # The first start of a file reads and checks it; what is measured is every later one.
    supervised.start()
    wait_ready(supervised)
    supervised.stop()
    limit, ours = [], []
    for _ in rounds(times, f"cold start of {count}"):
        limit.append(_started(loop))
        ours.append(_started(supervised))
    what = f"cold start, {count} answering"
    return Row(group="cold-start", what=what, limit=limit, ollamux=ours, target=target)


def _started(contender: Contender) -> float:
    time.sleep(0.3)
    began = time.perf_counter()
    contender.start()
    contender.wait()
    took = time.perf_counter() - began
    time.sleep(0.5)
    contender.servers()
    contender.stop()
    return took * 1000
