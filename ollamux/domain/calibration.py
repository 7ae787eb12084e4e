"""What loads were measured to take, and what that says of the next one. Pure: no file, no clock.

A measurement holds for one model, version of ollama, kind of card and set of options, and nothing else. Of the same
model loaded in another way the overhead is taken over, since what is beside all buffers hangs on card and driver; and
how far off the estimate of compute was, where only the context or the type of the cache is another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ollamux.domain.plan import Measured, ModelNeed

CPU = "cpu"
"""Stands for the host's memory where a model was loaded without a card."""
MOST_LOADS = 256
CALIBRATED = "calibrated"
ALL, PART, NOTHING = "all", "part", "nothing"


class Card(Protocol):
    """What is needed to know of a card; a `PlanCard` is one."""

    @property
    def uuid(self) -> str:
        """The UUID, as the driver writes it."""

    @property
    def name(self) -> str:
        """The name of the product."""

    @property
    def total_bytes(self) -> int:
        """How much memory it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one load took of one card, by its log. `process_bytes`: all that its process was seen to hold at most."""

    uuid: str
    name: str
    total_bytes: int
    weights_bytes: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    process_bytes: int | None = None

    @property
    def buffers_bytes(self) -> int:
        """Return all buffers."""
        return self.weights_bytes + self.kv_bytes + self.state_bytes + self.compute_bytes

    @property
    def beside_bytes(self) -> int | None:
        """Return what was held beside the buffers; None where the driver does not tell of processes."""
        if self.process_bytes is None or self.process_bytes < self.buffers_bytes:
            return None
        return self.process_bytes - self.buffers_bytes

    def is_of(self, card: Card | None) -> bool:
        """Whether this is that card, or one of the same kind."""
        if card is None or self.uuid == CPU:
            return card is None and self.uuid == CPU
        return self.uuid == card.uuid or (bool(self.name) and (self.name, self.total_bytes) == _kind(card))


def _kind(card: Card) -> tuple[str, int]:
    return card.name, card.total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLoad:
    """One load: what was asked for, what it took of each card, and of the host. `time` is in RFC 3339.

    `digest` is that of the manifest. `offloaded` counts layers, None where there was no card. `ps_bytes` is what the
    server itself said of the cards' memory.
    """

    model: str
    digest: str
    version: str
    context_length: int
    parallel: int
    kv_type: str
    flash_attention: bool
    batch: int
    offloaded: int | None
    host_bytes: int
    ps_bytes: int
    shares: tuple[Share, ...]
    time: str

    @property
    def key(self) -> tuple[object, ...]:
        """Return what a later measurement must share to take the place of this one."""
        cards = tuple(sorted(share.uuid for share in self.shares))
        return (self.digest, self.version, self._way, self.offloaded, cards)

    @property
    def _way(self) -> tuple[object, ...]:
        return (self.context_length, self.parallel, self.kv_type, self.flash_attention, self.batch)

    def is_like(self, need: ModelNeed) -> bool:
        """Whether it was loaded just as that."""
        wanted = (need.context_length, need.parallel, need.kv_type, need.flash_attention, need.batch)
        layers = self.offloaded is None or self.offloaded == sum(layer.on_card for layer in need.layers)
        return self._way == wanted and layers


