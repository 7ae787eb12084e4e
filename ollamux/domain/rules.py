"""What each rule of the machine does. A rule sees the state, the event and the time, and nothing else.

Which rule applies when stands in `machine`; no rule is called from anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ollamux.domain import events as ev
from ollamux.domain.commands import EndRunner, KillGroup, TermGroup
from ollamux.domain.instance import Deadline, Instance, LastExit, Step
from ollamux.domain.moves import after_failure, enter, exit_words, fail, not_restarted, settle, spawn, take_down
from ollamux.domain.phases import SERVING, DeadlineKind, Phase, Want, Why
from ollamux.domain.policy import restart_delay_s
from ollamux.domain.spec import RestartPolicy
from ollamux.domain.text import format_duration

SWEEP_TIMEOUT_S: Final = 5.0
KILL_TIMEOUT_S: Final = 10.0
HURRY_S: Final = 2.0

Rule = Callable[[Instance, Any, float], Step]
_TARGETS: dict[Rule, frozenset[Phase]] = {}


def _leads_to(*targets: Phase) -> Callable[[Rule], Rule]:
    def remember(rule: Rule) -> Rule:
        _TARGETS[rule] = frozenset(targets)
        return rule

    return remember


def targets(rule: Rule) -> frozenset[Phase]:
    """Return the phases a rule may lead to besides the one it was applied in."""
    return _TARGETS[rule]


@_leads_to()
def ignore(state: Instance, event: ev.Event, now: float) -> Step:
    """Nothing to do: the event says nothing new in this phase."""
    return Step(state)


@_leads_to(Phase.STARTING)
def start(state: Instance, event: ev.Event, now: float) -> Step:
    """No process exists: start one, at once, whatever was waited for."""
    if state.shutting_down:
        return Step(state)
    spawns = 0 if state.want is Want.DOWN else state.spawns
    return spawn(state, now, want=Want.UP, failures=0, spawns=spawns)


@_leads_to()
def reconfigure(state: Instance, event: ev.Reconfigured, now: float) -> Step:
    """Other times hold from now on, also for the wait that is under way where its length is one of them.

    One that has ended for good by its policy is tried again at the slow pace, once the policy allows it.
    """
    told = state.but(
        restart=event.restart,
        start_timeout_s=event.start_timeout_s,
        unhealthy_timeout_s=event.unhealthy_timeout_s,
    )
    deadline, ended = state.deadline, state.phase is Phase.FAILED and state.deadline is None
    if deadline is not None and (before := _length_s(state, deadline.kind)) is not None:
        longer_by = (_length_s(told, deadline.kind) or 0.0) - before
        deadline = replace(deadline, at=deadline.at + longer_by)
    elif ended and state.why is not Why.GAVE_UP and event.restart.policy is not state.restart.policy:
        again = event.restart.policy is not RestartPolicy.NEVER
        deadline = Deadline(kind=DeadlineKind.RETRY, at=now + event.restart.retry_failed_s) if again else None
    return Step(told.but(deadline=deadline))


@_leads_to(Phase.FAILED)
def reconfigure_wait(state: Instance, event: ev.Reconfigured, now: float) -> Step:
    """It waits to be started again, which a policy that has become "never" forbids, unless it waits for a resource."""
    told = reconfigure(state, event, now).state
    backs_off = told.deadline is not None and told.deadline.kind is DeadlineKind.BACKOFF
    if not backs_off or told.restart.policy is not RestartPolicy.NEVER:
        return Step(told)
    return Step(fail(told, now, not_restarted(told), retry=False))


def _length_s(state: Instance, kind: DeadlineKind) -> float | None:
    """Return how long a wait of this kind is, None where the configuration does not say."""
    return {
        DeadlineKind.START: state.start_timeout_s,
        DeadlineKind.UNHEALTHY: state.unhealthy_timeout_s,
        DeadlineKind.STABLE: state.restart.stable_for_s,
        DeadlineKind.STOP: state.restart.stop_timeout_s,
        DeadlineKind.RETRY: state.restart.retry_failed_s,
        DeadlineKind.BACKOFF: restart_delay_s(state.restart, state.failures, salt=state.salt),
    }.get(kind)


@_leads_to()
def keep_up(state: Instance, event: ev.StartAsked, now: float) -> Step:
    """It runs already, or is about to, and is wanted: what was asked before it had a pid is taken back."""
    return Step(state if state.shutting_down else state.but(want=Want.UP, why=None))


@_leads_to()
def come_back(state: Instance, event: ev.Event, now: float) -> Step:
    """It is on its way down: come back after it. Never spawn here, that would be two incarnations."""
    if state.shutting_down:
        return Step(state)
    return Step(state.but(want=Want.UP, why=Why.RESTART))


@_leads_to(Phase.STOPPED)
def stay_down(state: Instance, event: ev.Event, now: float) -> Step:
    """No process exists and none is wanted."""
    down = enter(state, Phase.STOPPED, now=now, deadline=None, want=Want.DOWN, why=None, reason=None, spawns=0)
    return Step(down.but(shutting_down=state.shutting_down or isinstance(event, ev.ShutdownAsked)))


@_leads_to(Phase.STOPPING)
def stop(state: Instance, event: ev.StopAsked, now: float) -> Step:
    """Take it down for good."""
    return take_down(state, now, Why.STOP, want=Want.DOWN, reason=event.reason)


@_leads_to()
def stop_soon(state: Instance, event: ev.StopAsked, now: float) -> Step:
    """It is on its way down already; only the intent changes, never the deadline."""
    return Step(state.but(want=Want.DOWN))


@_leads_to(Phase.STOPPING)
def shut_down(state: Instance, event: ev.ShutdownAsked, now: float) -> Step:
    """The supervisor goes down: stop, and refuse to come back."""
    taken = take_down(state, now, Why.STOP, want=Want.DOWN, shutting_down=True, reason="the supervisor is stopping")
    return _hurry(taken, event, now)


@_leads_to()
def shut_down_soon(state: Instance, event: ev.ShutdownAsked, now: float) -> Step:
    """It is on its way down; a hurried shutdown shortens the wait, nothing lengthens it."""
    return _hurry(Step(state.but(want=Want.DOWN, shutting_down=True)), event, now)


def _hurry(decided: Step, event: ev.ShutdownAsked, now: float) -> Step:
    deadline = decided.state.deadline
    if not event.hurry or deadline is None or decided.state.phase in SERVING:
        return decided
    sooner = replace(deadline, at=min(deadline.at, now + HURRY_S))
    return Step(decided.state.but(deadline=sooner), decided.commands)


@_leads_to(Phase.STOPPING)
def restart(state: Instance, event: ev.RestartAsked, now: float) -> Step:
    """Take it down and start a new incarnation; a user's restart is no failure."""
    if state.shutting_down:
        return Step(state)
    return take_down(state, now, Why.RESTART, want=Want.UP, failures=0, reason=event.reason)


