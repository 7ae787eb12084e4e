"""Which model goes where: never over the room, never worse than the simple rules, and nothing is moved for nothing."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.domain.placement import Pairs, Placement, Room, Wish, place

CARDS = {f"GPU-{letter}": letter for letter in "abcd"}


def wish(model: str, size: int, room: Room, replicas: int = 1, prefer: tuple[str, ...] = ()) -> Wish:
    """Return a wish that any single card of the room may fulfil."""
    return Wish(model, replicas, {CARDS[card]: {card: size} for card in room.cards}, prefer)


def box(*sizes: int, slots: int = 9) -> Room:
    """Return a room of cards with one instance each: `a` on the first, and so on."""
    cards = dict(zip(CARDS, sizes, strict=False))
    return Room(cards, {CARDS[card]: slots for card in cards})


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Wish], Room]:
    room = box(*draw(st.lists(st.integers(0, 30), min_size=1, max_size=4)), slots=draw(st.integers(1, 3)))
    slots = dict(room.slots)
    cards = list(room.cards)
    both = len(cards) > 1 and draw(st.booleans())
    if both:
        slots["both"] = draw(st.integers(0, 2))
    wishes = []
    for number in range(draw(st.integers(0, 5))):
        size = draw(st.integers(1, 25))
        demand = {CARDS[card]: {card: size + draw(st.integers(0, 2))} for card in cards if draw(st.booleans())}
        if both:
            demand["both"] = {cards[0]: size // 2 + 1, cards[1]: size // 2 + 1}
        prefer = tuple(name for name in demand if draw(st.booleans()))
        wishes.append(Wish(f"m{number}", draw(st.integers(1, 3)), demand, prefer))
    return wishes, Room(room.cards, slots)


def check(wishes: list[Wish], room: Room, placed: Pairs) -> None:
    """Hold that nothing is over the room and that replicas are on different cards."""
    by_name = {each.model: each for each in wishes}
    used, held = dict.fromkeys(room.cards, 0), dict.fromkeys(room.slots, 0)
    taken: dict[tuple[str, str], int] = {}
    for model, instance in placed:
        held[instance] += 1
        for card, size in by_name[model].demand[instance].items():
            used[card] += size
            taken[model, card] = taken.get((model, card), 0) + 1
    assert all(used[card] <= room.cards[card] for card in used)
    assert all(held[instance] <= room.slots[instance] for instance in held)
    assert all(count == 1 for count in taken.values())


def first_fit(wishes: list[Wish], room: Room) -> Pairs:
    """Put each model where it first fits, in the order given: the rule of thumb, written anew."""
    placed: set[tuple[str, str]] = set()
    for each in wishes:
        for _ in range(each.replicas):
            for instance in each.demand:
                try:
                    check(wishes, room, frozenset({*placed, (each.model, instance)}))
                except AssertionError:
                    continue
                if (each.model, instance) not in placed:
                    placed.add((each.model, instance))
                    break
    return frozenset(placed)


def left_out(wishes: list[Wish], placed: Pairs) -> tuple[int, int, int]:
    """Count models without any place, replicas without one, and their bytes."""
    counts = {each.model: sum(model == each.model for model, _ in placed) for each in wishes}
    missing = {each.model: each.replicas - counts[each.model] for each in wishes}
    return (
        sum(count == 0 for count in counts.values()),
        sum(missing.values()),
        sum(missing[each.model] * each.size_bytes for each in wishes),
    )


@settings(deadline=None)
@given(situations())
def test_what_is_placed_fits_and_what_is_missing_is_counted(situation: tuple[list[Wish], Room]) -> None:
    wishes, room = situation

    found = place(wishes, room)

    check(wishes, room, found.placed)
    for each in wishes:
        assert sum(model == each.model for model, _ in found.placed) == each.replicas - found.missing.get(each.model, 0)


@settings(deadline=None)
@given(situations())
def test_it_is_never_worse_than_first_fit(situation: tuple[list[Wish], Room]) -> None:
    wishes, room = situation

    assert left_out(wishes, place(wishes, room).placed) <= left_out(wishes, first_fit(wishes, room))


@settings(max_examples=60, deadline=None)
@given(situations())
def test_where_all_was_tried_nothing_leaves_out_less(situation: tuple[list[Wish], Room]) -> None:
    wishes, room = situation
    found = place(wishes, room)
    pairs = [(each.model, instance) for each in wishes for instance in each.demand]
    if not found.exact or len(pairs) > 12:
        return
    least = left_out(wishes, found.placed)
    for count in range(len(pairs) + 1):
        for chosen in combinations(pairs, count):
            if any(sum(model == each.model for model, _ in chosen) > each.replicas for each in wishes):
                continue
            try:
                check(wishes, room, frozenset(chosen))
            except AssertionError:
                continue
            assert least <= left_out(wishes, frozenset(chosen))


@settings(deadline=None)
@given(situations())
def test_what_is_well_placed_is_not_moved(situation: tuple[list[Wish], Room]) -> None:
    wishes, room = situation
    first = place(wishes, room)

    again = place(wishes, room, first.placed)

    assert left_out(wishes, again.placed) <= left_out(wishes, first.placed)
    if left_out(wishes, again.placed) == left_out(wishes, first.placed):
        assert again.placed == first.placed


def told(found: Placement) -> str:
    """Return where each model is, as "m: a, b"."""
    names = sorted({model for model, _ in found.placed})
    return "; ".join(f"{name}: {', '.join(sorted(i for m, i in found.placed if m == name))}" for name in names)


ROOM = box(24, 24, 12, 48)
BOXES = {
    "each on a card of its own": ([wish("p", 5, ROOM), wish("q", 5, ROOM)], ROOM, "p: c; q: a"),
    "the largest finds the only card that holds it": (
        [wish("small", 10, ROOM), wish("large", 40, ROOM)],
        ROOM,
        "large: d; small: c",
    ),
    "replicas on different cards": ([wish("p", 10, ROOM, 4)], ROOM, "p: a, b, c, d"),
    "as many replicas as fit": ([wish("p", 20, ROOM, 4)], ROOM, "p: a, b, d"),
    "what is preferred": ([wish("p", 5, ROOM, prefer=("d",))], ROOM, "p: d"),
    "first fit would leave one out": (
        [wish("p", 10, box(10, 24)), wish("q", 12, box(10, 24)), wish("r", 12, box(10, 24))],
        box(10, 24),
        "p: a; q: b; r: b",
    ),
    "a slot is all that is missing": (
        [wish("p", 1, box(9, slots=1)), wish("q", 2, box(9, slots=1))],
        box(9, slots=1),
        "q: a",
    ),
    "no room at all": ([wish("p", 1, box(0))], box(0), ""),
    "one model before two replicas of another": (
        [wish("p", 10, box(10, 10), 2), wish("q", 8, box(10, 10))],
        box(10, 10),
        None,
    ),
    "over two cards": (
        [Wish("huge", 1, {"both": {"GPU-a": 20, "GPU-b": 20}}), wish("p", 5, box(24, 24))],
        Room({"GPU-a": 24, "GPU-b": 24}, {"a": 1, "b": 1, "both": 1}),
        "huge: both",
    ),
}


@pytest.mark.parametrize(("wishes", "room", "expected"), BOXES.values(), ids=BOXES.keys())
def test_ten_boxes(wishes: list[Wish], room: Room, expected: str | None) -> None:
    found = place(wishes, room)

    check(wishes, room, found.placed)
    assert found.exact
    if expected is None:
        assert {model for model, _ in found.placed} == {each.model for each in wishes}
    else:
        assert told(found) == expected


def test_a_model_that_is_there_stays_and_the_new_one_goes_beside_it() -> None:
    room = box(24, 24)

    found = place([wish("old", 10, room), wish("new", 10, room)], room, frozenset({("old", "b")}))

    assert told(found) == "new: a; old: b"


def test_one_is_moved_where_nothing_else_makes_room() -> None:
    room = box(24, 12)

    found = place([wish("old", 10, room), wish("new", 20, room)], room, frozenset({("old", "a")}))

    assert told(found) == "new: a; old: b"


def test_a_large_box_is_done_in_a_bounded_number_of_steps() -> None:
    cards = {f"GPU-{number}": 24 for number in range(64)}
    room = Room(cards, dict.fromkeys(cards, 3))
    wishes = [Wish(f"m{number}", 40, {card: {card: 5 + number} for card in cards}) for number in range(6)]

    found = place(wishes, room)

    check(wishes, room, found.placed)
    assert {model for model, _ in found.placed} == {each.model for each in wishes}
    assert not found.exact


def test_a_thousand_models_are_placed_by_the_quick_rules() -> None:
    room = box(30, 30)
    found = place([wish(f"m{number}", 1 + number % 3, room) for number in range(1200)], room)
    assert not found.exact and len(found.placed) == 18 and len(found.missing) == 1182
