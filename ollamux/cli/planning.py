"""Make a plan: read the models, say what each needs where, and give each its place. Reads; changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from ollamux import __version__
from ollamux.cli.ground import HOST, Ground
from ollamux.cli.needing import Needs, Settings
from ollamux.domain import spans
from ollamux.domain.errors import NotFoundError, OllamuxError
from ollamux.domain.placed import span_name
from ollamux.domain.plan import ModelNeed, Placed, Plan, PlanCard, Span, Unplaced
from ollamux.domain.seats import Lacking, Seat, Wanted, place, takes_one
from ollamux.domain.spec import MODELS_PER_CARD, InstanceSpec, ModelSpec, PinSpec
from ollamux.domain.text import format_size, same_model
from ollamux.ollama.needs import remedies
from ollamux.system.clock import rfc3339, wall


class Planner:
    """Plans for one ground; what was read once is kept."""

    def __init__(self, ground: Ground, settings: Settings) -> None:
        self._ground = ground
        self._needs = Needs(ground, settings)
        self._spans: dict[str, Span] = {}
        self._unseen: list[str] = []
        self.missing: list[str] = []

    def plan(self, models: Sequence[ModelSpec], *, lenient: bool) -> Plan:
        """Plan for these. `lenient`: a model that cannot be read is told as one without a place, and raises nothing."""
        wanted: list[Wanted] = []
        unread: list[Unplaced] = []
        for spec in models:
            try:
                wanted.append(self._wanted(spec))
            except OllamuxError as error:
                if not lenient:
                    raise
                if isinstance(error, NotFoundError):
                    self.missing.append(spec.name)
                hint = f" ({error.hint})" if error.hint else ""
                unread.append(Unplaced(model=spec.name, reason=f"{error.message}{hint}"))
        ground = self._ground
        kept = tuple(self._kept({spec.name: spec for spec in models}))
        seats = (*ground.seats, *self._added)
        placed, lacking = place(wanted, seats, ground.cards, kept=kept, present=frozenset(self._present(models)))
        specs = {spec.name: spec for spec in models}
        needs = {each.model: self._shown(specs[each.model], each, placed) for each in wanted}
        return Plan(
            version=__version__,
            time=rfc3339(wall()),
            simulated=ground.simulated,
            models=tuple(needs.values()),
            cards=ground.cards,
            placement=placed,
            unplaced=(
                *unread,
                *(self._unplaced(specs[one.model], needs[one.model], one) for one in lacking if ground.cards),
            ),
            spans=tuple(span for span in self._spans.values() if any(one.instance == span.instance for one in placed)),
            kept=tuple(one for one in kept if one not in placed),
            notes=tuple(dict.fromkeys([*self._trouble, *self._unseen])),
        )

    @property
    def _trouble(self) -> list[str]:
        trouble = self._ground.trouble
        return [] if trouble is None else [f"not all cards could be read: {trouble}"]

    # What is wanted, and what it needs

    def _wanted(self, spec: ModelSpec) -> Wanted:
        needs: dict[str, ModelNeed] = {}
        missing: OllamuxError | None = None
        for seat in self._ground.seats:
            try:
                needs[seat.name] = self._needs.need(spec, seat)
            except NotFoundError as error:
                missing = missing or error
        if not needs and (missing is not None or self._ground.seats):
            raise missing or NotFoundError(f"there is no store to look for {spec.name} in")
        self._needs.read(spec.name, self._ground.usual if not needs else self._first(needs))
        prefer = spec.prefer
        if needs and not any(self._fits(need, seat) for seat in self._ground.seats if (need := needs.get(seat.name))):
            added = self._span_seats(spec, needs)
            needs |= {seat.name: need for seat, need in added}
            prefer = (*prefer, *self._best(added))
        several = [seat for seat in self._seats if seat.name in needs and len(seat.cards) > 1]
        shares = {seat.name: found[1] for seat in several if (found := self._needs.over(spec, seat)) is not None}
        return Wanted(model=spec.name, needs=needs, shares=shares, replicas=spec.replicas, prefer=prefer)

    def _first(self, needs: Iterable[str]) -> InstanceSpec:
        name = next(iter(needs))
        return self._ground.spec_of(next(seat for seat in self._ground.seats if seat.name == name))

    def _fits(self, need: ModelNeed, seat: Seat) -> bool:
        cards = [card for card in self._ground.cards if card.uuid in seat.cards]
        return cards[0].room_bytes >= need.least_bytes if len(cards) == 1 else spans.holds(need, cards)

    def _shown(self, spec: ModelSpec, wanted: Wanted, placed: Sequence[Placed]) -> ModelNeed:
        """Return what a model needs where it goes, else where the first of its seats is, else with what is usual."""
        seats = [seat for seat in self._seats if any(_is_at(one, spec.name, seat) for one in placed)]
        usual = [seat for seat in self._ground.seats if self._ground.spec_of(seat) == self._ground.usual]
        chosen = next((seat for seat in (*seats, *usual, *self._seats) if seat.name in wanted.needs), _NOWHERE)
        estimate = self._needs.estimate(spec, chosen)
        cards = [card for card in self._ground.cards if card.uuid != HOST]
        known = self._needs.calibration(self._ground.spec_of(chosen))
        if chosen not in seats:
            return known.shown(estimate, cards)
        held = next(one.shares for one in placed if _is_at(one, spec.name, chosen))
        if len(held) > 1:
            measured = self._needs.over(spec, chosen)
            return estimate if measured is None else measured[0]
        return known.shown(estimate, cards, on=next((card for card in cards if card.uuid == held[0][0]), None))

    @property
    def _seats(self) -> tuple[Seat, ...]:
        return (*self._ground.seats, *self._added)

    # What is there already

    def _kept(self, wanted: dict[str, ModelSpec]) -> Iterable[Placed]:
        """Yield what the configuration or a person keeps on an instance, placed or not."""
        for seat in self._ground.seats:
            if seat.instance is None:
                continue
            for pin in self._pins(seat):
                name = next((name for name in wanted if same_model(name, pin.name)), pin.name)
                self._compare(pin, wanted.get(name), seat)
                shares = self._pin_shares(pin, seat)
                if shares is not None:
                    present = self._is_loaded(seat, pin.name)
                    yield Placed(model=name, instance=seat.instance, shares=shares, present=present, pinned=True)

    def _compare(self, pin: PinSpec, spec: ModelSpec | None, seat: Seat) -> None:
        """Tell where what is kept anyway counts as a replica though it has another context."""
        if spec is None or spec.ctx is None:
            return
        context = pin.num_ctx or self._ground.spec_of(seat).context_length
        if context != spec.ctx:
            kept = f"{seat.instance} keeps {pin.name} anyway, with a context of {context}"
            self._unseen.append(f"{kept}: it counts, though {spec.ctx} is wanted")

    def _pins(self, seat: Seat) -> tuple[PinSpec, ...]:
        ground = self._ground
        configured = ground.spec_of(seat).preload
        by_hand = tuple(
            PinSpec(name=pin["name"], num_ctx=pin["num_ctx"])
            for one in self._instances
            if one["name"] == seat.instance
            for pin in one["pins"]
            if pin["by"] == "hand"
        )
        return (*configured, *(pin for pin in by_hand if not any(same_model(pin.name, one.name) for one in configured)))

    def _pin_shares(self, pin: PinSpec, seat: Seat) -> tuple[tuple[str, int], ...] | None:
        """Return what a pin takes of its cards; None where its model cannot be read."""
        try:
            need = self._needs.of_pin(pin, seat)
        except OllamuxError:
            self._unseen.append(f"{seat.instance} keeps {pin.name}, which cannot be read: its memory is not counted")
            return None
        if len(seat.cards) == 1:
            return ((seat.cards[0], need.total_bytes),)
        cards = [card for card in self._ground.cards if card.uuid in seat.cards]
        roomiest = max(cards, key=lambda card: card.room_bytes)
        if takes_one(need, roomiest):
            return ((roomiest.uuid, need.total_bytes),)
        return tuple(spans.shares(need, {card.uuid: card.room_bytes for card in cards}).items())

    @property
    def _instances(self) -> list[dict[str, Any]]:
        view = self._ground.view
        found: list[dict[str, Any]] = [] if view is None else view["instances"]
        return found

    def _is_loaded(self, seat: Seat, name: str) -> bool:
        return any(
            same_model(model["name"], name)
            for one in self._instances
            if one["name"] == seat.instance
            for model in one["loaded"]
        )

    def _present(self, models: Sequence[ModelSpec]) -> Iterable[tuple[str, str]]:
        """Yield what is loaded where, and what is to be by the last placement: to move either costs a load."""
        placed = self._ground.standing.pins
        for spec in models:
            for seat in self._seats:
                if self._is_loaded(seat, spec.name) or any(
                    one.instance == seat.instance and same_model(one.model, spec.name) for one in placed
                ):
                    yield spec.name, seat.name

    # Over several cards

    @cached_property
    def _links(self) -> spans.Links:
        return self._ground.look_at_links()

    @property
    def _added(self) -> tuple[Seat, ...]:
        return tuple(
            Seat(
                name=name,
                instance=span.instance,
                cards=span.cards,
                slots=MODELS_PER_CARD * len(span.cards),
                members=span.members,
            )
            for name, span in self._spans.items()
        )

    def _span_seats(self, spec: ModelSpec, needs: dict[str, ModelNeed]) -> list[tuple[Seat, ModelNeed]]:
        """Return the seats over several cards that there could be for a model that none holds; best joined first."""
        single = {seat.cards[0]: seat for seat in self._ground.seats if len(seat.cards) == 1 and seat.name in needs}
        cards = [card for card in self._ground.cards if card.uuid in single and card.uuid != HOST]
        need = next((needs[single[card.uuid].name] for card in cards), None)
        if need is None or len(cards) < 2:
            return []
        found = []
        for group in spans.groups(need, cards, self._links):
            seats = [single[card.uuid] for card in group]
            seat = self._seat_over(group, seats)
            found.append((seat, self._needs.need(spec, seat)))
        return found

    def _seat_over(self, group: Sequence[PlanCard], seats: Sequence[Seat]) -> Seat:
        members = tuple(seat.instance for seat in seats if seat.instance is not None)
        cards = tuple(card.uuid for card in group)
        name = "+".join(cards)
        if name not in self._spans:
            whole = len(members) == len(seats)
            way = spans.longest_way(cards, self._links)
            standing = {span.name for span in self._ground.standing.spans}
            taken = {spec.name for spec in self._ground.fleet.instances if spec.name not in standing} | {
                span.instance for span in self._spans.values() if span.instance is not None
            }
            self._spans[name] = Span(
                instance=span_name(members, taken) if whole else None,
                members=members if whole else (),
                cards=cards,
                link=spans.kind_of(way),
                nvlinks=None if way is None else way.nvlinks,
            )
        return next(seat for seat in self._added if seat.name == name)

    def _best(self, added: Sequence[tuple[Seat, ModelNeed]]) -> tuple[str, ...]:
        """Return those of the seats that are joined as well as the best of them."""
        cards = {card.uuid: card for card in self._ground.cards}
        ranks = {seat.name: spans.rank([cards[uuid] for uuid in seat.cards], self._links)[:3] for seat, _ in added}
        return tuple(name for name, rank in ranks.items() if rank == min(ranks.values()))

    # What has no place

    def _unplaced(self, spec: ModelSpec, need: ModelNeed, lacking: Lacking) -> Unplaced:
        why = _why_crowded(lacking)
        if why is not None:
            return Unplaced(model=spec.name, reason=why)
        seats = self._ground.seats
        if not seats:
            return Unplaced(model=spec.name, reason="no instance that is up has one of these cards")
        held = {uuid for seat in seats for uuid in seat.cards}
        room = max((card.room_bytes for card in self._ground.cards if card.uuid in held), default=0)
        largest = "the card has" if len(self._ground.cards) == 1 else "the largest card has"
        reason = f"it needs at least {format_size(need.least_bytes)}, and {largest} room for {format_size(room)}"
        if len(self._ground.cards) > 1:
            reason += ", nor do several together hold it" if len(seats) > 1 else ""
        settings = self._ground.usual
        model, wish = self._needs.wish(spec, settings)
        return Unplaced(model=spec.name, reason=reason, remedies=remedies(model, wish, room))


def _why_crowded(lacking: Lacking) -> str | None:
    """Say why some replicas of a model have no place; None where no card would hold a single one."""
    wanted = lacking.count + lacking.placed
    have = "has" if lacking.count == 1 else "have"
    some = "" if wanted == 1 else f"{lacking.count} of {wanted} replicas {have} none: "
    if lacking.full:
        return f"{some}there is memory for it, but the instances there load no more models (max_loaded_models)"
    if lacking.alone > lacking.placed:
        return f"{some}the others take the cards that would hold it; alone it would fit"
    return f"{some}there are no further cards that would hold another one" if lacking.placed else None


_NOWHERE = Seat(name="", instance=None, cards=(), slots=0)


def _is_at(one: Placed, model: str, seat: Seat) -> bool:
    if one.model != model or one.instance != seat.instance:
        return False
    return seat.instance is not None or tuple(card for card, _ in one.shares) == seat.cards