@_leads_to(Phase.STARTING)
def adopt(state: Instance, event: ev.Adopted, now: float) -> Step:
    """Watch a process of an earlier supervisor as if we had started it."""
    if state.shutting_down or event.gen < state.gen:
        return Step(state)
    adopted = enter(
        state, Phase.STARTING, now=now, deadline=(DeadlineKind.START, state.start_timeout_s),
        gen=event.gen, pid=event.pid, adopted=True, want=Want.UP, why=None, spawns=max(1, state.spawns),
        reason="found running; checking it",
    )  # fmt: skip
    return Step(adopted)


@_leads_to(Phase.STOPPING)
def spawned(state: Instance, event: ev.Spawned, now: float) -> Step:
    """The process exists. What was asked meanwhile is done now."""
    alive = state.but(pid=event.pid, spawns=state.spawns + 1)
    return Step(alive) if alive.why is None else take_down(alive, now, alive.why)


@_leads_to(Phase.STOPPED, Phase.FAILED, Phase.WAITING, Phase.STARTING)
def spawn_failed(state: Instance, event: ev.SpawnFailed, now: float) -> Step:
    """There is no process. Trying again soon is pointless where the cause is permanent."""
    if state.want is Want.DOWN:
        return stay_down(state, event, now)
    told = state.but(reason=event.reason, why=None)
    if event.permanent:
        return Step(fail(told.but(failures=told.failures + 1), now, event.reason, retry=True))
    return after_failure(told, now)


@_leads_to(Phase.STOPPED, Phase.WAITING)
def spawn_blocked(state: Instance, event: ev.SpawnBlocked, now: float) -> Step:
    """Nothing was started, so the generation was not used. Wait for the resource by name; this is no failure."""
    unused = state.but(gen=state.gen - 1, why=None)
    if state.want is Want.DOWN:
        return stay_down(unused, event, now)
    again = None if event.retry_s is None else (DeadlineKind.RESOURCE, event.retry_s)
    return Step(enter(unused, Phase.WAITING, now=now, deadline=again, resource=event.resource, reason=event.reason))


@_leads_to(Phase.STARTING)
def freed(state: Instance, event: ev.ResourceFreed, now: float) -> Step:
    """The resource that was waited for may be free."""
    return spawn(state, now) if event.resource == state.resource else Step(state)


@_leads_to(Phase.READY)
def get_ready(state: Instance, event: ev.HealthPassed, now: float) -> Step:
    """Proven healthy. Failures are forgotten only after a stable while."""
    stable = (DeadlineKind.STABLE, state.restart.stable_for_s)
    return Step(enter(state, Phase.READY, now=now, deadline=stable, reason=None, runner_ended=False))


@_leads_to()
def not_yet(state: Instance, event: ev.HealthFailed, now: float) -> Step:
    """Still starting: the deadline rules, but say what is missing."""
    return Step(state) if state.reason == event.reason else Step(state.but(reason=event.reason))


@_leads_to(Phase.UNHEALTHY)
def get_unhealthy(state: Instance, event: ev.HealthFailed, now: float) -> Step:
    """Told at once; the graded remedy first, the restart when the time is up."""
    bad = enter(
        state,
        Phase.UNHEALTHY,
        now=now,
        deadline=(DeadlineKind.UNHEALTHY, state.unhealthy_timeout_s),
        reason=event.reason,
    )
    return _end_runner(bad, event)


