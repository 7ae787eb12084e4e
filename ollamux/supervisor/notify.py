"""Run the user's command when an instance fails, degrades or recovers. Rate-limited, bounded, and never waited for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.schemas import EVENT_SCHEMA
from ollamux.supervisor.core import Core
from ollamux.supervisor.errand import Errands
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.view import reason_of
from ollamux.system.clock import monotonic, rfc3339, wall

SPACING_S = 10.0
"""At most one call per instance in this time; of several changes the last is told."""
LOOK_AGAIN_S = 1.0
"""While as many run as may, what is to be told waits for so long."""
COMPLAIN_AGAIN_S = 60.0
LONGEST_REASON = 8000


class Notifier:
    """Tells the outside world. What it tells is compared with what it told last, so that nothing is told twice."""

    def __init__(self, core: Core, argv: Sequence[str], *, env: Mapping[str, str]) -> None:
        self._core = core
        self.argv = list(argv)
        """What is run; nothing where it is empty."""
        self._errands = Errands(core.loop, env, self._complain)
        self._complained_at = -COMPLAIN_AGAIN_S
        self.told: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._planned: set[str] = set()
        core.changed.append(self._on_change)

    def _on_change(self, unit: Unit, before: Instance) -> None:
        state = condition(unit) if self.argv else None
        if state is None or state == self.told.get(unit.name, "READY") or unit.name in self._planned:
            return
        wait = self._last.get(unit.name, -SPACING_S) + SPACING_S - monotonic()
        if wait <= 0 and not self._errands.full:
            self._tell(unit)
        else:
            self._planned.add(unit.name)
            self._core.loop.call_later(max(wait, LOOK_AGAIN_S), lambda: self._later(unit))

    def look(self, unit: Unit) -> None:
        """Look at an instance whose health changed without a change of phase."""
        self._on_change(unit, unit.state)

    def _later(self, unit: Unit) -> None:
        self._planned.discard(unit.name)
        self._on_change(unit, unit.state)

    def _tell(self, unit: Unit) -> None:
        state = condition(unit)
        if state is None:
            return
        reason = reason_of(unit)
        event: dict[str, Any] = {
            "schema": EVENT_SCHEMA,
            "time": rfc3339(wall()),
            "instance": unit.name,
            "from": self.told.get(unit.name, "READY"),
            "to": state,
            "reason": None if reason is None else reason[:LONGEST_REASON],
        }
        self.told[unit.name] = state
        self._last[unit.name] = monotonic()
        self._run(unit, json.dumps(event, ensure_ascii=False).encode() + b"\n")

    def _run(self, unit: Unit, data: bytes) -> None:
        try:
            self._errands.run(self.argv, data)
        except OSError as error:
            self._complain(f"could not be started: {error.strerror}")

    def _complain(self, how: str | None) -> None:
        if how is not None and monotonic() - self._complained_at >= COMPLAIN_AGAIN_S:
            self._complained_at = monotonic()
            self._core.note(None, f"notify: {self.argv[0]} {how}")

    @property
    def pids(self) -> frozenset[int]:
        """Our own children that are collected here and nowhere else."""
        return self._errands.pids

    def close(self) -> None:
        """End with the supervisor; nobody is waited for."""
        self._errands.close()


def condition(unit: Unit) -> str | None:
    """Return "READY", "DEGRADED" or "FAILED", or None while it is neither."""
    if unit.state.phase is Phase.READY:
        return "DEGRADED" if unit.degraded else "READY"
    if unit.state.phase in (Phase.FAILED, Phase.STUCK):
        return "FAILED"
    return None
