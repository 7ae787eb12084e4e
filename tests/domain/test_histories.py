"""Histories as data: what happened, and what must come of it. Each is named after the fault it guards against.

A line is `at(seconds, event, phase, *commands, **fields)`: after the event at that time the instance is in that phase,
exactly these commands were given, and the named fields hold. `due` stands for the armed deadline, to the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ollamux.domain import events as ev
from ollamux.domain.commands import Command, EndRunner, KillGroup, Reap, Spawn, TermGroup, TermLeader
from ollamux.domain.instance import Instance, LastExit
from ollamux.domain.machine import step
from ollamux.domain.phases import Phase, Want
from ollamux.domain.policy import JITTER
from ollamux.domain.spec import RestartPolicy, RestartSpec

from .world import judge_deadline, judge_intent, judge_quiet, judge_step

P = Phase
START, STOP, RESTART = ev.StartAsked(), ev.StopAsked(), ev.RestartAsked()
DOWN, HURRY = ev.ShutdownAsked(), ev.ShutdownAsked(hurry=True)
PORT = "port 11435"
VRAM = "VRAM of GPU 1"
STUCK_TOO = "on the wrong GPU; does not end even on SIGKILL: it hangs in the kernel (driver?)"


@dataclass(frozen=True)
class Line:
    """One thing that happens, and what must be so afterwards."""

    time: float
    event: ev.Event
    phase: Phase
    commands: tuple[Command, ...]
    fields: dict[str, Any]


def at(time: float, event: ev.Event, phase: Phase, *commands: Command, **fields: Any) -> Line:
    return Line(time, event, phase, commands, fields)


def spawned(gen: int) -> ev.Spawned:
    return ev.Spawned(gen=gen, pid=4000 + gen)


def healthy(gen: int) -> ev.HealthPassed:
    return ev.HealthPassed(gen=gen)


def bad(gen: int, *, runner: int | None = None, reason: str = "no answer on /api/version") -> ev.HealthFailed:
    return ev.HealthFailed(gen=gen, reason=reason, runner=runner)


def exited(gen: int, *, code: int | None = 1, signal: str | None = None, **more: Any) -> ev.LeaderExited:
    return ev.LeaderExited(gen=gen, code=code, signal=signal, members=more.pop("members", False), **more)


def empty(gen: int) -> ev.GroupEmptied:
    return ev.GroupEmptied(gen=gen)


def due(gen: int) -> ev.DeadlinePassed:
    return ev.DeadlinePassed(gen=gen)


def taken(gen: int, *, retry_s: float | None = 5.0, resource: str = PORT) -> ev.SpawnBlocked:
    return ev.SpawnBlocked(gen=gen, resource=resource, reason=f"{resource} is taken by pid 812", retry_s=retry_s)


def no_spawn(gen: int, *, permanent: bool = False) -> ev.SpawnFailed:
    return ev.SpawnFailed(gen=gen, reason="cannot start ollama", permanent=permanent)


UP = (at(0, START, P.STARTING, Spawn(gen=1), due=180), at(0, spawned(1), P.STARTING, pid=4001, spawns=1))
SERVING = (*UP, at(2, healthy(1), P.READY, due=122))
PROVEN = (*SERVING, at(122, due(1), P.READY, due=None))
EARLIER = Instance(phase=P.READY, want=Want.UP, gen=1, pid=4001, failures=3, spawns=4)
GENTLE = RestartSpec(first_s=2.0)

HISTORIES: dict[str, tuple[Line, ...] | tuple[Instance, tuple[Line, ...]]] = {
    "a quiet life": (
        *PROVEN,
        at(500, STOP, P.STOPPING, TermLeader(gen=1), due=515, want=Want.DOWN),
        at(501, exited(1, code=0), P.STOPPED, Reap(gen=1), due=None, pid=None, spawns=0, failures=0, reason=None),
    ),
    "a start of what runs is no second process": (
        *SERVING,
        at(10, START, P.READY, gen=1, due=122),
    ),
    "a stop in the gap of a restart": (
        *SERVING,
        at(10, RESTART, P.STOPPING, TermLeader(gen=1), due=25),
        at(11, STOP, P.STOPPING, want=Want.DOWN, due=25),
        at(12, exited(1, code=0), P.STOPPED, Reap(gen=1), want=Want.DOWN),
    ),
    "a stop while waiting for the next restart": (
        Instance(restart=GENTLE),
        (
            *UP,
            at(1, exited(1), P.WAITING, Reap(gen=1), due=3),
            at(2, STOP, P.STOPPED, due=None, want=Want.DOWN),
            at(3, due(1), P.STOPPED),
        ),
    ),
    "a start after a stop that has not ended": (
        *SERVING,
        at(10, STOP, P.STOPPING, TermLeader(gen=1), due=25),
        at(11, START, P.STOPPING, want=Want.UP, due=25),
        at(12, exited(1, code=0), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=0),
    ),
    "the newest of many wishes wins": (
        *SERVING,
        at(10, STOP, P.STOPPING, TermLeader(gen=1)),
        at(11, RESTART, P.STOPPING),
        at(12, STOP, P.STOPPING),
        at(13, START, P.STOPPING),
        at(14, STOP, P.STOPPING),
        at(15, exited(1), P.STOPPED, Reap(gen=1)),
    ),
    "twenty restarts at once are one": (
        *SERVING,
        at(10, RESTART, P.STOPPING, TermLeader(gen=1), due=25),
        *(at(10 + n / 10, RESTART, P.STOPPING, due=25) for n in range(1, 20)),
        at(13, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=0, spawns=1),
        at(13, spawned(2), P.STARTING, spawns=2),
    ),
    "a repeated stop does not put the kill off": (
        *SERVING,
        at(10, STOP, P.STOPPING, TermLeader(gen=1), due=25),
        at(24, STOP, P.STOPPING, due=25),
        at(25, due(1), P.KILLING, KillGroup(gen=1), due=35),
        at(34, STOP, P.KILLING, due=35),
    ),
    "a stop before the pid is known": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(1, STOP, P.STARTING, want=Want.DOWN),
        at(2, spawned(1), P.STOPPING, TermLeader(gen=1), due=17),
        at(3, exited(1), P.STOPPED, Reap(gen=1)),
    ),
    "a stop and a start before the pid is known": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(1, STOP, P.STARTING, want=Want.DOWN),
        at(2, START, P.STARTING, want=Want.UP, why=None),
        at(3, spawned(1), P.STARTING, failures=0),
        at(4, healthy(1), P.READY),
    ),
    "a stop before a spawn that fails": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(1, STOP, P.STARTING),
        at(2, no_spawn(1), P.STOPPED, failures=0),
    ),
    "a slow spawn does not spin on its deadline, nor blame a restart asked meanwhile": (
        at(0, START, P.STARTING, Spawn(gen=1), due=180),
        at(1, RESTART, P.STARTING),
        at(180, due(1), P.STARTING, due=360),
        at(181, spawned(1), P.STOPPING, TermLeader(gen=1)),
        at(182, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=0),
    ),
    "the restart of an instance that fails": (
        EARLIER,
        (
            at(1, bad(1), P.UNHEALTHY, due=31),
            at(2, RESTART, P.STOPPING, TermLeader(gen=1), failures=0, due=17),
            at(3, exited(1, signal="SIGTERM", code=None), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=0),
            at(3, spawned(2), P.STARTING),
            at(4, exited(2, code=2), P.STARTING, Reap(gen=2), Spawn(gen=3), failures=1),
            at(4, spawned(3), P.STARTING, last_exit=LastExit(code=2, signal=None), reason="exited with status 2"),
        ),
    ),
    "a restart of what is being restarted for its health is the user's": (
        *SERVING,
        at(10, bad(1), P.UNHEALTHY, due=40),
        at(40, due(1), P.STOPPING, TermLeader(gen=1), due=55),
        at(41, RESTART, P.STOPPING, due=55),
        at(42, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=0),
    ),
    "a restart is no failure, however often": (
        *SERVING,
        at(10, RESTART, P.STOPPING, TermLeader(gen=1)),
        at(11, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=0),
        at(11, spawned(2), P.STARTING),
        at(12, RESTART, P.STOPPING, TermLeader(gen=2)),
        at(13, exited(2), P.STARTING, Reap(gen=2), Spawn(gen=3), failures=0),
    ),
    "a crash five seconds after READY, again and again": (
        *SERVING,
        at(7, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1),
        at(7, spawned(2), P.STARTING),
        at(9, healthy(2), P.READY, failures=1, due=129),
        at(14, exited(2), P.WAITING, Reap(gen=2), failures=2),
        at(17, due(2), P.STARTING, Spawn(gen=3)),
        at(17, spawned(3), P.STARTING),
        at(19, healthy(3), P.READY, failures=2),
        at(24, exited(3), P.WAITING, Reap(gen=3), failures=3),
    ),
    "a crash of what was proven stable is the first again": (
        Instance(phase=P.READY, want=Want.UP, gen=1, pid=4001, failures=0, spawns=6),
        (at(9e6, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1),),
    ),
    "flapping between READY and UNHEALTHY is not stable": (
        EARLIER,
        (
            at(100, bad(1), P.UNHEALTHY, due=130),
            at(110, healthy(1), P.READY, due=230, failures=3),
            at(200, bad(1), P.UNHEALTHY, due=230),
            at(210, healthy(1), P.READY, due=330, failures=3),
            at(330, due(1), P.READY, due=None, failures=0),
        ),
    ),
    "a start of what failed is at once, and forgives": (
        Instance(phase=P.FAILED, want=Want.UP, gen=8, failures=8, spawns=8),
        (at(1, START, P.STARTING, Spawn(gen=9), failures=0, due=181, spawns=8),),
    ),
    "a start of what waits is at once, and forgives": (
        Instance(restart=GENTLE),
        (
            *UP,
            at(1, exited(1), P.WAITING, Reap(gen=1), due=3, failures=1),
            at(1.5, START, P.STARTING, Spawn(gen=2), failures=0),
        ),
    ),
    "a FAILED instance is tried again at a slow pace": (
        Instance(restart=RestartSpec(failure_limit=1)),
        (
            *UP,
            at(1, exited(1), P.FAILED, Reap(gen=1), due=601, failures=1),
            at(601, due(1), P.STARTING, Spawn(gen=2)),
            at(601, spawned(2), P.STARTING),
            at(602, exited(2), P.FAILED, Reap(gen=2), due=1202, failures=2),
            at(1202, due(2), P.STARTING, Spawn(gen=3)),
            at(1202, spawned(3), P.STARTING),
            at(1203, healthy(3), P.READY, due=1323, failures=2),
            at(1323, due(3), P.READY, failures=0),
        ),
    ),
    "no slow retry where it is switched off": (
        Instance(restart=RestartSpec(failure_limit=1, retry_failed_s=0.0)),
        (*UP, at(1, exited(1), P.FAILED, Reap(gen=1), due=None)),
    ),
    "memory of a card that comes back late is waited for, and a stop ends the wait": (
        *PROVEN,
        at(200, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1, reason="exited with status 1"),
        at(200, taken(2, retry_s=1.0, resource=VRAM), P.WAITING, due=201, resource=VRAM, failures=1, gen=1),
        at(200.1, ev.ResourceFreed(resource=VRAM), P.STARTING, Spawn(gen=2)),
        at(200.1, taken(2, retry_s=9.9, resource=VRAM), P.WAITING, due=210, resource=VRAM, failures=1),
        at(203, ev.ResourceFreed(resource="VRAM of GPU 0"), P.WAITING, due=210),
        at(204, STOP, P.STOPPED, due=None, resource=None),
        at(205, ev.ResourceFreed(resource=VRAM), P.STOPPED),
    ),
    "memory that a driver keeps does not hold a start back for ever": (
        *PROVEN,
        at(200, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2)),
        at(200, taken(2, retry_s=10.0, resource=VRAM), P.WAITING, due=210),
        at(210, due(1), P.STARTING, Spawn(gen=2), resource=None, failures=1),
        at(210, spawned(2), P.STARTING, pid=4002, spawns=2),
    ),
    "a taken port is waited for by name and is no failure": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(0, taken(1), P.WAITING, due=5, resource=PORT, failures=0, gen=0, reason=f"{PORT} is taken by pid 812"),
        at(5, due(0), P.STARTING, Spawn(gen=1), resource=None, reason=None),
        at(5, taken(1), P.WAITING, due=10, failures=0, gen=0),
        at(6, ev.ResourceFreed(resource="port 1"), P.WAITING, due=10),
        at(7, ev.ResourceFreed(resource=PORT), P.STARTING, Spawn(gen=1)),
        at(7, spawned(1), P.STARTING, gen=1, spawns=1),
    ),
    "a start slot is waited for without a deadline": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(0, taken(1, retry_s=None, resource="start slot"), P.WAITING, due=None, resource="start slot"),
        at(9, ev.ResourceFreed(resource="start slot"), P.STARTING, Spawn(gen=1), due=189),
    ),
    "a stop while waiting for a port": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(0, taken(1), P.WAITING, due=5),
        at(1, STOP, P.STOPPED, due=None, resource=None),
        at(2, ev.ResourceFreed(resource=PORT), P.STOPPED),
    ),
    "a missing binary fails at once and is tried slowly": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(0, no_spawn(1, permanent=True), P.FAILED, due=600, reason="cannot start ollama", failures=1),
    ),
    "a fork that fails is tried again soon": (
        Instance(restart=GENTLE),
        (
            at(0, START, P.STARTING, Spawn(gen=1)),
            at(0, no_spawn(1), P.WAITING, due=2, failures=1),
            at(2, due(1), P.STARTING, Spawn(gen=2)),
        ),
    ),
    "the policy is about what ran: a start that could not be made is tried again under any": (
        Instance(restart=RestartSpec(policy=RestartPolicy.NEVER, first_s=2.0)),
        (
            at(0, START, P.STARTING, Spawn(gen=1)),
            at(0, no_spawn(1), P.WAITING, due=2, failures=1),
            at(2, due(1), P.STARTING, Spawn(gen=2)),
            at(2, spawned(2), P.STARTING),
            at(3, exited(2), P.FAILED, Reap(gen=2), due=None),
        ),
    ),
    "why it was to end outlives that it is STUCK": (
        *SERVING,
        at(10, ev.DeviceStopAsked(gen=1, reason="on the wrong GPU"), P.STOPPING, TermLeader(gen=1)),
        at(25, due(1), P.KILLING, KillGroup(gen=1)),
        at(35, due(1), P.STUCK, reason=STUCK_TOO),
        at(99, exited(1), P.FAILED, Reap(gen=1), due=None,
           reason=STUCK_TOO),
    ),
    "never ready": (
        *UP,
        at(3, bad(1, reason="port open, no HTTP"), P.STARTING, due=180),
        at(180, due(1), P.STOPPING, TermLeader(gen=1), reason="not ready after 3 min (port open, no HTTP)"),
        at(181, exited(1, code=0), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1),
    ),
    "orphans are swept before the next start": (
        *SERVING,
        at(9, exited(1, code=None, signal="SIGKILL", members=True), P.SWEEPING, TermGroup(gen=1), due=14),
        at(10, empty(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1),
    ),
    "orphans that ignore SIGTERM are killed": (
        *SERVING,
        at(9, exited(1, members=True), P.SWEEPING, TermGroup(gen=1), due=14),
        at(14, due(1), P.KILLING, KillGroup(gen=1), due=24),
        at(14, empty(1), P.STARTING, Reap(gen=1), Spawn(gen=2)),
    ),
    "a leader that ignores SIGTERM leaves members when killed": (
        *SERVING,
        at(10, STOP, P.STOPPING, TermLeader(gen=1), due=25),
        at(25, due(1), P.KILLING, KillGroup(gen=1), due=35),
        at(26, exited(1, code=None, signal="SIGKILL", members=True), P.KILLING, KillGroup(gen=1), due=35),
        at(27, empty(1), P.STOPPED, Reap(gen=1)),
    ),
    "an unkillable child is STUCK, and recovers": (
        *SERVING,
        at(10, RESTART, P.STOPPING, TermLeader(gen=1)),
        at(25, due(1), P.KILLING, KillGroup(gen=1), due=35),
        at(35, due(1), P.STUCK, due=None, pid=4001),
        at(999, due(1), P.STUCK),
        at(5000, exited(1, code=None, signal="SIGKILL"), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=0),
    ),
    "a start of what is STUCK waits for its end": (
        Instance(phase=P.STUCK, want=Want.DOWN, gen=1, pid=4001),
        (
            at(1, START, P.STUCK, want=Want.UP),
            at(9, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2)),
        ),
    ),
    "a shutdown refuses whatever comes later": (
        *SERVING,
        at(10, DOWN, P.STOPPING, TermLeader(gen=1), due=25, reason="the supervisor is stopping"),
        at(11, START, P.STOPPING, want=Want.DOWN),
        at(12, RESTART, P.STOPPING, want=Want.DOWN),
        at(13, exited(1, code=0), P.STOPPED, Reap(gen=1)),
        at(14, START, P.STOPPED),
        at(15, RESTART, P.STOPPED),
        at(16, ev.Adopted(gen=9, pid=77), P.STOPPED, pid=None),
    ),
    "a shutdown ends a wait": (
        Instance(restart=GENTLE),
        (*UP, at(1, exited(1), P.WAITING, Reap(gen=1)), at(2, DOWN, P.STOPPED), at(3, START, P.STOPPED)),
    ),
    "a shutdown before the pid is known": (
        at(0, START, P.STARTING, Spawn(gen=1)),
        at(1, DOWN, P.STARTING),
        at(2, START, P.STARTING, want=Want.DOWN),
        at(3, spawned(1), P.STOPPING, TermLeader(gen=1)),
        at(4, exited(1), P.STOPPED, Reap(gen=1)),
    ),
    "a hurried shutdown shortens what is left": (
        *SERVING,
        at(10, DOWN, P.STOPPING, TermLeader(gen=1), due=25),
        at(11, HURRY, P.STOPPING, due=13),
        at(12, HURRY, P.STOPPING, due=13),
        at(13, due(1), P.KILLING, KillGroup(gen=1), due=23),
        at(14, HURRY, P.KILLING, due=16),
    ),
    "a hurried shutdown never lengthens": (
        *SERVING,
        at(10, DOWN, P.STOPPING, TermLeader(gen=1), due=25),
        at(24, HURRY, P.STOPPING, due=25),
    ),
    "an adopted process ends, and nobody knows how": (
        at(0, ev.Adopted(gen=7, pid=77), P.STARTING, due=180, gen=7, pid=77, adopted=True, want=Want.UP, spawns=1),
        at(1, healthy(7), P.READY),
        at(
            9, exited(7, code=None), P.STARTING, Reap(gen=7), Spawn(gen=8),
            failures=1, adopted=False, pid=None, last_exit=LastExit(code=None, signal=None),
        ),
        at(9, spawned(8), P.STARTING, reason="exited (status unknown)", spawns=2),
    ),
    "an adopted process whose intent was to stop": (
        at(0, ev.Adopted(gen=7, pid=77), P.STARTING),
        at(0, STOP, P.STOPPING, TermLeader(gen=7), due=15),
        at(1, exited(7, code=None), P.STOPPED, Reap(gen=7), adopted=False),
    ),
    "an older incarnation is never adopted": (
        Instance(gen=5),
        (at(0, ev.Adopted(gen=4, pid=77), P.STOPPED, pid=None, gen=5),),
    ),
    "a hung runner is ended once, then the instance restarts": (
        *SERVING,
        at(10, bad(1, runner=5000), P.UNHEALTHY, EndRunner(gen=1, pid=5000), due=40),
        at(20, bad(1, runner=5000), P.UNHEALTHY, due=40),
        at(30, bad(1, runner=5001), P.UNHEALTHY, due=40),
        at(40, due(1), P.STOPPING, TermLeader(gen=1), due=55),
        at(41, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1, runner_ended=False),
    ),
    "a hung runner found late is ended too": (
        *SERVING,
        at(10, bad(1), P.UNHEALTHY, due=40),
        at(20, bad(1, runner=5000), P.UNHEALTHY, EndRunner(gen=1, pid=5000), due=40),
        at(22, healthy(1), P.READY, runner_ended=False, reason=None),
    ),
    "the next hung runner is a new incident": (
        *SERVING,
        at(10, bad(1, runner=5000), P.UNHEALTHY, EndRunner(gen=1, pid=5000)),
        at(12, healthy(1), P.READY),
        at(90, bad(1, runner=5001), P.UNHEALTHY, EndRunner(gen=1, pid=5001)),
    ),
    "on-failure leaves a clean exit alone": (
        Instance(restart=RestartSpec(policy=RestartPolicy.ON_FAILURE)),
        (
            *UP,
            at(
                9, exited(1, code=0), P.FAILED, Reap(gen=1), due=None, failures=0,
                reason="exited with status 0; not restarted: restart.policy is on-failure",
            ),
            at(10, START, P.STARTING, Spawn(gen=2)),
        ),
    ),
    "on-failure restarts after a crash": (
        Instance(restart=RestartSpec(policy=RestartPolicy.ON_FAILURE)),
        (*UP, at(9, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1)),
    ),
    "on-failure restarts what it stopped for its health, whatever the exit code": (
        Instance(restart=RestartSpec(policy=RestartPolicy.ON_FAILURE)),
        (
            *SERVING,
            at(10, bad(1), P.UNHEALTHY),
            at(40, due(1), P.STOPPING, TermLeader(gen=1)),
            at(41, exited(1, code=0), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1),
        ),
    ),
    "never means never": (
        Instance(restart=RestartSpec(policy=RestartPolicy.NEVER)),
        (
            *UP,
            at(9, exited(1), P.FAILED, Reap(gen=1), due=None, want=Want.UP),
            at(10, RESTART, P.STARTING, Spawn(gen=2)),
            at(10, spawned(2), P.STARTING),
            at(190, due(2), P.STOPPING, TermLeader(gen=2)),
            at(191, exited(2, code=0), P.FAILED, Reap(gen=2), due=None),
        ),
    ),
    "never still obeys a restart": (
        Instance(restart=RestartSpec(policy=RestartPolicy.NEVER)),
        (
            *SERVING,
            at(9, RESTART, P.STOPPING, TermLeader(gen=1)),
            at(10, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2)),
        ),
    ),
    "a restart for a device fault is no failure, and forgives none": (
        EARLIER,
        (
            at(1, ev.DeviceRestartAsked(gen=1, reason="computes on the CPU"), P.STOPPING, TermLeader(gen=1)),
            at(2, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=3),
        ),
    ),
    "a device fault that may not serve ends FAILED without retry": (
        *SERVING,
        at(9, ev.DeviceStopAsked(gen=1, reason="on the wrong GPU"), P.STOPPING, TermLeader(gen=1)),
        at(10, exited(1, code=0), P.FAILED, Reap(gen=1), due=None, reason="on the wrong GPU", want=Want.UP, failures=0),
        at(11, START, P.STARTING, Spawn(gen=2), failures=0),
    ),
    "a stop wins over a device fault": (
        *SERVING,
        at(9, ev.DeviceStopAsked(gen=1, reason="on the wrong GPU"), P.STOPPING, TermLeader(gen=1)),
        at(9, STOP, P.STOPPING),
        at(10, exited(1), P.STOPPED, Reap(gen=1)),
    ),
    "echoes of the incarnation before": (
        *SERVING,
        at(9, exited(1), P.STARTING, Reap(gen=1), Spawn(gen=2)),
        at(9, spawned(2), P.STARTING),
        at(9, healthy(1), P.STARTING),
        at(9, exited(1), P.STARTING, pid=4002),
        at(300, due(1), P.STARTING, due=189),
        at(300, empty(1), P.STARTING),
    ),
    "a child that turns into a daemon": (
        *UP,
        at(1, exited(1, code=0, members=True), P.SWEEPING, TermGroup(gen=1), reason="exited with status 0"),
        at(2, empty(1), P.STARTING, Reap(gen=1), Spawn(gen=2), failures=1),
    ),
    "killed from outside, perhaps for want of memory": (
        Instance(restart=GENTLE),
        (
            *SERVING,
            at(
                9, exited(1, code=None, signal="SIGKILL"), P.WAITING, Reap(gen=1),
                reason="killed by SIGKILL (out of memory? dmesg tells)",
                last_exit=LastExit(code=None, signal="SIGKILL"),
            ),
        ),
    ),
    "the last words of a child are quoted": (
        Instance(restart=GENTLE),
        (*UP, at(1, exited(1, words="CUDA error: out of memory"), P.WAITING, Reap(gen=1),
                 reason="exited with status 1: “CUDA error: out of memory”")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    history = HISTORIES[name]
    with_start = isinstance(history[0], Instance)
    state: Instance = history[0] if with_start else Instance()  # type: ignore[assignment]
    lines: tuple[Line, ...] = history[1] if with_start else history  # type: ignore[assignment]
    for line in lines:
        after, commands = step(state, line.event, line.time)
        assert after.phase is line.phase, line
        assert commands == line.commands, line
        for field, expected in line.fields.items():
            if field == "due":
                assert (None if after.deadline is None else after.deadline.at) == expected, line
            else:
                assert getattr(after, field) == expected, line
        judge_step(state, line.event, after, commands, line.time)
        judge_deadline(after)
        judge_intent(after)
        judge_quiet(after, line.time)
        state = after


def crash(state: Instance, now: float) -> tuple[Instance, float]:
    """Let the instance, whose Spawn was just asked for, appear and end at once; return how long it waits then."""
    state = step(state, ev.Spawned(gen=state.gen, pid=4000 + state.gen), now).state
    state = step(state, exited(state.gen), now).state
    waits = state.phase is P.WAITING and state.deadline is not None
    return state, state.deadline.at - now if waits else 0.0  # type: ignore[union-attr]


def test_R14_a_crash_loop_slows_down_and_ends_after_eight() -> None:
    now = 0.0
    state = step(Instance(), START, now).state
    delays = []
    for failures in range(1, 9):
        state, delay = crash(state, now)
        assert state.failures == failures
        if state.phase is P.WAITING:
            delays.append(delay)
            now += delay
            state = step(state, due(state.gen), now).state
        elif failures == 1:
            assert state.phase is P.STARTING, "the first restart is at once"
    for delay, nominal in zip(delays, (1, 2, 4, 8, 16, 32), strict=True):
        assert nominal * (1 - JITTER) <= delay < nominal * (1 + JITTER)
    assert state.phase is P.FAILED
    assert state.reason == "gave up after 8 failures in a row; the last: exited with status 1"
    assert state.deadline is not None
    assert state.deadline.at == now + RestartSpec().retry_failed_s


def test_a_crash_loop_without_a_limit_waits_a_minute_at_most_for_ever() -> None:
    now = 0.0
    state = step(Instance(restart=RestartSpec(failure_limit=0)), START, now).state
    delays = []
    for _ in range(2000):
        state, delay = crash(state, now)
        now += delay
        delays.append(delay)
        if state.phase is P.WAITING:
            state = step(state, due(state.gen), now).state
        assert state.phase is P.STARTING
    assert max(delays) <= 60.0
    assert min(delays[8:]) >= 60.0 * (1 - JITTER)


def test_R15_a_crash_once_a_month_is_always_mended_at_once() -> None:
    now, month = 0.0, 30 * 86400.0
    state = step(Instance(), START, now).state
    for _ in range(24):
        state = step(state, ev.Spawned(gen=state.gen, pid=1), now).state
        state = step(state, healthy(state.gen), now + 2).state
        state = step(state, due(state.gen), now + 122).state
        assert state.failures == 0
        now += month
        state = step(state, exited(state.gen), now).state
        assert (state.phase, state.failures) == (P.STARTING, 1)


def test_instances_that_crash_together_do_not_come_back_together() -> None:
    delays = set()
    for number in range(8):
        state = Instance(phase=P.READY, want=Want.UP, gen=1, pid=1, failures=5, salt=number / 8)
        after = step(state, exited(1), 0.0).state
        assert after.deadline is not None
        delays.add(round(after.deadline.at, 2))
    assert len(delays) == 8


def test_a_process_that_ended_is_described_for_people() -> None:
    for event, words in (
        (exited(1, code=3), "exited with status 3"),
        (exited(1, code=None, signal="SIGSEGV"), "killed by SIGSEGV"),
        (exited(1, code=None, signal="SIGKILL", words="no disk"), "killed by SIGKILL: “no disk”"),
        (exited(1, code=None), "exited (status unknown)"),
    ):
        state = Instance(phase=P.READY, want=Want.UP, gen=1, pid=1, restart=GENTLE)
        assert step(state, event, 0.0).state.reason == words
