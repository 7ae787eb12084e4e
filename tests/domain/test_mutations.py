"""The judge judged: each mistake known from other supervisors is sown into the rules, and must be found by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from ollamux.domain import events as ev
from ollamux.domain import machine, rules
from ollamux.domain.commands import KillGroup, Reap, TermLeader
from ollamux.domain.instance import Instance, Step
from ollamux.domain.phases import Phase, Want, Why

from . import world
from .search import search, small_world

P = Phase
Patch = pytest.MonkeyPatch


def sow(patch: Patch, rows: dict[tuple[Phase, type], rules.Rule]) -> None:
    assert rows.keys() <= machine.TABLE.keys()
    patch.setattr(machine, "TABLE", {**machine.TABLE, **rows})


def spawn_while_stopping(patch: Patch) -> None:
    sow(patch, {(P.STOPPING, ev.StartAsked): rules.start})


def reap_before_the_group_is_empty(patch: Patch) -> None:
    def hasty(state: Instance, event: ev.LeaderExited, now: float) -> Step:
        return rules.leader_exited(state, replace(event, members=False), now)

    sow(patch, {(phase, ev.LeaderExited): hasty for phase in (P.STARTING, P.READY, P.UNHEALTHY, P.STOPPING)})


def group_signalled_after_the_reap(patch: Patch) -> None:
    def thorough(state: Instance, event: ev.GroupEmptied, now: float) -> Step:
        after, commands = rules.emptied(state, event, now)
        return Step(after, (*commands, KillGroup(gen=state.gen)))

    sow(patch, {(phase, ev.GroupEmptied): thorough for phase in (P.SWEEPING, P.KILLING, P.STUCK)})


def reap_at_once_and_sweep_then(patch: Patch) -> None:
    def reversed_order(state: Instance, event: ev.LeaderExited, now: float) -> Step:
        after, commands = rules.leader_exited(state, event, now)
        return Step(after, (Reap(gen=state.gen), *commands)) if event.members else Step(after, commands)

    sow(patch, {(phase, ev.LeaderExited): reversed_order for phase in (P.STARTING, P.READY, P.STOPPING)})


def process_without_a_deadline(patch: Patch) -> None:
    def patient(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
        after, commands = rules.kill(state, event, now)
        return Step(replace(after, deadline=None), commands) if commands else Step(after)

    sow(patch, {(P.STOPPING, ev.DeadlinePassed): patient})


def recovery_without_a_deadline(patch: Patch) -> None:
    def trusting(state: Instance, event: ev.HealthPassed, now: float) -> Step:
        return Step(replace(rules.get_ready(state, event, now).state, deadline=None))

    sow(patch, {(P.STARTING, ev.HealthPassed): trusting})


def echo_accepted(patch: Patch) -> None:
    def credulous(state: Instance, event: ev.Event, now: float) -> Step:
        return machine.TABLE[state.phase, type(event)](state, event, now)

    patch.setattr(machine, "step", credulous)


def repeated_stop_moves_the_deadline(patch: Patch) -> None:
    sow(patch, {(P.STOPPING, ev.StopAsked): rules.stop})


def restart_counted_as_failure(patch: Patch) -> None:
    def blaming(state: Instance, event: ev.RestartAsked, now: float) -> Step:
        after, commands = rules.restart(state, event, now)
        return Step(replace(after, why=Why.UNHEALTHY if after.phase is P.STOPPING else after.why), commands)

    sow(patch, {(phase, ev.RestartAsked): blaming for phase in (P.STARTING, P.READY, P.UNHEALTHY)})


def crash_forgotten(patch: Patch) -> None:
    def lenient(state: Instance, event: ev.LeaderExited, now: float) -> Step:
        return rules.leader_exited(replace(state, failures=-1) if state.failures == 0 else state, event, now)

    sow(patch, {(P.READY, ev.LeaderExited): lenient})


def ready_forgives_at_once(patch: Patch) -> None:
    def forgiving(state: Instance, event: ev.LeaderExited, now: float) -> Step:
        return rules.leader_exited(replace(state, failures=0), event, now)

    sow(patch, {(P.READY, ev.LeaderExited): forgiving})


def start_after_the_shutdown(patch: Patch) -> None:
    def eager(state: Instance, event: ev.StartAsked, now: float) -> Step:
        after, commands = rules.start(replace(state, shutting_down=False), event, now)
        return Step(replace(after, shutting_down=state.shutting_down), commands)

    sow(patch, {(P.STOPPED, ev.StartAsked): eager})


def stop_lost_in_the_gap_of_a_restart(patch: Patch) -> None:
    sow(patch, {(P.WAITING, ev.StopAsked): rules.ignore})


def stop_lost_while_stopping(patch: Patch) -> None:
    sow(patch, {(P.STOPPING, ev.StopAsked): rules.ignore})


def never_kills(patch: Patch) -> None:
    sow(patch, {(P.STOPPING, ev.DeadlinePassed): rules.ignore})


def empty_group_overlooked(patch: Patch) -> None:
    sow(patch, {(P.STUCK, ev.GroupEmptied): rules.ignore, (P.STUCK, ev.LeaderExited): rules.ignore})


def gives_up_on_a_living_process(patch: Patch) -> None:
    def resigned(state: Instance, event: ev.DeadlinePassed, now: float) -> Step:
        after = rules.stuck(state, event, now).state
        return Step(replace(after, phase=P.FAILED, pid=None) if after.phase is P.STUCK else after)

    sow(patch, {(P.KILLING, ev.DeadlinePassed): resigned})


def resource_forgotten(patch: Patch) -> None:
    def vague(state: Instance, event: ev.SpawnBlocked, now: float) -> Step:
        return Step(replace(rules.spawn_blocked(state, event, now).state, resource=None))

    sow(patch, {(P.STARTING, ev.SpawnBlocked): vague})


def generation_used_twice(patch: Patch) -> None:
    def thrifty(state: Instance, event: ev.GroupEmptied, now: float) -> Step:
        after, commands = rules.emptied(replace(state, gen=state.gen - 1), event, now)
        return Step(after, tuple(replace(c, gen=state.gen) if isinstance(c, Reap) else c for c in commands))

    sow(patch, {(P.SWEEPING, ev.GroupEmptied): thrifty})


def stop_before_the_pid_is_known(patch: Patch) -> None:
    def hasty(state: Instance, event: ev.StopAsked, now: float) -> Step:
        return Step(replace(state, want=Want.DOWN), (TermLeader(gen=state.gen),))

    sow(patch, {(P.STARTING, ev.StopAsked): hasty})


def start_does_not_take_back_the_stop(patch: Patch) -> None:
    sow(patch, {(P.STARTING, ev.StartAsked): lambda state, event, now: Step(replace(state, want=Want.UP))})


def rule_that_hides_where_it_leads(patch: Patch) -> None:
    patch.setitem(rules._TARGETS, rules.get_unhealthy, frozenset())


@dataclass(frozen=True)
class Mistake:
    """A seeded mistake, and the property it breaks."""

    sow: Callable[[Patch], None]
    breaks: str


MISTAKES = (
    Mistake(spawn_while_stopping, world.TWO_INCARNATIONS),
    Mistake(reap_before_the_group_is_empty, world.REAPED_TOO_SOON),
    Mistake(reap_at_once_and_sweep_then, world.REAPED_TOO_SOON),
    Mistake(group_signalled_after_the_reap, world.SIGNAL_AFTER_REAP),
    Mistake(process_without_a_deadline, world.NO_DEADLINE),
    Mistake(recovery_without_a_deadline, world.NO_DEADLINE),
    Mistake(echo_accepted, world.ECHO_HEARD),
    Mistake(repeated_stop_moves_the_deadline, world.DEADLINE_MOVED),
    Mistake(restart_counted_as_failure, world.MISCOUNTED),
    Mistake(crash_forgotten, world.MISCOUNTED),
    Mistake(ready_forgives_at_once, world.MISCOUNTED),
    Mistake(start_after_the_shutdown, world.SPAWN_AFTER_SHUTDOWN),
    Mistake(stop_lost_in_the_gap_of_a_restart, world.INTENT_LOST),
    Mistake(stop_lost_while_stopping, world.INTENT_LOST),
    Mistake(never_kills, world.NO_REST),
    Mistake(empty_group_overlooked, world.NO_REST),
    Mistake(gives_up_on_a_living_process, world.PROCESS_LEFT),
    Mistake(resource_forgotten, world.NO_DEADLINE),
    Mistake(generation_used_twice, world.GENERATION),
    Mistake(rule_that_hides_where_it_leads, world.UNDECLARED),
    Mistake(stop_before_the_pid_is_known, world.SIGNAL_AFTER_REAP),
    Mistake(start_does_not_take_back_the_stop, world.MISCOUNTED),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.sow.__name__)
def test_a_seeded_mistake_is_found_by_its_name(mistake: Mistake, monkeypatch: Patch) -> None:
    assert search(small_world(), most_states=200).violation is None
    mistake.sow(monkeypatch)
    found = search(small_world(), most_states=3_000)
    assert found.violation is not None, f"{found.states} states seen and nothing found"
    assert found.violation.name == mistake.breaks, f"{found.violation}\nafter: {' > '.join(found.story)}"
    assert len(found.story) <= 9, "the shortest story is short"


def test_each_property_has_a_mistake_that_breaks_it() -> None:
    names = {value for key, value in vars(world).items() if key.isupper() and isinstance(value, str)}
    assert names == {mistake.breaks for mistake in MISTAKES}
