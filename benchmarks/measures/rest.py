"""What supervision costs while nothing happens: CPU time a minute and memory. All fleets rest at the same time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.fleet import Contender, c_loop, ollamux, wait_ready
from benchmarks.ground import Ground
from benchmarks.measures.cold_start import SETTINGS
from benchmarks.measures.rounds import Effort, say
from benchmarks.rows import Row, Target

SETTLE_S = 8.0
_NO_CHECKS = SETTINGS + '[defaults.health]\ninterval = "1h"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    what: str
    contender: Contender
    cpu: Target | None
    pss: Target | None


def measure(ground: Ground, effort: Effort) -> list[Row]:
    """Rest with 64 servers unchecked, and with 8 and 64 at the default checks."""
    loop = c_loop(ground, ground.ports(64))
    cases = [
        _Case(
            what="64, checks every hour",
            contender=ollamux(ground, ground.ports(64), settings=_NO_CHECKS),
            cpu=Target(most=0.01, of="figure"),
            pss=Target(most=30.0, of="figure"),
        ),
        _Case(
            what="8, default checks",
            contender=ollamux(ground, ground.ports(8)),
            cpu=Target(most=0.3, of="figure"),
            pss=None,
        ),
        _Case(
            what="64, default checks",
            contender=ollamux(ground, ground.ports(64), settings=SETTINGS),
            cpu=None,
            pss=None,
        ),
    ]
    loop.start()
    loop.wait()
    for case in cases:
        case.contender.start()
        wait_ready(case.contender)
    say(f"rest: {SETTLE_S:.0f} s to settle, then {effort.rest_s:.0f} s")
    time.sleep(SETTLE_S)
    rows = _rest(loop, cases, effort.rest_s)
    for case in cases:
        case.contender.stop()
    loop.stop()
    return rows


def _rest(loop: Contender, cases: list[_Case], seconds: float) -> list[Row]:
    watched = {
        pid: _cpu_s(pid)
        for contender in (loop, *(case.contender for case in cases))
        for pid in (contender.pid, *contender.helpers())
    }
    began = time.perf_counter()
    time.sleep(seconds)
    minutes = (time.perf_counter() - began) / 60
    used = {pid: (_cpu_s(pid) - before) / minutes for pid, before in watched.items()}
    eight, sixty_four = cases[1:]
    more = _cpu(
        "CPU at rest, default checks: 64 beside 8",
        [sixty_four.contender.pid],
        used,
        limit=used[eight.contender.pid],
        target=Target(most=8.0),
    )
    return [*(row for case in cases for row in _rows(case, used, least=loop)), more]


def _cpu_s(pid: int) -> float:
    """What it starts and collects within the time is its own doing."""
    return processes.cpu_s(pid) + processes.collected_s(pid)


def _rows(case: _Case, used: dict[int, float], *, least: Contender) -> list[Row]:
    supervisor = case.contender.pid
    helpers = [pid for pid in case.contender.helpers() if pid in used]
    rows = [
        _cpu(f"CPU at rest, {case.what}: supervisor", [supervisor], used, limit=used[least.pid], target=case.cpu),
        _pss(f"PSS at rest, {case.what}: supervisor", [supervisor], limit=least, target=case.pss),
    ]
    if helpers:
        rows.append(_cpu(f"CPU at rest, {case.what}: GPU helper", helpers, used, limit=None, target=None))
        rows.append(_pss(f"PSS at rest, {case.what}: GPU helper", helpers, limit=None, target=None))
    return rows


def _cpu(what: str, pids: list[int], used: dict[int, float], *, limit: float | None, target: Target | None) -> Row:
    least = () if limit is None else (limit,)
    ours = (sum(used[pid] for pid in pids),)
    return Row(group="rest", what=what, unit="s/min", limit=least, ollamux=ours, target=target)


def _pss(what: str, pids: list[int], *, limit: Contender | None, target: Target | None) -> Row:
    least = () if limit is None else (processes.pss_bytes(limit.pid) / 2**20,)
    ours = (sum(processes.pss_bytes(pid) for pid in pids) / 2**20,)
    return Row(group="rest", what=what, unit="MiB", limit=least, ollamux=ours, target=target)
