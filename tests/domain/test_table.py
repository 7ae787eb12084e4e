"""The table has a row for everything, each row does what it says, and nothing else changes anything."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from ollamux.domain import events as ev
from ollamux.domain.commands import Command, EndRunner, KillGroup, Reap, Spawn, TermGroup, TermLeader
from ollamux.domain.events import EVENTS
from ollamux.domain.instance import Deadline, Instance
from ollamux.domain.machine import TABLE, step
from ollamux.domain.phases import GOING_DOWN, NO_PROCESS, SERVING, DeadlineKind, Phase, Want, Why
from ollamux.domain.policy import restart_delay_s
from ollamux.domain.rules import ignore, targets
from ollamux.domain.spec import RestartPolicy, RestartSpec

from .world import KINDS, about, judge_deadline, judge_intent, judge_quiet, judge_step

K = DeadlineKind
P = Phase
NOW = 1000.0
SAME = "same"
PORT = "port 11435"


def typical(phase: Phase) -> Instance:
    """An instance in its third generation, ten seconds before its deadline (if the phase has one)."""
    kinds = {**KINDS, P.WAITING: {K.BACKOFF}}.get(phase, set())
    deadline = Deadline(kind=next(iter(kinds)), at=NOW + 10) if kinds else None
    gone = phase in NO_PROCESS
    return Instance(
        phase=phase,
        want=Want.DOWN if phase is P.STOPPED else Want.UP,
        why=Why.UNHEALTHY if phase in GOING_DOWN else None,
        gen=3,
        pid=None if gone else 4003,
        failures=1,
        spawns=0 if phase is P.STOPPED else 3,
        deadline=deadline,
        reason="before",
    )


BACKOFF = (K.BACKOFF, restart_delay_s(RestartSpec(), 2, salt=0.5))
SPAWN = (Spawn(gen=4),)
TERM = (TermLeader(gen=3),)
SWEEP = (TermGroup(gen=3),)
KILL = (KillGroup(gen=3),)
REAP = (Reap(gen=3),)

START = ev.StartAsked()
STOP = ev.StopAsked()
RESTART = ev.RestartAsked()
PATIENT = ev.Reconfigured(
    restart=RestartSpec(stable_for_s=150.0, base_s=9.0, stop_timeout_s=99.0, retry_failed_s=660.0),
    start_timeout_s=200.0,
    unhealthy_timeout_s=37.0,
)
NEVER = replace(PATIENT, restart=RestartSpec(policy=RestartPolicy.NEVER))
DOWN = ev.ShutdownAsked()
HURRY = ev.ShutdownAsked(hurry=True)
ADOPTED = ev.Adopted(gen=5, pid=77)
SPAWNED = ev.Spawned(gen=3, pid=4003)
NO_MEMORY = ev.SpawnFailed(gen=3, reason="no memory", permanent=False)
NO_BINARY = ev.SpawnFailed(gen=3, reason="no ollama", permanent=True)
TAKEN = ev.SpawnBlocked(gen=3, resource=PORT, reason="taken by pid 812", retry_s=5.0)
STAGGERED = ev.SpawnBlocked(gen=3, resource="start slot", reason="two others start", retry_s=None)
PASSED = ev.HealthPassed(gen=3)
BAD = ev.HealthFailed(gen=3, reason="no answer")
HUNG = ev.HealthFailed(gen=3, reason="runner hangs", runner=5000)
ON_CPU = ev.DeviceRestartAsked(gen=3, reason="computes on the CPU")
WRONG_GPU = ev.DeviceStopAsked(gen=3, reason="on the wrong GPU")
CRASH = ev.LeaderExited(gen=3, code=1, signal=None, members=False)
CRASH_LEAVING = ev.LeaderExited(gen=3, code=None, signal="SIGKILL", members=True)
EMPTY = ev.GroupEmptied(gen=3)
DUE = ev.DeadlinePassed(gen=3)

Armed = tuple[DeadlineKind, float] | str | None
# phase, event, phase it leads to, what is done, what is armed then (kind and seconds from now, or the same as before)
ROWS: tuple[tuple[Phase, ev.Event, Phase, tuple[Command, ...], Armed], ...] = (
    (P.STOPPED, START, P.STARTING, SPAWN, (K.START, 180)),
    (P.STOPPED, RESTART, P.STARTING, SPAWN, (K.START, 180)),
    (P.STOPPED, STOP, P.STOPPED, (), None),
    (P.STOPPED, DOWN, P.STOPPED, (), None),
    (P.STOPPED, ADOPTED, P.STARTING, (), (K.START, 180)),
    (P.WAITING, START, P.STARTING, SPAWN, (K.START, 180)),
    (P.WAITING, RESTART, P.STARTING, SPAWN, (K.START, 180)),
    (P.WAITING, STOP, P.STOPPED, (), None),
    (P.WAITING, DOWN, P.STOPPED, (), None),
    (P.WAITING, ADOPTED, P.STARTING, (), (K.START, 180)),
    (P.WAITING, ev.ResourceFreed(resource=PORT), P.WAITING, (), SAME),
    (P.WAITING, DUE, P.STARTING, SPAWN, (K.START, 180)),
    (P.FAILED, START, P.STARTING, SPAWN, (K.START, 180)),
    (P.FAILED, RESTART, P.STARTING, SPAWN, (K.START, 180)),
    (P.FAILED, STOP, P.STOPPED, (), None),
    (P.FAILED, DOWN, P.STOPPED, (), None),
    (P.FAILED, ADOPTED, P.STARTING, (), (K.START, 180)),
    (P.FAILED, DUE, P.STARTING, SPAWN, (K.START, 180)),
    (P.STARTING, START, P.STARTING, (), SAME),
    (P.STARTING, STOP, P.STOPPING, TERM, (K.STOP, 15)),
    (P.STARTING, RESTART, P.STOPPING, TERM, (K.STOP, 15)),
    (P.STARTING, DOWN, P.STOPPING, TERM, (K.STOP, 15)),
    (P.STARTING, HURRY, P.STOPPING, TERM, (K.STOP, 2)),
    (P.STARTING, SPAWNED, P.STARTING, (), SAME),
    (P.STARTING, NO_MEMORY, P.WAITING, (), BACKOFF),
    (P.STARTING, NO_BINARY, P.FAILED, (), (K.RETRY, 600)),
    (P.STARTING, TAKEN, P.WAITING, (), (K.RESOURCE, 5)),
    (P.STARTING, STAGGERED, P.WAITING, (), None),
    (P.STARTING, PASSED, P.READY, (), (K.STABLE, 120)),
    (P.STARTING, BAD, P.STARTING, (), SAME),
    (P.STARTING, HUNG, P.STARTING, (), SAME),
    (P.STARTING, ON_CPU, P.STOPPING, TERM, (K.STOP, 15)),
    (P.STARTING, WRONG_GPU, P.STOPPING, TERM, (K.STOP, 15)),
    (P.STARTING, CRASH, P.WAITING, REAP, BACKOFF),
    (P.STARTING, CRASH_LEAVING, P.SWEEPING, SWEEP, (K.SWEEP, 5)),
    (P.STARTING, DUE, P.STOPPING, TERM, (K.STOP, 15)),
    (P.READY, START, P.READY, (), SAME),
    (P.READY, STOP, P.STOPPING, TERM, (K.STOP, 15)),
    (P.READY, RESTART, P.STOPPING, TERM, (K.STOP, 15)),
    (P.READY, DOWN, P.STOPPING, TERM, (K.STOP, 15)),
    (P.READY, HURRY, P.STOPPING, TERM, (K.STOP, 2)),
    (P.READY, PASSED, P.READY, (), SAME),
    (P.READY, BAD, P.UNHEALTHY, (), (K.UNHEALTHY, 30)),
    (P.READY, HUNG, P.UNHEALTHY, (EndRunner(gen=3, pid=5000),), (K.UNHEALTHY, 30)),
    (P.READY, ON_CPU, P.STOPPING, TERM, (K.STOP, 15)),
    (P.READY, WRONG_GPU, P.STOPPING, TERM, (K.STOP, 15)),
    (P.READY, CRASH, P.WAITING, REAP, BACKOFF),
    (P.READY, CRASH_LEAVING, P.SWEEPING, SWEEP, (K.SWEEP, 5)),
    (P.READY, DUE, P.READY, (), None),
    (P.UNHEALTHY, START, P.UNHEALTHY, (), SAME),
    (P.UNHEALTHY, STOP, P.STOPPING, TERM, (K.STOP, 15)),
    (P.UNHEALTHY, RESTART, P.STOPPING, TERM, (K.STOP, 15)),
    (P.UNHEALTHY, DOWN, P.STOPPING, TERM, (K.STOP, 15)),
    (P.UNHEALTHY, PASSED, P.READY, (), (K.STABLE, 120)),
    (P.UNHEALTHY, BAD, P.UNHEALTHY, (), SAME),
    (P.UNHEALTHY, HUNG, P.UNHEALTHY, (EndRunner(gen=3, pid=5000),), SAME),
    (P.UNHEALTHY, ON_CPU, P.STOPPING, TERM, (K.STOP, 15)),
    (P.UNHEALTHY, WRONG_GPU, P.STOPPING, TERM, (K.STOP, 15)),
    (P.UNHEALTHY, CRASH, P.WAITING, REAP, BACKOFF),
    (P.UNHEALTHY, CRASH_LEAVING, P.SWEEPING, SWEEP, (K.SWEEP, 5)),
    (P.UNHEALTHY, DUE, P.STOPPING, TERM, (K.STOP, 15)),
    (P.STOPPING, START, P.STOPPING, (), SAME),
    (P.STOPPING, RESTART, P.STOPPING, (), SAME),
    (P.STOPPING, STOP, P.STOPPING, (), SAME),
    (P.STOPPING, DOWN, P.STOPPING, (), SAME),
    (P.STOPPING, HURRY, P.STOPPING, (), (K.STOP, 2)),
    (P.STOPPING, CRASH, P.WAITING, REAP, BACKOFF),
    (P.STOPPING, CRASH_LEAVING, P.SWEEPING, SWEEP, (K.SWEEP, 5)),
    (P.STOPPING, DUE, P.KILLING, KILL, (K.KILL, 10)),
    (P.SWEEPING, START, P.SWEEPING, (), SAME),
    (P.SWEEPING, STOP, P.SWEEPING, (), SAME),
    (P.SWEEPING, HURRY, P.SWEEPING, (), (K.SWEEP, 2)),
    (P.SWEEPING, EMPTY, P.WAITING, REAP, BACKOFF),
    (P.SWEEPING, DUE, P.KILLING, KILL, (K.KILL, 10)),
    (P.KILLING, START, P.KILLING, (), SAME),
    (P.KILLING, STOP, P.KILLING, (), SAME),
    (P.KILLING, CRASH, P.WAITING, REAP, BACKOFF),
    (P.KILLING, CRASH_LEAVING, P.KILLING, KILL, SAME),
    (P.KILLING, EMPTY, P.WAITING, REAP, BACKOFF),
    (P.KILLING, DUE, P.STUCK, (), None),
    (P.STUCK, START, P.STUCK, (), None),
    (P.STUCK, RESTART, P.STUCK, (), None),
    (P.STUCK, STOP, P.STUCK, (), None),
    (P.STUCK, HURRY, P.STUCK, (), None),
    (P.STUCK, CRASH, P.WAITING, REAP, BACKOFF),
    (P.STUCK, CRASH_LEAVING, P.STUCK, KILL, None),
    (P.STUCK, EMPTY, P.WAITING, REAP, BACKOFF),
    (P.STARTING, PATIENT, P.STARTING, (), (K.START, 10 + 20)),
    (P.READY, PATIENT, P.READY, (), (K.STABLE, 10 + 30)),
    (P.UNHEALTHY, PATIENT, P.UNHEALTHY, (), (K.UNHEALTHY, 10 + 7)),
    (P.STOPPING, PATIENT, P.STOPPING, (), (K.STOP, 10 + 84)),
    (P.FAILED, PATIENT, P.FAILED, (), (K.RETRY, 10 + 60)),
    (P.WAITING, NEVER, P.FAILED, (), None),
    *((phase, PATIENT, phase, (), SAME) for phase in (P.STOPPED, P.WAITING, P.SWEEPING, P.KILLING, P.STUCK)),
)


def words(row: tuple[object, ...]) -> str:
    phase, event = row[0], row[1]
    hurry = "-hurry" if event is HURRY else ""
    return f"{phase.name}-{type(event).__name__}{hurry}"  # type: ignore[attr-defined]


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(product(Phase, EVENTS))


def test_every_event_belongs_to_the_union_once() -> None:
    named = {value for value in vars(ev).values() if isinstance(value, type) and value.__module__ == ev.__name__}
    assert set(EVENTS) == named
    assert len(EVENTS) == len(set(EVENTS))


@pytest.mark.parametrize("row", ROWS, ids=words)
def test_a_row_does_what_it_says(row: tuple[Phase, ev.Event, Phase, tuple[Command, ...], Armed]) -> None:
    phase, event, expected, commands, armed = row
    before = typical(phase)
    now = NOW + 10 if event is DUE else NOW
    after = step(before, event, now)
    assert after.state.phase is expected
    assert after.commands == commands
    if armed == SAME:
        assert after.state.deadline == before.deadline
    elif isinstance(armed, tuple):
        assert after.state.deadline is not None
        assert after.state.deadline.kind is armed[0]
        assert after.state.deadline.at - now == pytest.approx(armed[1])
    else:
        assert after.state.deadline is None
    judge_step(before, event, after.state, after.commands, now)
    judge_deadline(after.state)
    judge_intent(after.state)
    judge_quiet(after.state, now)


def test_each_row_that_is_not_ignored_is_tried_above() -> None:
    tried = {(phase, type(event)) for phase, event, *_ in ROWS}
    alike = {ev.ShutdownAsked, ev.RestartAsked, ev.LeaderExited}  # as in the phase beside it
    missing = {
        (phase, event)
        for (phase, event), rule in TABLE.items()
        if rule is not ignore and (phase, event) not in tried and event not in alike
    }
    assert not missing


@pytest.mark.parametrize("phase", Phase)
def test_what_the_table_ignores_changes_nothing(phase: Phase) -> None:
    for event in (START, STOP, RESTART, DOWN, ev.ResourceFreed(resource=PORT), *about(3)):
        if TABLE[phase, type(event)] is ignore:
            assert step(typical(phase), event, NOW + 1e6) == (typical(phase), ())


@pytest.mark.parametrize("phase", Phase)
def test_an_echo_of_another_generation_changes_nothing(phase: Phase) -> None:
    for event in about(2) + tuple(event for event in about(4) if not isinstance(event, ev.Adopted)):
        assert step(typical(phase), event, NOW + 1e6) == (typical(phase), ())


@pytest.mark.parametrize("phase", [phase for phase in Phase if typical(phase).deadline])
def test_a_deadline_that_is_not_due_changes_nothing(phase: Phase) -> None:
    assert step(typical(phase), DUE, NOW + 9.999) == (typical(phase), ())


@pytest.mark.parametrize("phase", Phase)
def test_a_deadline_that_was_taken_back_changes_nothing(phase: Phase) -> None:
    disarmed = replace(typical(phase), deadline=None)
    assert step(disarmed, DUE, NOW + 1e6) == (disarmed, ())


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("want", Want)
@pytest.mark.parametrize("why", (None, *Why))
def test_a_rule_leads_only_where_it_declares(phase: Phase, want: Want, why: Why | None) -> None:
    events = (*about(3), START, STOP, RESTART, DOWN, HURRY, ADOPTED, CRASH_LEAVING, TAKEN, NO_MEMORY, HUNG)
    for event, failures, going, pid in product(events, (0, 7), (False, True), (None, 4003)):
        state = replace(typical(phase), want=want, why=why, failures=failures, shutting_down=going, pid=pid)
        for restart in (RestartSpec(), RestartSpec(first_s=1.0, retry_failed_s=0.0), RestartSpec(failure_limit=1)):
            before = replace(state, restart=restart)
            after = step(before, event, NOW + 1e6).state
            assert after.phase in targets(TABLE[phase, type(event)]) | {phase}


def test_spawning_happens_only_where_nothing_exists_or_with_the_reap() -> None:
    events = (*about(3), START, STOP, RESTART, DOWN, ADOPTED, CRASH_LEAVING, ev.ResourceFreed(resource=PORT))
    for phase, event, why in product(Phase, events, (None, *Why)):
        before = replace(typical(phase), why=why, resource=PORT if phase is P.WAITING else None, failures=0)
        commands = step(before, event, NOW + 1e6).commands
        if any(isinstance(command, Spawn) for command in commands):
            failed_spawn = isinstance(event, ev.SpawnFailed)
            assert phase in NO_PROCESS or commands[0] == Reap(gen=3) or failed_spawn


def test_the_groups_of_phases_divide_them_all() -> None:
    assert set(Phase) == NO_PROCESS | SERVING | GOING_DOWN
    assert not NO_PROCESS & SERVING
    assert not NO_PROCESS & GOING_DOWN
    assert not SERVING & GOING_DOWN


@pytest.mark.parametrize("resource", [PORT, "VRAM of GPU 1", "a start slot"])
@pytest.mark.parametrize("want", list(Want))
def test_a_resource_is_waited_for_by_its_name_whatever_it_is(resource: str, want: Want) -> None:
    starting = replace(typical(Phase.STARTING), pid=None, failures=2, why=None, want=want)
    blocked = ev.SpawnBlocked(gen=starting.gen, resource=resource, reason="not yet", retry_s=9.0)
    waiting = step(starting, blocked, NOW).state
    if want is Want.DOWN:
        assert waiting.phase is Phase.STOPPED
        return
    assert (waiting.phase, waiting.resource, waiting.failures) == (Phase.WAITING, resource, 2)
    for event, spawns in (
        (ev.ResourceFreed(resource=resource), True),
        (ev.ResourceFreed(resource="another"), False),
        (ev.DeadlinePassed(gen=waiting.gen), False),
    ):
        assert bool(step(waiting, event, NOW + 8.9).commands) is spawns
    assert step(waiting, ev.DeadlinePassed(gen=waiting.gen), NOW + 9.0).commands == (Spawn(gen=starting.gen),)