def remember(loads: Sequence[MeasuredLoad], new: MeasuredLoad) -> tuple[MeasuredLoad, ...]:
    """Return them with one more, the newest last; it takes the place of an earlier one of the same key."""
    return (*(load for load in loads if load.key != new.key), new)[-MOST_LOADS:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All measurements, the newest last, and the version of ollama that is planned for: None takes the newest's.

    `compute_of` says what would have been estimated for a load to compute with.
    """

    loads: tuple[MeasuredLoad, ...] = ()
    version: str | None = None
    compute_of: Callable[[MeasuredLoad], int | None] | None = None

    def calibrated(self, need: ModelNeed, card: Card | None) -> ModelNeed:
        """Return what a model needs on a card by what was measured there, or on one of the same kind.

        Without a card: in the host's memory. Where nothing fits the need comes back as it is.
        """
        found = [(load, load.shares[0]) for load in self._known(need) if load.shares[0].is_of(card)]
        found.sort(key=lambda each: card is not None and each[1].uuid == card.uuid)  # the very card's are the last
        exact = [each for each in found if each[0].is_like(need)]
        if exact:
            return _measured(need, *exact[-1])
        found.reverse()  # the newest first where several are as near
        found.sort(key=lambda each: _distance(need, each[0]))
        corrected = (self._corrected(need, *each) for each in found)
        return next((one for one in corrected if one.measured is not None), need)

    def _corrected(self, need: ModelNeed, load: MeasuredLoad, share: Share) -> ModelNeed:
        """Return a need with the overhead of another load, and off in compute as little as that was."""
        beside, ratio = share.beside_bytes, self._ratio(need, load, share)
        if share.uuid == CPU or (beside is None and ratio is None):  # an estimate is one of a card
            return need
        overhead = need.overhead_bytes if beside is None else beside - min(need.projector_bytes, beside)
        saved, compute = need.total_bytes - need.least_bytes, need.compute_bytes
        if ratio is not None:
            saved, compute = (size * ratio[0] // ratio[1] for size in (saved, compute))
        found = replace(need, overhead_bytes=overhead, compute_bytes=compute)
        told = _told(load, share, share.buffers_bytes + (need.overhead_bytes if beside is None else beside), used=PART)
        return replace(found, least_bytes=max(found.total_bytes - saved, 0), measured=told)

    def _ratio(self, need: ModelNeed, load: MeasuredLoad, share: Share) -> tuple[int, int] | None:
        """Return what was computed with and what had been estimated for that; None where it says nothing here."""
        if self.compute_of is None or need.source != "metadata" or not _is_akin(need, load):
            return None
        estimated = self.compute_of(load)
        return (share.compute_bytes, estimated) if estimated and share.compute_bytes else None

    def shown(self, need: ModelNeed, cards: Sequence[Card], *, on: Card | None = None) -> ModelNeed:
        """Return a need as it is to be shown: that on its own card where it has one, else the best known of any.

        What was measured on a card of another kind than its own is told, and changes nothing.
        """
        if on is None:
            return _best([self.calibrated(need, card) for card in cards] or [self.calibrated(need, None)])
        there = self.calibrated(need, on)
        if there.measured is not None:
            return there
        other = _best([self.calibrated(need, card) for card in cards] or [need]).measured
        return need if other is None else replace(need, measured=replace(other, used=NOTHING))

    def over(self, need: ModelNeed, cards: Sequence[Card]) -> tuple[ModelNeed, dict[str, int]] | None:
        """Return what a model took of these very cards together, and of each; None where it was never loaded so.

        Where the driver tells of no process, the overhead of each card is the estimated one.
        """
        wanted = {card.uuid for card in cards}
        same = (load for load in self._of(need) if {share.uuid for share in load.shares} == wanted)
        load = next((load for load in reversed([*same]) if load.is_like(need)), None)
        if load is None:
            return None
        beside = {
            share.uuid: need.overhead_bytes if share.beside_bytes is None else share.beside_bytes
            for share in load.shares
        }
        whole = replace(
            load.shares[0],
            weights_bytes=sum(share.weights_bytes for share in load.shares),
            kv_bytes=sum(share.kv_bytes for share in load.shares),
            state_bytes=sum(share.state_bytes for share in load.shares),
            compute_bytes=sum(share.compute_bytes for share in load.shares),
            process_bytes=sum(share.buffers_bytes + beside[share.uuid] for share in load.shares),
        )
        sizes = {share.uuid: share.buffers_bytes + beside[share.uuid] for share in load.shares}
        return _measured(need, load, whole), sizes

    def _known(self, need: ModelNeed) -> list[MeasuredLoad]:
        """Return the loads of a model on one card."""
        return [load for load in self._of(need) if len(load.shares) == 1]

    def _of(self, need: ModelNeed) -> list[MeasuredLoad]:
        version = self.version or (self.loads[-1].version if self.loads else None)
        return [load for load in self.loads if load.digest == need.digest and load.version == version]


def _best(found: Sequence[ModelNeed]) -> ModelNeed:
    """Return the one that was measured just so, else one that was measured at all, else the first."""
    return max(found, key=lambda need: (need.source == CALIBRATED, need.measured is not None))


def _is_akin(need: ModelNeed, load: MeasuredLoad) -> bool:
    """Whether only the context, or the type of the cache, is another."""
    return replace(load, context_length=need.context_length, kv_type=need.kv_type).is_like(need)


def _distance(need: ModelNeed, load: MeasuredLoad) -> tuple[bool, int]:
    places = load.context_length * load.parallel - need.context_length * need.parallel
    return not _is_akin(need, load), abs(places)


def _measured(need: ModelNeed, load: MeasuredLoad, share: Share) -> ModelNeed:
    beside = 0 if share.uuid == CPU else share.beside_bytes
    projector = need.projector_bytes if beside is None else min(need.projector_bytes, beside)
    found = replace(
        need,
        weights_bytes=share.weights_bytes,
        kv_bytes=share.kv_bytes + share.state_bytes,
        state_bytes=share.state_bytes,
        compute_bytes=share.compute_bytes,
        projector_bytes=projector,
        overhead_bytes=need.overhead_bytes if beside is None else beside - projector,
        host_bytes=load.host_bytes,
        source=CALIBRATED,
        estimated_bytes=need.total_bytes,
    )
    # Smaller batches would save what they are estimated to save.
    least = max(found.total_bytes - (need.total_bytes - need.least_bytes), 0)
    return replace(found, least_bytes=least, measured=_told(load, share, found.total_bytes, used=ALL))


def _told(load: MeasuredLoad, share: Share, total: int, *, used: str) -> Measured:
    return Measured(
        used=used,
        card=share.name,
        total_bytes=total,
        process_bytes=share.process_bytes,
        context_length=load.context_length,
        parallel=load.parallel,
        kv_type=load.kv_type,
        batch=load.batch,
        offloaded=load.offloaded,
        time=load.time,
    )
