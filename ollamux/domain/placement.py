"""Which model goes to which instance, so that all of them fit. Pure: demands and room in, a placement out.

Every way is tried while there are few; beyond that the best of some quick rules holds, largest models first. What is
placed never takes more than the room there is, and no fewer models than the first place that fits would have held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

MOST_STEPS = 5_000
"""Of the search, which then takes some 0.2 s."""
MOST_SEARCHED = 200
"""Models: one more level of calls for each, and with more the search would not end anyway."""


BESIDE_PERCENT = 80
"""Of what is free: a server that takes a model to need more evicts the idle ones it has (server/sched.go, 0.32.15)."""


class Wish(NamedTuple):
    """A model that is wanted `replicas` times.

    `demand` says for each instance that may hold it how many bytes it needs on which card, by UUID. Instances of
    `prefer` come first. `predicted` is what each instance takes it to need when it decides whether it may stand beside
    others.
    """

    model: str
    replicas: int
    demand: Mapping[str, Mapping[str, int]]
    prefer: tuple[str, ...] = ()
    predicted: Mapping[str, int] = {}

    @property
    def size_bytes(self) -> int:
        """The least that it needs anywhere."""
        return min((sum(each.values()) for each in self.demand.values()), default=0)


class Room(NamedTuple):
    """What there is: bytes for models on each card, headroom taken off, and how many models an instance may hold.

    `headroom` is what was taken off of each card, which servers see as free; `held` how many models instances have.
    `of` says whose ways those are of an instance with several, each with a name of its own: it has a model in one way.
    """

    cards: Mapping[str, int]
    slots: Mapping[str, int]
    headroom: Mapping[str, int] = {}
    held: Mapping[str, int] = {}
    of: Mapping[str, str] = {}


class Placement(NamedTuple):
    """Pairs of model and instance. `missing` counts replicas without a place; `exact`: there is none better."""

    placed: frozenset[tuple[str, str]]
    missing: Mapping[str, int]
    exact: bool


Pairs = frozenset[tuple[str, str]]
Cost = tuple[int, ...]


def place(wishes: Sequence[Wish], room: Room, present: Pairs = frozenset()) -> Placement:
    """Return where each model goes. `present` is what is loaded where now.

    In this order: no model is left out altogether, no replica, no bytes; what is preferred; few loads; models side by
    side rather than on one card, since they then compute at the same time; whole rooms are kept for what comes later.
    """
    order = sorted(wishes, key=lambda wish: (-wish.size_bytes, wish.model))
    best = min(_quick(wishes, order, room, present), key=lambda pairs: _cost(order, pairs, room, present))
    search = _Search(order, room, present, best)
    if len(order) <= MOST_SEARCHED:
        search.run()
    placed = search.best
    missing = {wish.model: count for wish in wishes if (count := wish.replicas - _count(placed, wish.model)) > 0}
    return Placement(placed, missing, exact=0 < search.steps <= MOST_STEPS)


def _count(pairs: Pairs, model: str) -> int:
    return sum(name == model for name, _ in pairs)


class _Board:
    """What is free while models are put down one after the other."""

    def __init__(self, room: Room) -> None:
        self.cards = dict(room.cards)
        self.slots = dict(room.slots)
        self.held = dict(room.held)
        self._headroom, self._of = room.headroom, room.of
        self._loaded: set[tuple[str, str]] = set()
        self.taken: dict[str, set[str]] = {}
        self.models = dict.fromkeys(room.cards, 0)

    def fits(self, wish: Wish, instance: str) -> bool:
        """Whether there is room; replicas of one model are never on the same card.

        A server that has models already takes a further one only where it finds much more free than that needs. The
        largest come first here, and are loaded first.
        """
        demand, one_way = wish.demand[instance], instance in self._of
        owner = self._of.get(instance, instance)
        if self.slots.get(owner, 0) < 1 or self.taken.get(wish.model, set()) & demand.keys():
            return False
        if (wish.model, owner) in self._loaded:
            return False
        predicted = wish.predicted.get(instance, 0)
        if predicted and (one_way or self.held.get(owner)):
            free = sum(self.cards.get(card, 0) + self._headroom.get(card, 0) for card in demand)
            if predicted * 100 > free * BESIDE_PERCENT:
                return False
        return all(self.cards.get(card, -1) >= size for card, size in demand.items())

    def put(self, wish: Wish, instance: str, sign: int = 1) -> None:
        """Put a model there; with `sign` -1 take it away."""
        demand = wish.demand[instance]
        for card, size in demand.items():
            self.cards[card] -= sign * size
            self.models[card] += sign
        owner = self._of.get(instance, instance)
        self.slots[owner] -= sign
        self.held[owner] = self.held.get(owner, 0) + sign
        taken = self.taken.setdefault(wish.model, set())
        if sign > 0:
            taken.update(demand)
            self._loaded.add((wish.model, owner))
        else:
            taken.difference_update(demand)
            self._loaded.discard((wish.model, owner))

    @property
    def crowding(self) -> int:
        """How much models share cards; grows with each that is put down."""
        return sum(count**2 for count in self.models.values())

    @property
    def wholeness(self) -> int:
        """How much of the free room is in one piece."""
        return sum(size**2 for size in self.cards.values())

    def left(self, wish: Wish, instance: str) -> int:
        """Return the bytes that stay free on the cards of an instance once the model is there."""
        return sum(self.cards[card] - size for card, size in wish.demand[instance].items())


def _quick(wishes: Sequence[Wish], order: Sequence[Wish], room: Room, present: Pairs) -> Iterator[Pairs]:
    """Yield what simple rules make of it: first fit, the same and best fit, the largest first, and what is there."""
    yield _greedy(wishes, room, lambda board, wish, instance: (0,))
    yield _greedy(order, room, lambda board, wish, instance: (0,))
    yield _greedy(order, room, lambda board, wish, instance: (board.left(wish, instance),))
    yield _greedy(
        order, room, lambda board, wish, instance: ((wish.model, instance) not in present, board.left(wish, instance))
    )


def _greedy(wishes: Iterable[Wish], room: Room, key: Callable[[_Board, Wish, str], tuple[int, ...]]) -> Pairs:
    board, placed = _Board(room), set()
    for wish in wishes:
        for _ in range(wish.replicas):
            fitting = [(key(board, wish, one), at, one) for at, one in enumerate(wish.demand) if board.fits(wish, one)]
            if not fitting:
                break
            chosen = min(fitting)[2]
            board.put(wish, chosen)
            placed.add((wish.model, chosen))
    return frozenset(placed)


def _cost(wishes: Sequence[Wish], pairs: Pairs, room: Room, present: Pairs) -> Cost:
    """Return what a placement costs, the weightiest first."""
    board, cost = _Board(room), _ZERO
    for wish in wishes:
        instances = [instance for name, instance in pairs if name == wish.model]
        cost = _plus(cost, _cost_of(wish, instances, present))
        for instance in instances:
            board.put(wish, instance)
    return (*cost, board.crowding, -board.wholeness)


_ZERO: Cost = (0, 0, 0, 0, 0)


def _plus(one: Cost, other: Cost) -> Cost:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _cost_of(wish: Wish, instances: Sequence[str], present: Pairs) -> Cost:
    missing = wish.replicas - len(instances)
    loads = sum((wish.model, instance) not in present for instance in instances)
    disliked = sum(instance not in wish.prefer for instance in instances) if wish.prefer else 0
    return int(not instances), missing, missing * wish.size_bytes, disliked, loads


class _Search:
    """Tries all ways, the largest model first, and gives up a way as soon as it cannot be better than the best."""

    def __init__(self, wishes: Sequence[Wish], room: Room, present: Pairs, best: Pairs) -> None:
        self._wishes = wishes
        self._present = present
        self._board = _Board(room)
        self.best = best
        self._least = _cost(wishes, best, room, present)
        self.steps = 0

    def run(self) -> None:
        """Search until all was tried, or for so many steps."""
        self._go_on(0, frozenset(), _ZERO)

    def _go_on(self, at: int, pairs: Pairs, cost: Cost) -> None:
        self.steps += 1
        so_far = (*cost, self._board.crowding)  # none of it shrinks on the way
        if self.steps > MOST_STEPS or so_far > self._least[:-1]:
            return
        if at == len(self._wishes):
            whole = (*so_far, -self._board.wholeness)
            if whole < self._least:
                self.best, self._least = pairs, whole
            return
        wish = self._wishes[at]
        for chosen in self._ways(wish):
            taken = self._take(wish, chosen)
            if taken is None:
                self.steps += 1
            if self.steps > MOST_STEPS:
                break
            if taken is None:
                continue
            more = frozenset((wish.model, instance) for instance in taken)
            self._go_on(at + 1, pairs | more, _plus(cost, _cost_of(wish, taken, self._present)))
            for instance in taken:
                self._board.put(wish, instance, -1)

    def _ways(self, wish: Wish) -> Iterator[tuple[str, ...]]:
        """Yield sets of instances for one model: all replicas before fewer, and what is there already before others."""
        fitting = [instance for instance in wish.demand if self._board.fits(wish, instance)]
        fitting.sort(
            key=lambda instance: (
                instance not in wish.prefer,
                (wish.model, instance) not in self._present,
                self._board.left(wish, instance),
            )
        )
        for count in range(min(wish.replicas, len(fitting)), -1, -1):
            yield from combinations(fitting, count)

    def _take(self, wish: Wish, chosen: tuple[str, ...]) -> tuple[str, ...] | None:
        """Put all replicas down, or none."""
        for done, instance in enumerate(chosen):
            if not self._board.fits(wish, instance):
                for undone in chosen[:done]:
                    self._board.put(wish, undone, -1)
                return None
            self._board.put(wish, instance)
        return chosen
