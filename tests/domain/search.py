"""Every state that a small `World` can reach, breadth first, so that a violation comes with its shortest story.

States that differ only in numbers nobody looks at (pids, generations, the time of day) are one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.spec import RestartSpec

from .actions import ACTIONS, settle
from .world import Violation, World, judge_quiet

SMALL = RestartSpec(failure_limit=2, first_s=0.0)
ABSTRACT = tuple(name for name in ACTIONS if name not in ("other port freed", "exits with 0"))
"""What the search picks from; the rest leads to states that are equal here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a search went through, and what it found. `phases` are those it visited."""

    states: int
    steps: int
    phases: frozenset[Phase]
    violation: Violation | None = None
    story: tuple[str, ...] = ()


def small_world(restart: RestartSpec = SMALL) -> World:
    """Return the box the search begins with: nothing runs, and a leader has at most one member."""
    return World(state=Instance(restart=restart), most_members=1)


def search(
    start: World, *, actions: Iterable[str] = ABSTRACT, most_states: int = 40_000, rest: bool = True
) -> Searched:
    """Go through every state, and from each, where `rest` asks for it, to rest without anybody's help."""
    chosen = [ACTIONS[name] for name in actions]
    seen = {key(start)}
    queue = deque([start])
    phases = {start.state.phase}
    steps = 0
    while queue and len(seen) < most_states:
        here = queue.popleft()
        for action in chosen:
            if not action.enabled(here):
                continue
            there = here.clone()
            steps += 1
            try:
                there.do(action)
                same = key(there)
                if same in seen:
                    continue
                judge_quiet(there.state, there.now)
                if rest:
                    settle(there.clone(), obeys=len(seen) % 2 == 0, healthy=len(seen) % 3 > 0)
                    settle(there.clone(), obeys=len(seen) % 2 == 1, releases=False)
            except Violation as found:
                return Searched(
                    states=len(seen), steps=steps, phases=frozenset(phases), violation=found, story=there.trace
                )
            seen.add(same)
            phases.add(there.state.phase)
            queue.append(there)
    return Searched(states=len(seen), steps=steps, phases=frozenset(phases))


def key(world: World) -> Hashable:
    """Return what makes a state of the world different from another."""
    state, here = world.state, world.incarnation
    armed = None if state.deadline is None else (state.deadline.kind, round(state.deadline.at - world.now, 3))
    body = None if here is None else (here.leader, here.members, here.told, here.cause, here.code, here.adopted)
    return (
        state.phase, state.want, state.why, armed, state.resource, min(state.failures, state.restart.failure_limit),
        state.shutting_down, state.runner_ended, state.adopted, state.pid is None,
        body, world.pending is None, world.intent,
    )  # fmt: skip