@_leads_to()
def still_unhealthy(state: Instance, event: ev.HealthFailed, now: float) -> Step:
    """The deadline stands; a hung runner found meanwhile is ended, once."""
    told = state if state.reason == event.reason else state.but(reason=event.reason)
    return _end_runner(told, event)


def _end_runner(state: Instance, event: ev.HealthFailed) -> Step:
    if event.runner is None or state.runner_ended:
        return Step(state)
    return Step(state.but(runner_ended=True), (EndRunner(gen=state.gen, pid=event.runner),))


@_leads_to(Phase.STOPPING)
def device_restart(state: Instance, event: ev.DeviceRestartAsked, now: float) -> Step:
    """A device fault that a restart may mend."""
    return take_down(state, now, Why.DEVICE, reason=event.reason)


@_leads_to(Phase.STOPPING)
def device_stop(state: Instance, event: ev.DeviceStopAsked, now: float) -> Step:
    """A device fault with which the instance must not serve."""
    return take_down(state, now, Why.GAVE_UP, reason=event.reason)


@_leads_to(Phase.SWEEPING, Phase.STOPPED, Phase.WAITING, Phase.STARTING, Phase.FAILED)
def leader_exited(state: Instance, event: ev.LeaderExited, now: float) -> Step:
    """The leader is gone: sweep what it left, and only then decide what follows."""
    last_exit = LastExit(code=event.code, signal=event.signal)
    crashed = state.phase in SERVING and state.why is None
    reason = exit_words(event) if crashed else state.reason
    if event.members:
        deadline = (DeadlineKind.SWEEP, SWEEP_TIMEOUT_S)
        swept = enter(state, Phase.SWEEPING, now=now, deadline=deadline, last_exit=last_exit, reason=reason)
        return Step(swept, (TermGroup(gen=state.gen),))
    return settle(state, now, permanent=crashed and event.never_ran, last_exit=last_exit, reason=reason)


@_leads_to(Phase.STOPPED, Phase.WAITING, Phase.STARTING, Phase.FAILED)
def leader_killed(state: Instance, event: ev.LeaderExited, now: float) -> Step:
    """The leader is gone at last; what fell to us through its death gets the same signal, in the same time."""
    told = state.but(last_exit=LastExit(code=event.code, signal=event.signal))
    return Step(told, (KillGroup(gen=state.gen),)) if event.members else settle(told, now)


@_leads_to(Phase.STOPPED, Phase.WAITING, Phase.STARTING, Phase.FAILED)
def emptied(state: Instance, event: ev.GroupEmptied, now: float) -> Step:
    """Nothing of the old incarnation is left."""
    return settle(state, now)


@_leads_to(Phase.STARTING)
def time_to_spawn(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
    """The wait is over. Until it is ready the last failure explains why it starts; a resource is no news any more."""
    if not _due(state, now):
        return Step(state)
    return spawn(state, now, reason=state.reason if state.resource is None else None)


@_leads_to(Phase.STOPPING)
def too_slow(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
    """It did not get ready in time."""
    if not _due(state, now):
        return Step(state)
    if state.pid is None:  # the shell has not answered yet; what was asked meanwhile holds
        return Step(enter(state, Phase.STARTING, now=now, deadline=(DeadlineKind.START, state.start_timeout_s)))
    seen = f" ({state.reason})" if state.reason else ""
    return take_down(
        state,
        now,
        Why.START_TIMEOUT,
        reason=f"not ready after {format_duration(state.start_timeout_s)}{seen}",
    )


@_leads_to()
def stable(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
    """Ready for long enough: earlier failures no longer count."""
    return Step(state.but(failures=0, deadline=None)) if _due(state, now) else Step(state)


@_leads_to(Phase.STOPPING)
def unhealthy_too_long(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
    """It did not recover in time."""
    return take_down(state, now, Why.UNHEALTHY) if _due(state, now) else Step(state)


@_leads_to(Phase.KILLING)
def kill(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
    """It would not go: SIGKILL to everything of it."""
    if not _due(state, now):
        return Step(state)
    return Step(
        enter(state, Phase.KILLING, now=now, deadline=(DeadlineKind.KILL, KILL_TIMEOUT_S)),
        (KillGroup(gen=state.gen),),
    )


@_leads_to(Phase.STUCK)
def stuck(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
    """Not even SIGKILL ended it: it hangs in the kernel. Its GPU and port stay reserved until it goes."""
    if not _due(state, now):
        return Step(state)
    hangs = "does not end even on SIGKILL: it hangs in the kernel (driver?)"
    # Why it was to end is told all the same: it is what follows from, once it has gone.
    reason = f"{state.reason}; {hangs}" if state.reason else hangs
    return Step(enter(state, Phase.STUCK, now=now, deadline=None, reason=reason))


def _due(state: Instance, now: float) -> bool:
    return state.deadline is not None and now >= state.deadline.at
