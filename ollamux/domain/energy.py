"""How much energy a card has used between the first and the last of some readings. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a card said at a moment: the joules it has counted since its driver was loaded, and its power."""

    at: float
    counted_j: float | None
    power_w: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What was used over so many seconds. `source` is "counter", or "power": samples of it, added up."""

    joules: float
    seconds: float
    source: str


def used(readings: Sequence[Reading]) -> Energy | None:
    """Return what was used; None where the card told neither at both ends.

    A counter that went backwards belongs to a driver that was loaded anew.
    """
    if len(readings) < 2:
        return None
    first, last = readings[0], readings[-1]
    seconds = last.at - first.at
    if first.counted_j is not None and last.counted_j is not None and last.counted_j >= first.counted_j:
        return Energy(joules=last.counted_j - first.counted_j, seconds=seconds, source="counter")
    if first.power_w is None or last.power_w is None:
        return None
    known = [(reading.at, reading.power_w) for reading in readings if reading.power_w is not None]
    joules = sum((one + other) / 2 * (after - before) for (before, one), (after, other) in pairwise(known))
    return Energy(joules=joules, seconds=seconds, source="power")
