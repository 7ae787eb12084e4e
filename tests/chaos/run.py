"""A run: rounds of faults and quiet, one after the other, until the time is up and every kind took effect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.faults import FAULTS
from tests.chaos.plan import Round, rounds
from tests.chaos.settle import Quiet
from tests.chaos.world import World

PATIENCE_FOR_ALL_KINDS = 6.0
"""So many times its time a run may take until every kind took effect at least once."""


@dataclass(slots=True)
class Run:
    """One run of a seed."""

    world: World
    kinds: Sequence[str]
    seed: int
    took: list[float] = field(default_factory=list)

    def go(self, *, seconds: float, keep_going: bool) -> None:
        """Run for so long; the sequence of rounds is the seed's, only its length is not."""
        world = self.world
        began = time.monotonic()
        world.begin()
        quiet = Quiet(world)
        if quiet.settle() is None:
            return
        for planned in rounds(self.seed, self.kinds):
            passed = time.monotonic() - began
            complete = all(world.hits[kind] for kind in self.kinds)
            if passed > seconds and (complete or passed > seconds * PATIENCE_FOR_ALL_KINDS):
                break
            self._round(planned, quiet)
            if world.violations and not keep_going:
                break

    def _round(self, planned: Round, quiet: Quiet) -> None:
        world = self.world
        world.log(f"round {planned.number}, on_death {planned.on_death}, wanted {self._wanted()}")
        if planned.on_death != world.on_death:
            self._switch(planned.on_death)
        began = time.monotonic()
        for step in planned.steps:
            world.run_until(began + step.at)
            world.tries[step.kind] += 1
            world.log(f"  {step.kind} {step.instance} {step.spice:.3f} for {step.hold_s:.2f} s")
            FAULTS[step.kind](world, step)
        world.log("  healing")
        seconds = quiet.settle()
        if seconds is not None:
            self.took.append(seconds)
            world.log(f"  well after {seconds:.2f} s")

    def _wanted(self) -> dict[str, str]:
        return {name: "/".join(sorted(self.world.intents.possible(name))) for name in self.world.instances}

    def _switch(self, on_death: str) -> None:
        """Another on_death needs another supervisor."""
        world = self.world
        world.on_death = on_death
        world.ground.configure(world.instances, on_death=on_death)
        names = frozenset(world.instances)
        world.asking.run("down", want="up", names=names)
        world.up()
