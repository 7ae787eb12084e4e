"""Whoever waits for an instance to settle: answered on every settling change, or when the time is up.

A waiter is a value of its own, so that twenty restarts of one instance that coalesced are twenty answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ollamux.domain.errors import Exit
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.text import format_duration
from ollamux.supervisor.core import Core, url
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.view import is_passing, reason_of

SUPERSEDED = "superseded: it was stopped meanwhile"


class Outcome(NamedTuple):
    """What became of one instance."""

    name: str
    exit: Exit
    words: str

    def as_json(self) -> dict[str, Any]:
        """Return it for the wire."""
        return {"name": self.name, "exit": int(self.exit), "words": self.words}


def ready_outcome(unit: Unit, after_gen: int) -> Outcome | None:
    """Return how a start or restart ended, or None while it is under way. `after_gen`: the generation to be left."""
    state = unit.state
    if state.phase is Phase.READY and state.gen > after_gen:
        if unit.degraded:
            return Outcome(unit.name, Exit.DEGRADED, f"ready at {url(unit)}, but degraded: {reason_of(unit)}")
        return Outcome(unit.name, Exit.OK, f"ready at {url(unit)}")
    if not unit.wanted:
        return Outcome(unit.name, Exit.REFUSED, SUPERSEDED)
    if state.phase is Phase.FAILED:
        return Outcome(unit.name, Exit.DEGRADED, f"failed: {state.reason}")
    if state.phase is Phase.WAITING and not is_passing(state.resource):
        return Outcome(unit.name, Exit.DEGRADED, f"not ready: {state.reason}; it is tried again by itself")
    if state.phase is Phase.STUCK:
        return Outcome(unit.name, Exit.DEGRADED, f"pid {state.pid} {state.reason}")
    return None


def stopped_outcome(unit: Unit, after_gen: int) -> Outcome | None:
    """Return how a stop ended, or None while it is under way."""
    if unit.state.phase is Phase.STOPPED:
        return Outcome(unit.name, Exit.OK, "stopped")
    if unit.state.phase is Phase.STUCK:
        return Outcome(unit.name, Exit.DEGRADED, f"pid {unit.state.pid} {unit.state.reason}")
    if unit.wanted:
        return Outcome(unit.name, Exit.REFUSED, "superseded: it was started meanwhile")
    return None


Judge = Callable[[Unit, int], Outcome | None]


class Waiters:
    """All who wait, for whatever they wait."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: list[_Waiter] = []
        core.changed.append(self._on_change)

    def wait(
        self,
        units: dict[str, int],
        judge: Judge,
        *,
        timeout_s: float,
        until: float,
        done: Callable[[list[Outcome]], None],
    ) -> Callable[[], None]:
        """Call `done` once every instance is judged; `units` maps names to the generation to be left.

        `until` is when the `timeout_s` have passed. Returns what cancels the waiting.
        """
        waiter = _Waiter(self._core, units, judge, timeout_s=timeout_s, until=until, done=done)
        if not waiter.look():
            self._waiting.append(waiter)

        def cancel() -> None:
            waiter.cancel()
            if waiter in self._waiting:
                self._waiting.remove(waiter)

        return cancel

    def _on_change(self, unit: Unit, before: Instance) -> None:
        for waiter in tuple(self._waiting):  # an answer may lead to further changes, and to further waiters
            if not waiter.finished:
                waiter.look()
        self._waiting = [waiter for waiter in self._waiting if not waiter.finished]


class _Waiter:
    def __init__(
        self,
        core: Core,
        units: dict[str, int],
        judge: Judge,
        *,
        timeout_s: float,
        until: float,
        done: Callable[[list[Outcome]], None],
    ) -> None:
        # The instances themselves: one that is removed meanwhile still has its last word.
        self._units = {name: (core.units[name], gen) for name, gen in units.items()}
        self._judge = judge
        self._done = done
        self._timeout_s = timeout_s
        self._outcomes: dict[str, Outcome] = {}
        self.finished = False
        self._timer = core.loop.call_at(until, self._too_late)

    def look(self) -> bool:
        """Judge again those that are still open; True once all are judged."""
        for name, (unit, gen) in self._units.items():
            outcome = None if name in self._outcomes else self._judge(unit, gen)
            if outcome is not None:
                self._outcomes[name] = outcome
        if len(self._outcomes) == len(self._units) and not self.finished:
            self._finish()
        return self.finished

    def _too_late(self) -> None:
        brief = self._timeout_s < 0.1  # where "0 s" would be said
        waited = f"{self._timeout_s * 1000:g} ms" if brief else format_duration(self._timeout_s)
        for name, (unit, _) in self._units.items():
            if name not in self._outcomes:
                phase = unit.state.phase.value
                reason = f" ({unit.state.reason})" if unit.state.reason else ""
                self._outcomes[name] = Outcome(name, Exit.TIMEOUT, f"still {phase} after {waited}{reason}")
        if not self.finished:
            self._finish()

    def _finish(self) -> None:
        self.finished = True
        self._timer.cancel()
        self._done([self._outcomes[name] for name in self._units if name in self._outcomes])

    def cancel(self) -> None:
        self.finished = True
        self._timer.cancel()
