"""Long random lives of one instance, with times and settings drawn at random, keep the properties of the `World`.

Where `test_search` sees every short story of a small box, this sees long stories of large ones.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ollamux.domain.instance import Instance
from ollamux.domain.phases import NO_PROCESS, Phase
from ollamux.domain.spec import RestartPolicy, RestartSpec

from . import world as w
from .actions import ACTIONS, go_on, rests, settle
from .test_mutations import MISTAKES, Mistake

RESTARTS = st.builds(
    RestartSpec,
    policy=st.sampled_from(RestartPolicy),
    first_s=st.sampled_from((0.0, 0.5)),
    base_s=st.sampled_from((0.1, 1.0)),
    cap_s=st.sampled_from((2.0, 60.0)),
    failure_limit=st.integers(1, 9),
    stable_for_s=st.sampled_from((1.0, 120.0)),
    stop_timeout_s=st.sampled_from((0.0, 1.0, 15.0)),
    retry_failed_s=st.sampled_from((0.0, 600.0)),
)
LAST = ("shutdown", "hurry")


LIVELY = tuple(action for action in ACTIONS.values() if action.name not in LAST)
OFTEN = {"forks": 4.0, "crashes": 4.0, "leader hangs": 0.1, "member hangs": 0.2, "start": 2.0}


def actions(by: str) -> st.SearchStrategy[w.Action]:
    """What the user, the shell or the box may do, but for the end of it all."""
    return st.sampled_from([action for action in ACTIONS.values() if action.by == by and action.name not in LAST])


class Life(RuleBasedStateMachine):
    """The user, the shell and the box take turns in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = w.World(state=Instance())

    @initialize(restart=RESTARTS, salt=st.floats(0, 1, exclude_max=True), members=st.integers(0, 3))
    def configured(self, restart: RestartSpec, salt: float, members: int) -> None:
        state = Instance(restart=restart, salt=salt, start_timeout_s=30.0, unhealthy_timeout_s=10.0)
        self.world = w.World(state=state, most_members=members)

    @rule(steps=st.integers(1, 8), obeys=st.booleans(), healthy=st.booleans())
    def it_goes_on(self, steps: int, obeys: bool, healthy: bool) -> None:
        for _ in range(steps):
            if not rests(self.world, healthy=healthy, releases=False):
                go_on(self.world, obeys=obeys, healthy=healthy, releases=False)

    @rule(action=actions("user"))
    def the_user_asks(self, action: w.Action) -> None:
        self.world.do(action)

    @rule(action=actions("shell"))
    def the_shell_reports(self, action: w.Action) -> None:
        self._do(action)

    @precondition(lambda self: self.world.incarnation is not None)
    @rule(action=actions("box"))
    def the_box_acts(self, action: w.Action) -> None:
        self._do(action)

    @precondition(lambda self: len(self.world.trace) > 20)  # little happens afterwards
    @rule(how=st.sampled_from(LAST))
    def the_supervisor_goes_down(self, how: str) -> None:
        self.world.do(ACTIONS[how])

    @rule(seconds=st.floats(0.001, 200))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(obeys=st.booleans(), healthy=st.booleans(), releases=st.booleans())
    def left_alone_it_comes_to_rest(self, obeys: bool, healthy: bool, releases: bool) -> None:
        alone = self.world.clone()
        settle(alone, obeys=obeys, healthy=healthy, releases=releases)
        if alone.state.phase in NO_PROCESS:
            assert alone.incarnation is None

    @invariant()
    def echoes_and_repetitions_change_nothing(self) -> None:
        w.judge_quiet(self.world.state, self.world.now)

    def _do(self, action: w.Action) -> None:
        if action.enabled(self.world):
            self.world.do(action)


def live(examples: int, *, stages: tuple[Stage, ...] = tuple(Stage)) -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=examples,
            stateful_step_count=100,
            derandomize=True,
            database=None,
            deadline=None,
            phases=stages,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


def test_every_life_keeps_every_property() -> None:
    live(250)


def test_long_lives_keep_every_property_and_see_every_phase() -> None:
    seen: Counter[Phase] = Counter()
    for seed in range(120):
        seen += walk(Random(seed), steps=250)
    assert all(seen[phase] > 100 for phase in Phase), seen


def walk(chance: Random, *, steps: int) -> Counter[Phase]:
    """Live one long life in which things mostly go on, and now and then something happens."""
    restart = RestartSpec(
        policy=chance.choice((RestartPolicy.ALWAYS, RestartPolicy.ALWAYS, *RestartPolicy)),
        failure_limit=chance.randint(1, 9),
        first_s=chance.choice((0.0, 0.5)),
        stable_for_s=chance.choice((1.0, 120.0)),
    )
    world = w.World(state=Instance(restart=restart, salt=chance.random()), most_members=3)
    seen: Counter[Phase] = Counter()
    for number in range(steps):
        temper = {"obeys": chance.random() < 0.8, "healthy": chance.random() < 0.8, "releases": chance.random() < 0.1}
        enabled = [action for action in LIVELY if action.enabled(world)]
        if number == steps - 20:
            world.do(ACTIONS[chance.choice(LAST)])
        elif chance.random() < 0.1:
            world.tick(chance.uniform(0.0, 30.0))
        elif chance.random() < 0.5 or rests(world, healthy=True, releases=False):
            weights = [OFTEN.get(action.name, 1.0) for action in enabled]
            world.do(chance.choices(enabled, weights)[0])
        else:
            go_on(world, **temper)
        w.judge_quiet(world.state, world.now)
        if number % 5 == 0:
            settle(world.clone(), **temper)
        seen[world.state.phase] += 1
    return seen


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "mistake",
    [mistake for mistake in MISTAKES if mistake.breaks in (w.TWO_INCARNATIONS, w.DEADLINE_MOVED, w.INTENT_LOST)],
    ids=lambda mistake: mistake.sow.__name__,
)
def test_random_lives_find_a_seeded_mistake(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake.sow(monkeypatch)
    with pytest.raises(w.Violation):
        live(5000, stages=(Stage.generate,))  # ends with the first life that finds it
