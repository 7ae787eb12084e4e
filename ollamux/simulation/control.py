"""Make faults happen on a simulated box, as the words of a command ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ollamux.domain.errors import NotFoundError
from ollamux.simulation.faults import FAULTS, active, clear, inject, matching_cards


def make(box: str, fault: str | None, target: str | None, *, clear_all: bool, instances: Sequence[str]) -> str:
    """Make a fault happen, end faults, or tell which are active; return what was done, in words.

    `target` is the name of an instance, or a GPU by index or UUID; without one it is the first that there is. Raises
    UsageError for an unknown fault and NotFoundError for an unknown target.
    """
    place = Path(box)
    if clear_all:
        if target is not None and target not in instances and not matching_cards(place, target):
            raise NotFoundError(f"there is no instance or GPU {target!r}", hint=f"there are: {', '.join(instances)}")
        clear(place, target)
        return "all faults are cleared" if target is None else f"the faults of {target} are cleared"
    if fault is None:
        found = active(place)
        return "\n".join(f"{one.name} on {one.target or 'everything'}" for one in found) or "no fault is active"
    kind = FAULTS[fault].target if fault in FAULTS else ""
    if kind == "instance":
        target = target if target is not None else next(iter(instances), "")
        if target not in instances:
            raise NotFoundError(f"there is no instance {target!r}", hint=f"there are: {', '.join(instances)}")
    elif kind == "gpu" and target is None:
        target = "0"
    inject(place, fault, target)
    return f"{fault} on {target}: {FAULTS[fault].description}"
