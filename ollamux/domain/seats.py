"""Which instance keeps which model: seats for models on cards, and who gets them. Pure.

A seat is an instance, a card without one, or an instance over several cards that there could be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ollamux.domain import placement
from ollamux.domain.placement import Pairs, Placement, Room
from ollamux.domain.plan import ModelNeed, Placed, PlanCard
from ollamux.domain.spans import shares
from ollamux.domain.spec import EVERY_CARD


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where models can be. `members` are the instances whose cards one takes that is not configured."""

    name: str
    instance: str | None
    cards: tuple[str, ...]
    slots: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A model that is to be kept `replicas` times. `needs` says what it needs on each seat that could hold it.

    `shares` says for seats over several cards what each of these was measured to hold, where it was.
    """

    model: str
    needs: Mapping[str, ModelNeed]
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    replicas: int = 1
    prefer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """So many replicas of a model have no seat, `placed` have one.

    `alone` is how many would have one but for the other models; `full`: there is memory for it, but the instances
    there load no more models.
    """

    model: str
    count: int
    placed: int = 0
    alone: int = 0
    full: bool = False


def place(
    wanted: Sequence[Wanted],
    seats: Sequence[Seat],
    cards: Sequence[PlanCard],
    *,
    kept: Sequence[Placed] = (),
    present: Pairs = frozenset(),
) -> tuple[tuple[Placed, ...], tuple[Lacking, ...]]:
    """Give each model its seats; return also what has none. `present` is what is loaded where now.

    What stays anyway, `kept`, has its room already; a model that is wanted and kept is there, and counts as a replica.
    What else would have no seat computes in smaller batches.
    """
    room = _room(seats, cards, kept)
    demands = [_demands(each, seats, cards, kept) for each in wanted]
    wishes = [_wish(each, demand, room, kept) for each, demand in zip(wanted, demands, strict=True)]
    chosen = _asking(wishes, demands)
    there = frozenset(
        (model, way)
        for model, seat in present
        for way in (seat, *(way for way, owner in room.of.items() if owner == seat))
    )
    found = placement.place(chosen, room, there)
    if found.missing:
        tight = _asking(wishes, demands, least=frozenset(found.missing))
        again = placement.place(tight, room, there)
        if sum(again.missing.values()) < sum(found.missing.values()):
            found, chosen = again, tight
    placed = [*_there(wanted, kept), *_placed(chosen, seats, found, present)]
    lacking = _lacking(chosen, demands, found.missing, _free(cards), room) if found.missing else ()
    return tuple(placed), tuple(lacking)


def _lacking(
    wishes: Sequence[placement.Wish],
    demands: Sequence[_Demand],
    missing: Mapping[str, int],
    empty: Mapping[str, int],
    room: Room,
) -> Iterable[Lacking]:
    """Yield what has no seat, and what that hangs on."""
    roomy = placement.place(wishes, room._replace(slots=dict.fromkeys(room.slots, len(wishes)))).missing
    for wish, demand in zip(wishes, demands, strict=True):
        count = missing.get(wish.model, 0)
        if count:
            yield Lacking(
                model=wish.model,
                count=count,
                placed=wish.replicas - count,
                alone=min(_fitting(demand, empty, room.of), wish.replicas),
                full=roomy.get(wish.model, 0) < count,
            )


class _Demand(dict[str, tuple[dict[str, int], dict[str, int]]]):
    """For each seat what a model takes of each card: as it likes, and in the smallest batches.

    On a seat over several cards there is a way for each of them where the server would take one alone.
    """


def _way(seat: Seat, uuid: str) -> str:
    """Name the way in which a model is on one card of a seat over several."""
    return f"{seat.name}\0{uuid}"


def _room(seats: Sequence[Seat], cards: Sequence[PlanCard], kept: Sequence[Placed]) -> Room:
    free = _free(cards)
    slots = {seat.name: seat.slots for seat in seats}
    held: dict[str, int] = {}
    for one in kept:
        for uuid, size in one.shares:
            free[uuid] = free.get(uuid, 0) - size
        if one.instance in slots:
            slots[one.instance] -= 1
            held[one.instance] = held.get(one.instance, 0) + 1
    ways = {_way(seat, uuid): seat.name for seat in seats if len(seat.cards) > 1 for uuid in seat.cards}
    return Room(free, slots, {card.uuid: card.headroom_bytes for card in cards}, held, ways)


def _demands(wanted: Wanted, seats: Sequence[Seat], cards: Sequence[PlanCard], kept: Sequence[Placed]) -> _Demand:
    size = _free(cards)
    by_uuid = {card.uuid: card for card in cards}
    taken = {uuid for one in kept if one.model == wanted.model for uuid, _ in one.shares}
    found = _Demand()
    for seat in seats:
        need = wanted.needs.get(seat.name)
        if need is None or taken & set(seat.cards) or not set(seat.cards) <= size.keys():
            continue
        free = {uuid: size[uuid] for uuid in seat.cards}
        alone = [uuid for uuid in free if takes_one(need, by_uuid[uuid])] if len(free) > 1 else ()
        if len(free) == 1:
            found[seat.name] = ({seat.cards[0]: need.total_bytes}, {seat.cards[0]: need.least_bytes})
        elif alone:
            found |= {_way(seat, uuid): ({uuid: need.total_bytes}, {uuid: need.least_bytes}) for uuid in alone}
        elif seat.name in wanted.shares:
            measured = dict(wanted.shares[seat.name])
            found[seat.name] = (measured, measured)
        else:
            found[seat.name] = (shares(need, free), shares(need, free, least=True))
    return found


def takes_one(need: ModelNeed, card: PlanCard) -> bool:
    """Whether a server with several cards would put a model on this one alone, if it were empty.

    From 0.30 on it wants what it predicts to be at most 80 % of what is free (server/sched.go, 0.32.15).
    """
    if not need.predicted_bytes:
        return need.total_bytes <= card.room_bytes
    return need.predicted_bytes * 100 <= (card.room_bytes + card.headroom_bytes) * placement.BESIDE_PERCENT


def _wish(wanted: Wanted, demand: _Demand, room: Room, kept: Sequence[Placed]) -> placement.Wish:
    there = sum(one.model == wanted.model for one in kept)
    if wanted.replicas == EVERY_CARD:
        replicas = max(_fitting(demand, room.cards, room.of), 0 if there else 1)
    else:
        replicas = max(wanted.replicas - there, 0)
    predicted = {way: wanted.needs[room.of.get(way, way)].predicted_bytes for way in demand}
    prefer = tuple(way for way in demand if room.of.get(way, way) in wanted.prefer)
    return placement.Wish(wanted.model, replicas, {}, prefer, predicted)


def _fitting(demand: _Demand, free: Mapping[str, int], of: Mapping[str, str]) -> int:
    """Return how many replicas these cards hold, if they hold nothing else; over few cards first."""
    taken: set[str] = set()
    having: set[str] = set()
    for way, (_, least) in sorted(demand.items(), key=lambda each: len(each[1][1])):
        seat = of.get(way, way)
        if seat in having or taken & least.keys():
            continue
        if all(free[card] >= size for card, size in least.items()):
            taken |= least.keys()
            having.add(seat)
    return len(having)


def _asking(
    wishes: Sequence[placement.Wish], demands: Sequence[_Demand], *, least: frozenset[str] = frozenset()
) -> list[placement.Wish]:
    """Return the wishes with what each takes of each seat; those in `least` compute in the smallest batches."""
    return [
        wish._replace(demand={seat: sizes[wish.model in least] for seat, sizes in demand.items()})
        for wish, demand in zip(wishes, demands, strict=True)
    ]


def _free(cards: Sequence[PlanCard]) -> dict[str, int]:
    return {card.uuid: card.room_bytes for card in cards}


def _there(wanted: Sequence[Wanted], kept: Sequence[Placed]) -> list[Placed]:
    names = {each.model for each in wanted}
    return [one for one in kept if one.model in names]


def _placed(wishes: Sequence[placement.Wish], seats: Sequence[Seat], found: Placement, present: Pairs) -> list[Placed]:
    return [
        Placed(
            model=wish.model,
            instance=seat.instance,
            shares=tuple(wish.demand[way].items()),
            present=(wish.model, seat.name) in present,
        )
        for seat in seats
        for wish in wishes
        for way in (seat.name, *(_way(seat, uuid) for uuid in seat.cards))
        if (wish.model, way) in found.placed
    ]
