"""What was measured: one row a figure, with the limit beside it and the target. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """At most so much, of the ratio to the limit or of the figure itself."""

    most: float
    of: Literal["ratio", "figure"] = "ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. The n-th sample of the limit was taken in the same round as the n-th of ollamux."""

    group: str
    what: str
    unit: Literal["ms", "s/min", "MiB"] = "ms"
    limit: Sequence[float] = ()
    ollamux: Sequence[float]
    target: Target | None = None

    def ratios(self) -> list[float]:
        """Return ollamux over the limit, round by round; nothing where the limit is nothing."""
        if not self.limit or 0.0 in self.limit:
            return []
        return [ours / least for ours, least in zip(self.ollamux, self.limit, strict=True)]

    def met(self) -> bool | None:
        """Say whether the median meets the target; None without one."""
        if self.target is None:
            return None
        figures = self.ratios() if self.target.of == "ratio" else self.ollamux
        return median(figures) <= self.target.most

    def plain(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        ratios = self.ratios()
        return {
            "group": self.group,
            "what": self.what,
            "unit": self.unit,
            "limit": list(self.limit),
            "ollamux": list(self.ollamux),
            "ratio_median": median(ratios) if ratios else None,
            "ratio_min": min(ratios, default=None),
            "ratio_max": max(ratios, default=None),
            "target": None if self.target is None else {"most": self.target.most, "of": self.target.of},
            "met": self.met(),
        }
