"""Level 4 as the driver sees it: is a card of an instance lost, slowed or crowded, or does it compute on another one?

Judged at every sample of the cards. What can come and go from one moment to the next is told once it was seen three
times in a row, and withdrawn once it was not seen as often; a lost card is told at once.
"""

from __future__ import annotations

from collections.abc import Callable

from ollamux.domain import cards
from ollamux.domain.phases import Phase
from ollamux.domain.snapshot import GpuView, ProcessView
from ollamux.domain.spec import FaultPolicy, Pinning
from ollamux.gpu.model import Gpu
from ollamux.supervisor import holders
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.view import gpu_view

ASTRAY = "astray"
"""What the driver proves, apart from "wrong_gpu", which the server's own log does; the policy is the same."""
_SIGHTINGS = 3
_OVER = {
    cards.LOST: "its GPU answers again",
    cards.SLOWED: "its GPU runs at its full speed again",
    cards.CROWDED: "no stranger holds much of its GPU any more",
    ASTRAY: "it computes on its own GPU alone again",
}
Fault = Callable[[Unit, str, FaultPolicy, str], object]


class Cards:
    """Judges each instance by its cards. `fault` does what the policy says."""

    def __init__(self, core: Core, gpus: Gpus, fault: Fault) -> None:
        self._core = core
        self._gpus = gpus
        self._fault = fault
        self._uses: dict[str, list[ProcessView]] = {}
        self._seen_at: float | None = None

    def judge(self, unit: Unit) -> None:
        """Judge an instance by the newest sample."""
        if unit.spec.pinning is not Pinning.GPUS or self._gpus.inventory is None:
            return
        planned = [_view(gpu) for gpu in self._gpus.current(unit.gpus)]
        every = [_view(gpu) for gpu in self._gpus.inventory.gpus]
        found = cards.faults(unit.name, planned, every, self._who_computes())
        on = unit.spec.on
        self._weigh(unit, cards.LOST, on.gpu_lost, found.get(cards.LOST), at_once=True)
        self._weigh(unit, cards.SLOWED, on.slowed, found.get(cards.SLOWED))
        self._weigh(unit, cards.CROWDED, on.crowded, found.get(cards.CROWDED))
        self._weigh(unit, ASTRAY, on.wrong_gpu, found.get(cards.WRONG))

    def _weigh(self, unit: Unit, kind: str, policy: FaultPolicy, reason: str | None, *, at_once: bool = False) -> None:
        if unit.state.phase is not Phase.READY:
            return  # what was done about another fault has ended it
        most = 1 if at_once else _SIGHTINGS
        seen = unit.sightings.get(kind, 0) + (1 if reason is not None else -1)
        unit.sightings[kind] = seen = min(max(seen, 0), most)
        if reason is not None and kind in unit.degraded:
            unit.degraded[kind] = reason  # the figures change with every sample, which is no news
        elif reason is not None and seen == most:
            self._fault(unit, kind, policy, reason)
        elif seen == 0 and unit.degraded.pop(kind, None) is not None:
            unit.incidents.discard(kind)
            unit.asked_incidents.discard(kind)
            self._core.note(unit, _OVER[kind])

    def _who_computes(self) -> dict[str, list[ProcessView]]:
        """Return who computes on each card. What cannot be seen here, as from inside a container, is left out."""
        inventory = self._gpus.inventory
        if self._seen_at != self._gpus.sampled_at and inventory is not None:
            self._seen_at = self._gpus.sampled_at
            self._uses = {}
            for row in holders.rows(inventory, holders.of_fleet(self._core.units.values(), inventory)):
                if row.gpu is not None and row.user is not None:
                    self._uses.setdefault(row.gpu, []).append(row)
        return self._uses


def _view(gpu: Gpu) -> GpuView:
    return gpu_view(gpu, (), None)
