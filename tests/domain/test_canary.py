"""When the canary asks, what it makes of answers, and that no history makes it ask what it must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain import canary as rules
from ollamux.domain.canary import HOUR_S, Answer, Loaded, Look, Remedy
from ollamux.domain.health import Effort
from ollamux.domain.spec import CanarySpec

SPEC = CanarySpec(models=("m",), interval_s=300.0, failures=2, per_hour=12)
FIT = Loaded(
    name="m", allowed=True, generates=True, expires_at=None, pid=7, computes=False, active_at=None
)  # fmt: skip
WALL = 1e9


def look(*models: Loaded, **more: Any) -> Look:
    return Look(models=models, **{"loading": False, "served_at": None, "wall": WALL, **more})


def fresh(at: float = 0.0) -> rules.Canary:
    return rules.Canary(due=at)


ASK = [
    ("it is loaded and idle", {}, {}, True),
    ("it is not known yet what it is", {"generates": None}, {}, True),
    ("it is not on the list", {"allowed": False}, {}, False),
    ("it makes no tokens", {"generates": False}, {}, False),
    ("its runner is gone", {"pid": None}, {}, False),
    ("its runner computes", {"computes": True}, {}, False),
    ("something is loading", {}, {"loading": True}, False),
    ("it is about to be unloaded", {"expires_at": WALL + 10}, {}, False),
    ("its time has passed", {"expires_at": WALL - 10}, {}, False),
    ("it stays for a while", {"expires_at": WALL + 100}, {}, True),
    ("others are served by it", {"active_at": 900.0}, {"served_at": 950.0}, False),
    ("others are served, not by it", {"active_at": 600.0}, {"served_at": 950.0}, True),
    ("it worked and served nobody", {"active_at": 900.0}, {"served_at": 600.0}, True),
    ("others were served long ago", {"active_at": 600.0}, {"served_at": 650.0}, True),
]


@pytest.mark.parametrize(("model", "seen", "asks"), [row[1:] for row in ASK], ids=[row[0] for row in ASK])
def test_what_is_asked(model: dict[str, Any], seen: dict[str, Any], asks: bool) -> None:
    chosen = rules.choose(fresh(), SPEC, look(replace(FIT, **model), **seen), 1000.0)
    assert (chosen is not None) is asks


def test_nothing_is_asked_before_its_time() -> None:
    assert rules.choose(fresh(1000.1), SPEC, look(FIT), 1000.0) is None
    assert rules.choose(fresh(1000.0), SPEC, look(FIT), 1000.0) == FIT


def test_instances_are_spread_over_the_interval() -> None:
    dues = [rules.begin(SPEC, now=0.0, place=place, places=4).due for place in range(4)]
    assert dues == [75.0, 150.0, 225.0, 300.0]


def test_models_take_turns_and_one_that_missed_comes_first() -> None:
    other = replace(FIT, name="n", pid=8)
    state = rules.sent(fresh(), SPEC, FIT, 0.0)
    state, _ = rules.answered(state, SPEC, "m", Answer.TOKEN, now=1.0)
    assert rules.choose(state, SPEC, look(FIT, other), 300.0) == other
    state, _ = rules.answered(state, SPEC, "m", Answer.MISS, now=1.0)
    assert rules.choose(state, SPEC, look(other, FIT), 300.0) == FIT


def asked(state: rules.Canary, answer: Answer, now: float, model: Loaded = FIT) -> tuple[rules.Canary, Remedy | None]:
    state = rules.looked(rules.sent(state, SPEC, model, now), look(model))
    return rules.answered(state, SPEC, model.name, answer, now=now + 60)


def test_misses_in_a_row_end_the_runner_and_then_restart() -> None:
    state, remedy = asked(fresh(), Answer.MISS, 0.0)
    assert (remedy, state.due) == (None, 70.0)
    state, remedy = asked(state, Answer.MISS, 70.0)
    assert remedy is Remedy.END_RUNNER
    successor = replace(FIT, pid=9)
    state = rules.looked(state, look(successor))
    assert rules.choose(state, SPEC, look(successor), 130.0) == successor, "its successor is asked at once"
    state, remedy = asked(state, Answer.MISS, 130.0, successor)
    assert remedy is None
    assert asked(state, Answer.MISS, 200.0, successor)[1] is Remedy.RESTART


@pytest.mark.parametrize("between", [Answer.TOKEN, Answer.COMPUTING])
def test_a_runner_that_works_in_between_begins_the_count_anew(between: Answer) -> None:
    state, _ = asked(fresh(), Answer.MISS, 0.0)
    state, remedy = asked(state, between, 70.0)
    assert remedy is None
    assert asked(state, Answer.MISS, 400.0)[1] is None


def test_what_says_nothing_counts_neither_way() -> None:
    state, _ = asked(fresh(), Answer.MISS, 0.0)
    state, remedy = asked(state, Answer.OPEN, 70.0)
    assert remedy is None
    assert asked(state, Answer.MISS, 400.0)[1] is Remedy.END_RUNNER


def test_a_token_ends_the_suspicion() -> None:
    state, _ = asked(fresh(), Answer.MISS, 0.0)
    state, _ = asked(state, Answer.MISS, 70.0)
    state, _ = asked(state, Answer.TOKEN, 130.0)
    state, _ = asked(state, Answer.MISS, 500.0)
    assert asked(state, Answer.MISS, 600.0)[1] is Remedy.END_RUNNER, "and not the restart"


def test_what_was_remedied_is_remembered_until_it_is_loaded_again() -> None:
    state, _ = asked(fresh(), Answer.MISS, 0.0)
    state, _ = asked(state, Answer.MISS, 70.0)
    state = rules.looked(rules.looked(state, look()), look(FIT))
    assert state.records["m"].remedied


def test_a_model_that_vanishes_while_it_is_asked_is_still_compared_afterwards() -> None:
    state = rules.looked(rules.sent(fresh(), SPEC, FIT, 0.0), look())
    state, _ = rules.answered(state, SPEC, "m", Answer.TOKEN, now=1.0)
    assert rules.moved(rules.looked(state, look(replace(FIT, pid=8))), "m", 7, 8, quickly=True)[1]


def test_traffic_of_others_refutes_a_miss() -> None:
    state, _ = asked(fresh(), Answer.MISS, 100.0)
    state = rules.looked(state, look(replace(FIT, active_at=150.0), served_at=155.0))
    assert state.records["m"].misses == 0


def test_a_model_that_is_to_go_is_asked_once_after_each_use() -> None:
    leaving = replace(FIT, expires_at=WALL + 1000)
    state, _ = asked(fresh(), Answer.TOKEN, 0.0, leaving)
    state = rules.looked(state, look(leaving))
    assert rules.choose(state, SPEC, look(leaving), 400.0) is None
    used = replace(leaving, expires_at=WALL + 1100)
    assert rules.choose(state, SPEC, look(used), 400.0) == used


def test_a_miss_is_followed_up_even_if_nobody_uses_the_model() -> None:
    leaving = replace(FIT, expires_at=WALL + 1000)
    state, _ = asked(fresh(), Answer.MISS, 0.0, leaving)
    state = rules.looked(state, look(leaving))
    assert rules.choose(state, SPEC, look(leaving), 400.0) == leaving


def test_a_model_that_cannot_be_asked_is_not_asked_again() -> None:
    state, remedy = asked(fresh(), Answer.UNFIT, 0.0)
    assert remedy is None
    assert rules.choose(state, SPEC, look(FIT), 1000.0) is None


def test_a_runner_that_was_replaced_by_the_question_is_left_alone() -> None:
    state, _ = asked(fresh(), Answer.TOKEN, 0.0)
    assert rules.moved(state, "m", 7, 7, quickly=True) == (state, False)
    assert rules.moved(state, "m", 7, None, quickly=True) == (state, False)
    left, told = rules.moved(state, "m", 7, 8, quickly=True)
    assert told
    assert rules.choose(left, SPEC, look(FIT), 1000.0) is None


def test_a_server_that_helped_itself_is_borne_once() -> None:
    state, _ = asked(fresh(), Answer.TOKEN, 0.0)
    state, told = rules.moved(state, "m", 7, 8, quickly=False)
    assert not told
    state, _ = asked(state, Answer.TOKEN, 300.0, replace(FIT, pid=8))
    assert rules.moved(state, "m", 8, 8, quickly=False)[1] is False
    again, _ = asked(rules.moved(state, "m", 8, 9, quickly=False)[0], Answer.TOKEN, 600.0, replace(FIT, pid=9))
    assert rules.moved(again, "m", 9, 10, quickly=False)[1] is True


def test_after_a_suspend_a_round_is_left_out_and_misses_are_forgotten() -> None:
    state, _ = asked(fresh(), Answer.MISS, 0.0)
    state = rules.rested(state, SPEC, 1000.0)
    assert rules.choose(state, SPEC, look(FIT), 1200.0) is None
    assert asked(state, Answer.MISS, 1300.0)[1] is None


@pytest.mark.parametrize(
    ("before", "after", "works"),
    [
        ((5, 0), (5, 0), False),
        ((5, 0), (7, 0), False),
        ((5, 0), (8, 0), True),
        ((5, 0), (5, 4096), True),
        ((5, None), (5, 4096), False),
        ((5, 4096), (5, None), False),
    ],
)
def test_when_a_runner_is_at_work(before: tuple[int, int | None], after: tuple[int, int | None], works: bool) -> None:
    one, other = (Effort(cpu_ticks=ticks, read_bytes=read) for ticks, read in (before, after))
    assert rules.computes(one, other, 5.0, ticks_per_s=100) is works


MODELS = st.builds(
    Loaded,
    name=st.sampled_from(["m", "n", "o"]),
    allowed=st.booleans(),
    generates=st.sampled_from([True, True, None, False]),
    expires_at=st.sampled_from([None, None, WALL - 5, WALL + 5, WALL + 500, WALL + 501]),
    pid=st.sampled_from([None, 7, 7, 8]),
    computes=st.sampled_from([False, False, True]),
    active_at=st.none() | st.floats(0, 2e4),
)
STEPS = st.tuples(
    st.floats(0, 600),
    st.lists(MODELS, max_size=3, unique_by=lambda model: model.name),
    st.sampled_from([False, False, True]),
    st.none() | st.floats(0, 2e4),
    st.sampled_from(Answer),
    st.booleans(),
)
SPECS = st.builds(
    CanarySpec,
    models=st.just(("m",)),
    interval_s=st.floats(0.001, 1000),
    failures=st.integers(1, 3),
    per_hour=st.integers(1, 6),
)


@given(SPECS, st.lists(STEPS, max_size=60))
def test_whatever_happens_it_keeps_to_what_is_allowed(spec: CanarySpec, steps: list[Any]) -> None:
    now, state, moments = 0.0, rules.begin(spec, now=0.0, place=0, places=1), []
    ended: set[str] = set()
    for wait, models, loading, served_at, answer, restarts in steps:
        now += wait
        seen = look(*models, loading=loading, served_at=served_at)
        if restarts:
            state = rules.begin(spec, now=now, place=0, places=1, asked=state.asked)
            ended.clear()
        state = rules.looked(state, seen)
        chosen = rules.choose(state, spec, seen, now)
        if chosen is None:
            continue
        assert chosen in models and chosen.allowed and chosen.generates is not False
        assert chosen.pid is not None and not chosen.computes and not loading
        assert chosen.expires_at is None or chosen.expires_at > WALL
        assert now >= state.due
        state = rules.sent(state, spec, chosen, now)
        moments.append(now)
        assert sum(now - HOUR_S < moment for moment in moments) <= spec.per_hour
        state, remedy = rules.answered(state, spec, chosen.name, answer, now=now)
        if answer is Answer.TOKEN:
            ended.discard(chosen.name)
        assert remedy is None or answer is Answer.MISS
        if remedy is Remedy.RESTART:
            assert chosen.name in ended, "the gentler remedy comes first"
        if remedy is Remedy.END_RUNNER:
            ended.add(chosen.name)
        assert len(state.asked) <= spec.per_hour
