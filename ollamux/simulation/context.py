"""What every route of the simulated server may use. It answers nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ollamux.simulation import faults
from ollamux.simulation.http import Request
from ollamux.simulation.logs import Log
from ollamux.simulation.scheduler import Scheduler
from ollamux.simulation.store import Store


@dataclass(slots=True, kw_only=True)
class App:
    """The parts of one server. `set_faults` is kept up to date by whoever watches them."""

    log: Log
    store: Store
    scheduler: Scheduler
    loopback: bool
    box: Path | None = None
    instance: str | None = None
    in_flight: dict[int, tuple[Request, int]] = field(default_factory=dict)
    set_faults: frozenset[str] = frozenset()

    def no_space(self) -> bool:
        """Say whether the disk is full."""
        return "disk-full" in self.set_faults


def active_faults(box: Path | None, instance: str | None) -> frozenset[str]:
    """Return the faults that concern this server."""
    if box is None:
        return frozenset()
    return frozenset(fault.name for fault in faults.active(box) if fault.target in (None, instance))
