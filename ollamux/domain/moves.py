"""How a state changes: the few moves that the rules are made of. What decides which one is made is in `rules`."""

from __future__ import annotations

from typing import Any

from ollamux.domain import events as ev
from ollamux.domain.commands import Reap, Spawn, TermLeader
from ollamux.domain.instance import Deadline, Instance, Step
from ollamux.domain.phases import DeadlineKind, Phase, Want, Why
from ollamux.domain.policy import gives_up, restart_delay_s, restarts_after_exit
from ollamux.domain.spec import RestartPolicy


def enter(
    state: Instance, phase: Phase, *, now: float, deadline: tuple[DeadlineKind, float] | None, **also: Any
) -> Instance:
    """Change the phase; the deadline of the old one goes with it. `deadline` is (kind, seconds from now) or None."""
    armed = None if deadline is None else Deadline(kind=deadline[0], at=now + deadline[1])
    return state.but(phase=phase, deadline=armed, **{"resource": None, **also})


def spawn(state: Instance, now: float, **also: Any) -> Step:
    """Ask for a new incarnation. Only from a state in which no process exists."""
    gen = state.gen + 1
    fresh = enter(
        state,
        Phase.STARTING,
        now=now,
        deadline=(DeadlineKind.START, state.start_timeout_s),
        **{
            "gen": gen,
            "pid": None,
            "why": None,
            "adopted": False,
            "runner_ended": False,
            "reason": None,
            **also,
        },
    )
    return Step(fresh, (Spawn(gen=gen),))


def take_down(state: Instance, now: float, why: Why, **also: Any) -> Step:
    """Ask the leader to end, and remember why."""
    if state.pid is None:  # asked before the shell reported the pid: Spawned finds `why` and goes on from there
        return Step(state.but(why=why, **also))
    down = enter(
        state,
        Phase.STOPPING,
        now=now,
        deadline=(DeadlineKind.STOP, state.restart.stop_timeout_s),
        why=why,
        **also,
    )
    return Step(down, (TermLeader(gen=state.gen),))


def fail(state: Instance, now: float, reason: str | None, *, retry: bool, **also: Any) -> Instance:
    """Give up; with `retry` a slow new attempt follows."""
    after = (DeadlineKind.RETRY, state.restart.retry_failed_s) if retry and state.restart.retry_failed_s > 0 else None
    return enter(state, Phase.FAILED, now=now, deadline=after, reason=reason, pid=None, adopted=False, **also)


def settle(state: Instance, now: float, *, permanent: bool = False, **also: Any) -> Step:
    """Decide what follows now that nothing of the old incarnation exists. `permanent`: to try again soon is no use."""
    gone = state.but(pid=None, adopted=False, **also)
    reap = Reap(gen=state.gen)
    if gone.want is Want.DOWN:
        return Step(enter(gone, Phase.STOPPED, now=now, deadline=None, why=None, reason=None, spawns=0), (reap,))
    if gone.why in (Why.RESTART, Why.DEVICE):
        failures = 0 if gone.why is Why.RESTART else gone.failures
        spawned = spawn(gone, now, failures=failures)
        return Step(spawned.state, (reap, *spawned.commands))
    if gone.why is Why.GAVE_UP:
        return Step(fail(gone, now, gone.reason, retry=False), (reap,))
    ended = gone.last_exit.code if gone.last_exit is not None and gone.why is None else None
    if gone.restart.policy is RestartPolicy.NEVER or (
        gone.why is None and not restarts_after_exit(gone.restart, ended)
    ):
        return Step(fail(gone, now, not_restarted(gone), retry=False), (reap,))
    if permanent:
        return Step(fail(gone.but(failures=gone.failures + 1), now, gone.reason, retry=True), (reap,))
    after = after_failure(gone, now)
    return Step(after.state, (reap, *after.commands))


def not_restarted(state: Instance) -> str:
    """Say why an instance that ended stays down."""
    return f"{state.reason}; not restarted: restart.policy is {state.restart.policy.value}"


def after_failure(state: Instance, now: float) -> Step:
    """Count an unstable run, and wait, start at once, or give up."""
    failures = state.failures + 1
    if gives_up(state.restart, failures):
        count = "the first failure" if failures == 1 else f"{failures} failures in a row; the last"
        reason = f"gave up after {count}: {state.reason}"
        return Step(fail(state, now, reason, retry=True, failures=failures, why=None))
    delay = restart_delay_s(state.restart, failures, salt=state.salt)
    if delay <= 0:
        return spawn(state, now, reason=state.reason, failures=failures)
    waits = (DeadlineKind.BACKOFF, delay)
    return Step(enter(state, Phase.WAITING, now=now, deadline=waits, failures=failures, why=None))


def exit_words(event: ev.LeaderExited) -> str:
    """Say how a process ended, for people."""
    if event.signal is not None:
        how = f"killed by {event.signal}"
        how += " (out of memory? dmesg tells)" if event.signal == "SIGKILL" and not event.words else ""
    elif event.code is not None:
        how = f"exited with status {event.code}"
    else:
        how = "exited (status unknown)"
    return f"{how}: “{event.words}”" if event.words else how
