"""Models beside cards: what fits where, what does not, and what would make it fit. Pure; knows no model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ollamux.domain import placement
from ollamux.domain.placement import Placement, Room, Wish
from ollamux.domain.schemas import PLAN_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNeed:
    """What one layer takes; the output has no number. `on_card`: it goes to the card, not to host memory."""

    number: int | None
    kind: str
    weights_bytes: int
    kv_bytes: int
    state_bytes: int
    on_card: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change after which a model would fit, and what it would need then. `what` is a key of the plan's models."""

    what: str
    value: int | str
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a load of a model took of a card, and how it was loaded.

    `used` says how much of it the plan is made with: "all" where it was loaded just so, on such a card; "part" where
    it was loaded in another way; "nothing" where the card was of another kind. `process_bytes` is what the driver told
    of its process, None where it tells of none: the overhead is estimated then.
    """

    used: str
    card: str
    total_bytes: int
    process_bytes: int | None
    context_length: int
    parallel: int
    kv_type: str
    batch: int
    offloaded: int | None
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeed:
    """What a model needs on one card. `kv_bytes` holds recurrent states too; `host_bytes` is beside the card.

    `least_bytes` is what it takes where there is no room for `total_bytes`: ollama then computes in smaller batches.
    `estimated_bytes` is what had been said of it where the parts are measured.
    """

    name: str
    digest: str
    architecture: str
    parameters: int
    quantization: str | None
    context_length: int
    parallel: int
    kv_type: str
    flash_attention: bool
    batch: int
    least_bytes: int
    layers: tuple[LayerNeed, ...]
    weights_bytes: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    projector_bytes: int
    overhead_bytes: int
    host_bytes: int
    source: str
    notes: tuple[str, ...] = ()
    measured: Measured | None = None
    estimated_bytes: int | None = None

    @property
    def total_bytes(self) -> int:
        """Return all that its card must hold."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.projector_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCard:
    """A card; `headroom_bytes` of it stay free, and its server holds `slots` models at once.

    `instance` is the one that has this card alone, None where none is configured.
    """

    uuid: str
    mark: str
    name: str
    total_bytes: int
    headroom_bytes: int
    slots: int = 3
    instance: str | None = None

    @property
    def room_bytes(self) -> int:
        """Return what models may take of it."""
        return max(self.total_bytes - self.headroom_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A model on a card."""

    model: str
    uuid: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """A model without a card, why, and what would help."""

    model: str
    reason: str
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole picture."""

    version: str
    time: str
    simulated: bool
    models: tuple[ModelNeed, ...]
    cards: tuple[PlanCard, ...]
    placement: tuple[Placed, ...]
    unplaced: tuple[Unplaced, ...]

    def planned_bytes(self, uuid: str) -> int:
        """Return what was given to a card."""
        return sum(placed.size_bytes for placed in self.placement if placed.uuid == uuid)


def place(
    needs: Sequence[ModelNeed],
    cards: Sequence[PlanCard],
    on_card: Callable[[ModelNeed, PlanCard], ModelNeed] = lambda need, card: need,
) -> tuple[tuple[Placed, ...], tuple[ModelNeed, ...]]:
    """Give each model a card; return also those without one. What else has no place is computed in smaller batches.

    `on_card` says what a model needs on one card, where that differs.
    """
    room = Room({card.uuid: card.room_bytes for card in cards}, {card.uuid: card.slots for card in cards})
    on = {(need.name, card.uuid): on_card(need, card) for need in needs for card in cards}
    sizes = {at: need.total_bytes for at, need in on.items()}
    found = _placement(needs, sizes, room)
    if found.missing:
        tighter = sizes | {at: need.least_bytes for at, need in on.items() if need.name in found.missing}
        again = _placement(needs, tighter, room)
        if len(again.missing) < len(found.missing):
            sizes, found = tighter, again
    placed = tuple(
        Placed(model=need.name, uuid=card.uuid, size_bytes=sizes[need.name, card.uuid])
        for card in cards
        for need in needs
        if (need.name, card.uuid) in found.placed
    )
    return placed, tuple(need for need in needs if need.name in found.missing)


def _placement(needs: Sequence[ModelNeed], sizes: Mapping[tuple[str, str], int], room: Room) -> Placement:
    wishes = [Wish(need.name, 1, {card: {card: sizes[need.name, card]} for card in room.cards}) for need in needs]
    return placement.place(wishes, room)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain values, in the order of the schema."""
    return {
        "schema": PLAN_SCHEMA,
        "version": plan.version,
        "time": plan.time,
        "simulated": plan.simulated,
        "models": [_model(need) for need in plan.models],
        "cards": [
            {
                "uuid": card.uuid,
                "name": card.name,
                "total_bytes": card.total_bytes,
                "headroom_bytes": card.headroom_bytes,
                "planned_bytes": plan.planned_bytes(card.uuid),
            }
            for card in plan.cards
        ],
        "placement": [
            {
                "model": placed.model,
                "instance": next((card.instance for card in plan.cards if card.uuid == placed.uuid), None),
                "cards": [placed.uuid],
                "bytes": placed.size_bytes,
            }
            for placed in plan.placement
        ],
        "unplaced": [
            {
                "model": one.model,
                "reason": one.reason,
                "would_fit_if": [
                    {"change": remedy.what, "value": remedy.value, "total_bytes": remedy.total_bytes}
                    for remedy in one.remedies
                ],
            }
            for one in plan.unplaced
        ],
    }


def _model(need: ModelNeed) -> dict[str, Any]:
    return {
        "name": need.name,
        "digest": need.digest,
        "architecture": need.architecture,
        "parameters": need.parameters,
        "quantization": need.quantization,
        "context_length": need.context_length,
        "parallel": need.parallel,
        "kv_type": need.kv_type,
        "flash_attention": need.flash_attention,
        "batch": need.batch,
        "layers": {
            "total": len(need.layers),
            "offloaded": sum(layer.on_card for layer in need.layers),
            "each": [_layer(layer) for layer in need.layers],
        },
        "weights_bytes": need.weights_bytes,
        "kv_bytes": need.kv_bytes,
        "state_bytes": need.state_bytes,
        "compute_bytes": need.compute_bytes,
        "projector_bytes": need.projector_bytes,
        "overhead_bytes": need.overhead_bytes,
        "host_bytes": need.host_bytes,
        "total_bytes": need.total_bytes,
        "least_total_bytes": need.least_bytes,
        "estimated_total_bytes": need.total_bytes if need.estimated_bytes is None else need.estimated_bytes,
        "measured_total_bytes": need.total_bytes if need.source == "calibrated" else None,
        "measured": _measured(need.measured),
        "source": need.source,
        "notes": list(need.notes),
    }


def _layer(layer: LayerNeed) -> dict[str, Any]:
    return {
        "number": layer.number,
        "kind": layer.kind,
        "on_card": layer.on_card,
        "weights_bytes": layer.weights_bytes,
        "kv_bytes": layer.kv_bytes,
        "state_bytes": layer.state_bytes,
    }


def _measured(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "used": measured.used,
        "card": measured.card,
        "total_bytes": measured.total_bytes,
        "process_bytes": measured.process_bytes,
        "context_length": measured.context_length,
        "parallel": measured.parallel,
        "kv_type": measured.kv_type,
        "batch": measured.batch,
        "layers_offloaded": measured.offloaded,
        "time": measured.time,
    }
