"""How cards reach each other, and which two of them suit a model that is split over two. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from ollamux.domain.snapshot import GpuView, LinkView

UNKNOWN = "unknown"
KINDS = ("nvlink", "same-board", "switch", "switches", "host-bridge", "socket", "system", UNKNOWN)
"""From the shortest way to the longest."""


class Pair(NamedTuple):
    """Two cards for one model. `alike`: every other pair that could be taken is joined in the same way."""

    one: GpuView
    other: GpuView
    link: LinkView
    alike: bool


def kind_of(level: str, nvlinks: int | None) -> str:
    """Return the kind of a link: NVLinks are what is used where there are any."""
    return "nvlink" if nvlinks else level


def linked_cards(gpus: Iterable[GpuView]) -> tuple[GpuView, ...]:
    """Return the cards that links join: MIG devices are parts of one."""
    return tuple(gpu for gpu in gpus if gpu.mig_parent is None)


def all_links(gpus: Iterable[GpuView], known: Mapping[frozenset[str], LinkView]) -> tuple[LinkView, ...]:
    """Return a link for each two cards, in their order; of which nothing is known is told as unknown."""
    found = []
    for one, other in combinations(linked_cards(gpus), 2):
        link = known.get(frozenset((one.uuid, other.uuid)))
        kind, nvlinks = (UNKNOWN, None) if link is None else (link.kind, link.nvlinks)
        found.append(LinkView(a=one.uuid, b=other.uuid, kind=kind, nvlinks=nvlinks))
    return tuple(found)


def best_pair(gpus: Iterable[GpuView], links: Sequence[LinkView]) -> Pair | None:
    """Return the two cards that suit a split model best; None where no way between two usable cards is known.

    The shortest way decides, then equal cards, since the slower one sets the pace, then the memory of both.
    """
    usable = {gpu.uuid: gpu for gpu in linked_cards(gpus) if gpu.state == "ok" and gpu.compute_mode != "prohibited"}
    ways = [link for link in links if {link.a, link.b} <= usable.keys() and link.kind in KINDS[:-1]]
    if not ways:
        return None

    def rank(link: LinkView) -> tuple[int, int, bool, int]:
        one, other = usable[link.a], usable[link.b]
        memory = (one.memory_total_bytes or 0) + (other.memory_total_bytes or 0)
        return KINDS.index(link.kind), -(link.nvlinks or 0), one.name != other.name, -memory

    best = min(ways, key=rank)
    alike = all(rank(link)[:2] == rank(best)[:2] for link in ways)
    return Pair(usable[best.a], usable[best.b], best, alike)
