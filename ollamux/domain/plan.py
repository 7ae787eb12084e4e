"""Models beside cards as values: what each needs, what goes where, what does not fit and why. Pure; no model file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    `estimated_bytes` is what had been said of it where the parts are measured. `predicted_bytes` is what the server
    itself takes it to need when it decides whether others may stay beside it, 0 where it does not decide so.
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
    predicted_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Return all that its card must hold."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.projector_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCard:
    """A card, or the host's memory where the CPU computes; `headroom_bytes` of it stay free.

    `others_bytes` is what others than our instances hold of it: the driver itself, a screen, a stranger's process.
    One process can use several cards of one `maker` together; None stands for one that goes with no other.
    """

    uuid: str
    mark: str
    name: str
    total_bytes: int
    headroom_bytes: int
    others_bytes: int = 0
    maker: str | None = "nvidia"

    @property
    def room_bytes(self) -> int:
        """Return what models may take of it."""
        return max(self.total_bytes - self.headroom_bytes - self.others_bytes, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A model on an instance: `shares` says how many bytes on which card. `instance` is None where none is configured.

    `present`: it is loaded there already; `pinned`: the configuration or a person keeps it there anyway.
    """

    model: str
    instance: str | None
    shares: tuple[tuple[str, int], ...]
    present: bool = False
    pinned: bool = False

    @property
    def size_bytes(self) -> int:
        """Return what it takes of all its cards."""
        return sum(size for _, size in self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An instance over several cards that is not configured, and that a model needs.

    It takes the cards of `members` and shares them with these; `link` is the longest way between two of the cards.
    """

    instance: str | None
    members: tuple[str, ...]
    cards: tuple[str, ...]
    link: str
    nvlinks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaced:
    """A model without a card, or with fewer than wanted; why, and what would help."""

    model: str
    reason: str
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole picture. `kept` is what stays on the cards besides, because it is pinned there."""

    version: str
    time: str
    simulated: bool
    models: tuple[ModelNeed, ...]
    cards: tuple[PlanCard, ...]
    placement: tuple[Placed, ...]
    unplaced: tuple[Unplaced, ...]
    spans: tuple[Span, ...] = ()
    kept: tuple[Placed, ...] = ()
    notes: tuple[str, ...] = ()

    def planned_bytes(self, uuid: str) -> int:
        """Return what was given to a card."""
        return sum(size for placed in self.placement for card, size in placed.shares if card == uuid)

    def kept_bytes(self, uuid: str) -> int:
        """Return what is kept on a card besides."""
        return sum(size for placed in self.kept for card, size in placed.shares if card == uuid)


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
                "others_bytes": card.others_bytes,
                "planned_bytes": plan.planned_bytes(card.uuid),
                "kept_bytes": plan.kept_bytes(card.uuid),
            }
            for card in plan.cards
        ],
        "placement": [_placed(placed) for placed in plan.placement],
        "kept": [_placed(placed) for placed in plan.kept],
        "spans": [
            {
                "instance": span.instance,
                "members": list(span.members),
                "cards": list(span.cards),
                "link": span.link,
                "nvlinks": span.nvlinks,
            }
            for span in plan.spans
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
        "notes": list(plan.notes),
    }


def _placed(placed: Placed) -> dict[str, Any]:
    return {
        "model": placed.model,
        "instance": placed.instance,
        "cards": [uuid for uuid, _ in placed.shares],
        "bytes": placed.size_bytes,
        "present": placed.present,
        "pinned": placed.pinned,
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
        "predicted_bytes": need.predicted_bytes or None,
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
