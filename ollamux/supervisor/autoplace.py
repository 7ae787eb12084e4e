"""`placement = "auto"`: plan anew whenever what a plan depends on has changed.

The plan is made by a process of its own, `ollamux plan --apply`, which reads the models and tells us what it found: no
head of a file is read here. What is there stays where it is unless that leaves something without a place.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ollamux.domain.cards import LOST
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.placed import Placement
from ollamux.domain.spec import PlacementMode, Pull
from ollamux.domain.text import same_model
from ollamux.supervisor.core import Core
from ollamux.supervisor.errand import Errands
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.pulls import Fetched, Pulls
from ollamux.supervisor.unit import Unit
from ollamux.system.loop import Timer

AFTER_S = 0.5
"""What changes together is planned for once."""
DEADLINE_S = 300.0
AGAIN_S = (30.0, 60.0, 300.0, 600.0)
"""After a plan that could not be made, or while a model is missing."""
_DOWN = frozenset({Phase.STOPPED, Phase.FAILED, Phase.STUCK})


class AutoPlace:
    """Runs the planner."""

    def __init__(self, core: Core, gpus: Gpus, pulls: Pulls, *, env: Mapping[str, str], simulated: bool) -> None:
        self._core = core
        self._pulls = pulls
        self._argv = [sys.executable, "-P", "-m", "ollamux", "plan", "--apply", "--unattended"]
        self._argv += ["--simulated"] if simulated else []
        self._errands = Errands(core.loop, env, self._ended, deadline_s=DEADLINE_S)
        self._timer: Timer | None = None
        self._running = False
        self._again = False
        self._failures = 0
        self._seen: object = None
        self._missing: tuple[str, ...] = ()
        self._why: str | None = None
        self._lost: tuple[str, ...] = ()
        core.changed.append(self._on_change)
        gpus.listeners.append(self._sampled)
        pulls.fetched.append(self._fetched)

    @property
    def pids(self) -> frozenset[int]:
        """Our own children that are collected here and nowhere else."""
        return self._errands.pids

    def close(self) -> None:
        """End with the supervisor."""
        self._errands.close()

    def look(self) -> None:
        """Plan soon, if what a plan depends on is another than last time."""
        if self._wanted and self._depends_on() != self._seen:
            self._plan_in(AFTER_S)

    @property
    def _wanted(self) -> bool:
        core = self._core
        if core.configured.placement is not PlacementMode.AUTO or core.shutting_down:
            return False
        return bool(core.configured.models) or core.placement not in (None, Placement())

    def _depends_on(self) -> object:
        fleet = self._core.configured
        units = self._core.units.values()
        pins = tuple((unit.name, unit.spec.preload, unit.hand_pins) for unit in units)
        down = tuple(sorted(unit.name for unit in units if unit.state.phase in _DOWN))
        return fleet, pins, down, self._lost

    def _on_change(self, unit: Unit, before: Instance) -> None:
        if unit.state.phase is not before.phase and (unit.state.phase in _DOWN or unit.state.phase is Phase.READY):
            self.look()

    def _sampled(self) -> None:
        """Notice cards that are lost, and that are back."""
        lost = tuple(sorted(unit.name for unit in self._core.units.values() if LOST in unit.degraded))
        if lost != self._lost:
            self._lost = lost
            self.look()

    def _fetched(self, store: str, name: str) -> None:
        if any(same_model(name, one) for one in self._missing):
            self._seen = None
            self.look()

    def _plan_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._core.loop.call_later(delay_s, self._plan)

    def _plan(self) -> None:
        self._timer = None
        if not self._wanted:
            return
        if self._running:
            self._again = True
            return
        self._running, self._again, self._why = True, False, None
        self._seen = self._depends_on()
        try:
            self._errands.run(self._argv, b"")
        except OSError as error:
            self._running = False
            self.placed((), f"the planner could not be started: {error.strerror}")

    def _ended(self, how: str | None) -> None:
        self._running = False
        if how is not None and self._why is None and how not in _TOLD:
            self.placed((), f"the planner {how}")
        if self._again:
            self._plan_in(AFTER_S)

    def placed(self, missing: tuple[str, ...], why: str | None) -> None:
        """Take in what came of a plan: models that are in no store, or why there is none."""
        if why is not None and why != self._why:
            self._core.note(None, f"no placement: {why}")
        self._why, self._missing = why, missing
        if not self._wanted:
            return
        for name in missing:
            self._fetch(name)
        if why is None and not missing:
            self._failures = 0
            return
        self._seen = None
        self._plan_in(AGAIN_S[min(self._failures, len(AGAIN_S) - 1)])
        self._failures += 1

    def _fetch(self, name: str) -> None:
        """Fetch what is missing into the store of the first instance that may."""
        for unit in self._core.units.values():
            if unit.spec.pull is Pull.MISSING and unit.spec.enabled:
                self._pulls.want(self._pulls.store_of(unit), name, _not_waited_for)
                return


_TOLD = frozenset({"exited with status 6"})
"""Something has no place: that was told with the placement."""


def _not_waited_for(fetched: Fetched) -> None:
    """Whoever fetched it tells how it went, and `Pulls.fetched` that it is there."""
