"""What was seen over time: one value for each five seconds of each series, the newest last. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STEP_S = 5.0
"""As often as the cards are sampled: more points would only repeat them."""
MOST_STEPS = 240

Series = tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """All series, which end in the same step. A value is None where nothing was known."""

    step: int | None = None
    series: Mapping[str, Series] = field(default_factory=dict)


NO_TRAIL = Trail()


def extended(trail: Trail, now: float, values: Mapping[str, float | None]) -> Trail:
    """Add what is seen now; of several looks within one step the highest value stays, so that no spike is lost.

    A series that is not seen any more goes on with None, and is forgotten once nothing else is left of it.
    """
    step = int(now // STEP_S)
    ahead = MOST_STEPS if trail.step is None else min(max(step - trail.step, 0), MOST_STEPS)
    longest = max((len(known) for known in trail.series.values()), default=0)
    series: dict[str, Series] = {}
    for name in {**trail.series, **values}:
        known = trail.series.get(name, (None,) * longest)
        if trail.step is not None:
            known = (*known, *(None,) * ahead)[-MOST_STEPS:]
        value = values.get(name)
        if not known:
            known = (value,)
        elif value is not None:
            last = known[-1]
            known = (*known[:-1], value if last is None else max(last, value))
        if name in values or any(point is not None for point in known):
            series[name] = known
    return Trail(step=step if trail.step is None else max(step, trail.step), series=series)
