"""The life of one instance: `step(state, event, now) -> Step(state, commands)`.

Rule 1: every change of phase happens through this table.
Rule 2: neither this file nor `rules` performs input or output, reads a clock or writes a log.
Rule 3: nothing is spawned but from a phase in which no process exists, and the leader is reaped only once nothing of
its incarnation is left: an unreaped leader pins the group's number, so that a signal cannot reach a stranger.

Intent (`want`) is apart from phase, and the newest intent wins. An event about a process carries its generation; the
echo of an earlier generation changes nothing. At most one deadline is armed; a phase with a live process has one
unless it is READY (proven stable) or STUCK. A repeated stop never moves a deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ollamux.domain import events as ev
from ollamux.domain.instance import Instance, Step
from ollamux.domain.phases import Phase
from ollamux.domain.rules import (
    Rule,
    adopt,
    come_back,
    device_restart,
    device_stop,
    emptied,
    freed,
    get_ready,
    get_unhealthy,
    ignore,
    keep_up,
    kill,
    leader_exited,
    leader_killed,
    not_yet,
    reconfigure,
    reconfigure_wait,
    restart,
    shut_down,
    shut_down_soon,
    spawn_blocked,
    spawn_failed,
    spawned,
    stable,
    start,
    stay_down,
    still_unhealthy,
    stop,
    stop_soon,
    stuck,
    time_to_spawn,
    too_slow,
    unhealthy_too_long,
)


def step(state: Instance, event: ev.Event, now: float) -> Step:
    """Return the next state and what must be done about it. `now` is in monotonic seconds."""
    gen = getattr(event, "gen", None)
    if gen is not None and gen != state.gen and not isinstance(event, ev.Adopted):
        return Step(state)
    return TABLE[state.phase, type(event)](state, event, now)


def _rows() -> Mapping[tuple[Phase, type], Rule]:
    p = Phase
    columns: dict[type, dict[Phase, Rule]] = {
        ev.StartAsked: {
            p.STOPPED: start, p.WAITING: start, p.FAILED: start,
            p.STARTING: keep_up, p.READY: keep_up, p.UNHEALTHY: keep_up,
            p.STOPPING: come_back, p.SWEEPING: come_back, p.KILLING: come_back, p.STUCK: come_back,
        },
        ev.StopAsked: {
            p.STOPPED: stay_down, p.WAITING: stay_down, p.FAILED: stay_down,
            p.STARTING: stop, p.READY: stop, p.UNHEALTHY: stop,
            p.STOPPING: stop_soon, p.SWEEPING: stop_soon, p.KILLING: stop_soon, p.STUCK: stop_soon,
        },
        ev.RestartAsked: {
            p.STOPPED: start, p.WAITING: start, p.FAILED: start,
            p.STARTING: restart, p.READY: restart, p.UNHEALTHY: restart,
            p.STOPPING: come_back, p.SWEEPING: come_back, p.KILLING: come_back, p.STUCK: come_back,
        },
        ev.Reconfigured: {**dict.fromkeys(p, reconfigure), p.WAITING: reconfigure_wait},
        ev.ShutdownAsked: {
            p.STOPPED: stay_down, p.WAITING: stay_down, p.FAILED: stay_down,
            p.STARTING: shut_down, p.READY: shut_down, p.UNHEALTHY: shut_down,
            p.STOPPING: shut_down_soon, p.SWEEPING: shut_down_soon, p.KILLING: shut_down_soon, p.STUCK: shut_down_soon,
        },
        ev.ResourceFreed: {p.WAITING: freed},
        ev.Adopted: {p.STOPPED: adopt, p.WAITING: adopt, p.FAILED: adopt},
        ev.Spawned: {p.STARTING: spawned},
        ev.SpawnFailed: {p.STARTING: spawn_failed},
        ev.SpawnBlocked: {p.STARTING: spawn_blocked},
        ev.HealthPassed: {p.STARTING: get_ready, p.UNHEALTHY: get_ready},
        ev.HealthFailed: {p.STARTING: not_yet, p.READY: get_unhealthy, p.UNHEALTHY: still_unhealthy},
        ev.DeviceRestartAsked: {p.STARTING: device_restart, p.READY: device_restart, p.UNHEALTHY: device_restart},
        ev.DeviceStopAsked: {p.STARTING: device_stop, p.READY: device_stop, p.UNHEALTHY: device_stop},
        ev.LeaderExited: {
            p.STARTING: leader_exited, p.READY: leader_exited, p.UNHEALTHY: leader_exited, p.STOPPING: leader_exited,
            p.SWEEPING: leader_killed, p.KILLING: leader_killed, p.STUCK: leader_killed,
        },
        ev.GroupEmptied: {p.SWEEPING: emptied, p.KILLING: emptied, p.STUCK: emptied},
        ev.DeadlinePassed: {
            p.WAITING: time_to_spawn, p.FAILED: time_to_spawn, p.STARTING: too_slow, p.READY: stable,
            p.UNHEALTHY: unhealthy_too_long, p.STOPPING: kill, p.SWEEPING: kill, p.KILLING: stuck,
        },
    }  # fmt: skip
    return {(phase, event): rules.get(phase, ignore) for event, rules in columns.items() for phase in Phase}


TABLE: Final[Mapping[tuple[Phase, type], Rule]] = _rows()
"""Every phase and every event, without exception."""
