"""Hold a respawn back until the memory that the ended incarnation had on its cards is free, or say why it is not.

A driver gives memory back some time after the process is gone; a server started before that finds a full card and
falls to the CPU. Only what is known holds anybody back: without a driver that answers, nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ollamux.domain import events as ev
from ollamux.domain.phases import Phase
from ollamux.domain.text import format_size
from ollamux.gpu.freed import Claim, Held, claim_on, holds, still_held, unexplained
from ollamux.supervisor.core import VRAM, Core
from ollamux.supervisor.family import mark_of
from ollamux.supervisor.gpus import SAMPLE_INTERVAL_S, Gpus
from ollamux.supervisor.unit import Unit
from ollamux.system import procs
from ollamux.system.clock import monotonic
from ollamux.system.loop import Timer

if TYPE_CHECKING:
    from ollamux.supervisor.carried import CarriedUnit, CarriedVram

LIMIT_S = 10.0
"""A driver may keep memory for ever: after this time the start is tried all the same."""
LOOK_S = 0.25
ANSWER_S = 1.0
"""A driver that takes longer to answer holds nobody back."""
STALE_S = 3 * SAMPLE_INTERVAL_S

Obstacle = tuple[str, str, float | None]


class _Debt:
    """What an incarnation that has ended still owes its cards."""

    def __init__(self, unit: Unit, claims: tuple[Claim, ...], index: int | None) -> None:
        self.unit = unit
        self.gen = unit.state.gen
        self.claims = claims
        self.ended_at = monotonic()
        self.resource = VRAM if index is None else f"{VRAM} {index}"
        self.why: str | None = None
        self.reason: str | None = None


class Vram:
    """Knows who holds memory of which card, from the samples, and what is not back yet."""

    def __init__(self, core: Core, gpus: Gpus) -> None:
        self._core = core
        self._gpus = gpus
        self._pids: dict[str, set[int]] = {}
        self._before: dict[str, dict[str, int | None]] = {}
        self._debts: dict[str, _Debt] = {}
        self._next_look: Timer | None = None
        gpus.listeners.append(self._sampled)

    def carried(self, unit: Unit) -> CarriedVram:
        """Return what is known of an instance, for the program that takes our place."""
        from ollamux.supervisor.carried import CarriedVram, Debt

        debt = self._debts.get(unit.name)
        return CarriedVram(
            pids=tuple(sorted(self._pids.get(unit.name, ()))),
            before=self._before.get(unit.name, {}),
            debt=None
            if debt is None
            else Debt(
                gen=debt.gen,
                claims=debt.claims,
                ended_at=debt.ended_at,
                resource=debt.resource,
                why=debt.why,
                reason=debt.reason,
            ),
        )

    def go_on(self, units: Iterable[CarriedUnit]) -> None:
        """Go on with what the program before this one knew."""
        for name, known in ((unit.name, unit.vram) for unit in units if unit.vram is not None):
            self._pids[name], self._before[name] = set(known.pids), known.before
            if known.debt is not None:
                debt = self._debts[name] = _Debt(self._core.units[name], known.debt.claims, None)
                debt.gen, debt.ended_at, debt.resource = known.debt.gen, known.debt.ended_at, known.debt.resource
                debt.why, debt.reason = known.debt.why, known.debt.reason
        self._look()

    def leader_gone(self, unit: Unit, left: Iterable[int]) -> None:
        """Note what the leader of a pinned instance left, and ask for its cards at once."""
        self._pids.setdefault(unit.name, set()).update(left)
        if self._may_hold(unit):
            self._gpus.look_now()

    def ended(self, unit: Unit) -> None:
        """Note that nothing of an incarnation is left, before what was seen of it is forgotten."""
        known = self._may_hold(unit) and self._is_fresh()
        pids = self._pids.pop(unit.name, set()) | set(unit.runners)
        if not known:
            return
        before = self._before.get(unit.name, {})
        loaded = sum(model.size_vram_bytes for model in unit.models)
        cards = self._gpus.current(unit.gpus)
        claims = []
        for card in cards:
            alone = before.get(card.uuid) if not self._is_shared(unit, card.uuid) else None
            claims.append(claim_on(card, pids, before=alone, loaded=loaded))
        self._debts[unit.name] = _Debt(unit, tuple(claims), cards[0].index if cards else None)
        self._gpus.look_now()

    def obstacle(self, unit: Unit) -> Obstacle | None:
        """Return (resource, reason, seconds) where a start has to wait for memory; else it is about to be made."""
        debt = self._debts.get(unit.name)
        if debt is not None:
            debt.unit = unit  # it may have left the configuration and come back
        blocked = None if debt is None else self._judged(debt, monotonic() - debt.ended_at)
        if blocked is None:
            self._debts.pop(unit.name, None)
            cards = self._gpus.current(unit.gpus) if self._is_fresh() else []
            self._before[unit.name] = {card.uuid: unexplained(card) for card in cards}
            return None
        if self._next_look is None:
            self._next_look = self._core.loop.call_later(LOOK_S, self._look)
        return blocked

    def _judged(self, debt: _Debt, waited_s: float) -> Obstacle | None:
        if debt.why is None:
            debt.why = debt.unit.state.reason
        said = f"{debt.why}; " if debt.why else ""
        if self._gpus.asked_at <= debt.ended_at:  # what is known was asked while it lived
            if waited_s >= ANSWER_S or self._gpus.trouble is not None:
                return None
            return debt.resource, f"{said}looks whether its memory on the GPU is free again", ANSWER_S - waited_s
        held = self._held(debt)
        if not held:
            return None
        if waited_s >= LIMIT_S:
            self._core.note(
                debt.unit,
                f"starts although {_amount(held)} not freed within {LIMIT_S:g} s of its end"
                f" ({_holders(held)}); the driver may keep them until the card is reset",
            )
            return None
        if debt.reason is None:
            figures = " and ".join(f"{format_size(one.size_bytes)} on {_card(one)}" for one in held)
            debt.reason = f"{said}waits for {figures} to be freed ({_holders(held)})"
        return debt.resource, debt.reason, LIMIT_S - waited_s

    def _held(self, debt: _Debt) -> list[Held]:
        cards = {card.uuid: card for card in self._gpus.current(debt.unit.gpus)}
        found = [
            still_held(claim, cards[claim.uuid], lambda pid: self._is_stranger(debt, pid))
            for claim in debt.claims
            if claim.uuid in cards
        ]
        return [held for held in found if held is not None]

    def _is_stranger(self, debt: _Debt, pid: int) -> bool:
        seen = procs.stat(pid)
        if seen is None or seen.state in ("Z", "X"):
            return False
        mark = mark_of(pid)
        return mark is None or (mark.instance, mark.gen) != (debt.unit.name, debt.gen)

    def _look(self) -> None:
        """Ask the driver again while somebody waits for it."""
        self._next_look = None
        if any(_waits(debt) for debt in self._debts.values()):
            self._gpus.look_now()
            self._next_look = self._core.loop.call_later(LOOK_S, self._look)

    def _sampled(self) -> None:
        for unit in self._core.units.values():
            if unit.gpus and unit.child is not None and not unit.leader_ended:
                self._note_members(unit)
        for debt in tuple(self._debts.values()):
            if self._gpus.asked_at <= debt.ended_at:
                continue
            free = not self._held(debt)
            if _waits(debt) and (free or debt.reason is None):
                self._core.dispatch(debt.unit, ev.ResourceFreed(resource=debt.resource))
            elif free:
                self._debts.pop(debt.unit.name, None)

    def _note_members(self, unit: Unit) -> None:
        pids = self._pids.setdefault(unit.name, set())
        cards = self._gpus.current(unit.gpus)
        listed = {process.pid for card in cards for process in card.processes}
        pids &= listed
        assert unit.child is not None  # noqa: S101 - asked of living instances only
        ours = {unit.child.pid, *unit.runners}
        pids |= {pid for pid in listed - pids if pid in ours or mark_of(pid) == unit.mark}

    def _may_hold(self, unit: Unit) -> bool:
        if unit.runners or unit.models:
            return True
        pids = self._pids.get(unit.name)
        return bool(pids) and (unit.leader_ended or any(holds(card, pids or ()) for card in unit.gpus))

    def _is_fresh(self) -> bool:
        at = self._gpus.sampled_at
        return at is not None and self._gpus.trouble is None and monotonic() - at < STALE_S

    def _is_shared(self, unit: Unit, uuid: str) -> bool:
        others = (other for other in self._core.units.values() if other is not unit)
        return any(gpu.uuid == uuid for other in others for gpu in other.gpus)


def _waits(debt: _Debt) -> bool:
    state = debt.unit.state
    return state.phase is Phase.WAITING and state.resource == debt.resource


def _card(held: Held) -> str:
    return "its GPU" if held.gpu.index is None else f"GPU {held.gpu.index}"


def _amount(held: list[Held]) -> str:
    return " and ".join(f"{format_size(one.size_bytes)} on {_card(one)}" for one in held) + " were"


def _holders(held: list[Held]) -> str:
    pids = sorted({pid for one in held for pid in one.pids})
    if not pids:
        return "the driver does not say by whom they are held"
    return "; ".join(_holder(pid) for pid in pids)


def _holder(pid: int) -> str:
    seen = procs.stat(pid)
    gone = seen is None or seen.state in ("Z", "X")
    return f"pid {pid} is gone, the driver still counts it" if gone else f"pid {pid} still holds them"
