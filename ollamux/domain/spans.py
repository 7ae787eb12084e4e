"""A model over several cards: what each of them then holds, and which cards suit best. Pure.

A model that one card can hold is never split: each token would pass over the link between the cards.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, combinations
from math import comb

from ollamux.domain.links import KINDS, UNKNOWN
from ollamux.domain.plan import ModelNeed, PlanCard
from ollamux.domain.snapshot import LinkView

Links = Mapping[frozenset[str], LinkView]
MOST_SPANS = 12
"""So many groups of cards are considered for one model."""
_MOST_TRIED = 3_000


def shares(need: ModelNeed, free: Mapping[str, int], *, least: bool = False) -> dict[str, int]:
    """Return what each card holds of a model, in bytes; `free` says what is free on each, in the order of the server.

    llama.cpp gives each card so many of the layers, one after the other, as its part of the free memory is
    (llama-model.cpp, `get_layer_buft`: the first card whose share of the sum is above i / n). Each card computes with
    buffers of its own and holds a context of the driver. With `least` it computes in the smallest batches.
    """
    compute = need.compute_bytes - (need.total_bytes - need.least_bytes if least else 0)
    held = dict.fromkeys(free, compute + need.overhead_bytes)
    names, total = list(free), sum(free.values())
    until = [part / total for part in accumulate(free.values())] if total else [1.0] * len(free)
    on_card = [layer for layer in need.layers if layer.on_card]
    for number, layer in enumerate(on_card):
        at = min(bisect_right(until, number / len(on_card)), len(names) - 1)
        held[names[at]] += layer.weights_bytes + layer.kv_bytes + layer.state_bytes
    counted = sum(layer.weights_bytes + layer.kv_bytes + layer.state_bytes for layer in on_card)
    held[names[-1]] += need.weights_bytes + need.kv_bytes - counted
    held[names[0]] += need.projector_bytes
    return held


def groups(need: ModelNeed, cards: Sequence[PlanCard], links: Links) -> list[tuple[PlanCard, ...]]:
    """Return groups of cards that together hold a model, as few cards as will do, the best joined first."""
    makers = {card.maker for card in cards if card.maker is not None}
    together = [[card for card in cards if card.maker == maker] for maker in sorted(makers)]
    for count in range(2, len(cards) + 1):
        found = [group for some in together for group in _of_size(some, count) if holds(need, group)]
        if found:
            ranked = sorted(found, key=lambda group: rank(group, links))
            return sorted(_apart_first(ranked)[:MOST_SPANS], key=lambda group: rank(group, links))
    return []


def _apart_first(ranked: Sequence[tuple[PlanCard, ...]]) -> list[tuple[PlanCard, ...]]:
    """Order groups so that those without a common card come together: several models may each want one."""
    ordered: list[tuple[PlanCard, ...]] = []
    left = list(ranked)
    while left:
        taken: set[str] = set()
        rest: list[tuple[PlanCard, ...]] = []
        for group in left:
            uuids = {card.uuid for card in group}
            if taken & uuids:
                rest.append(group)
            else:
                taken |= uuids
                ordered.append(group)
        left = rest
    return ordered


def _of_size(cards: Sequence[PlanCard], count: int) -> Iterable[tuple[PlanCard, ...]]:
    """Return all groups of so many cards; where these are too many, neighbours on the bus, and the largest."""
    if comb(len(cards), count) <= _MOST_TRIED:
        return combinations(cards, count)
    order = {card.uuid: number for number, card in enumerate(cards)}
    largest = sorted(cards, key=lambda card: -card.room_bytes)[:count]
    neighbours = [tuple(cards[at : at + count]) for at in range(len(cards) - count + 1)]
    return dict.fromkeys([*neighbours, tuple(sorted(largest, key=lambda card: order[card.uuid]))])


def holds(need: ModelNeed, group: Sequence[PlanCard]) -> bool:
    """Whether each card of a group has room for its share."""
    room = {card.uuid: card.room_bytes for card in group}
    if sum(room.values()) < need.least_bytes:
        return False
    return all(size <= room[uuid] for uuid, size in shares(need, room, least=True).items())


def rank(group: Sequence[PlanCard], links: Links) -> tuple[int, int, int, int]:
    """Return how well cards suit one model, the least best: the longest way counts, then unequal cards, then waste."""
    ways = [links.get(frozenset((one.uuid, other.uuid))) for one, other in combinations(group, 2)]
    longest = max((KINDS.index(kind_of(way)) for way in ways), default=0)
    fewest = min((way.nvlinks or 0 for way in ways if way is not None), default=0)
    return longest, -fewest, len({card.name for card in group}), sum(card.room_bytes for card in group)


def longest_way(uuids: Sequence[str], links: Links) -> LinkView | None:
    """Return the link that sets the pace among cards, None where nothing is known of one of them."""
    ways = [links.get(frozenset(pair)) for pair in combinations(uuids, 2)]
    known = [way for way in ways if way is not None]
    return None if len(known) < len(ways) or not known else max(known, key=lambda way: KINDS.index(kind_of(way)))


def kind_of(way: LinkView | None) -> str:
    """Return the kind of a link as the order of kinds knows it."""
    return way.kind if way is not None and way.kind in KINDS else UNKNOWN
