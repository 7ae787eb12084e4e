"""Models on seats: never over the room, replicas apart, what is kept counted, over several cards only what must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.domain.plan import LayerNeed, ModelNeed, Placed, PlanCard
from ollamux.domain.seats import Lacking, Seat, Wanted, place
from ollamux.domain.snapshot import LinkView
from ollamux.domain.spans import Links, groups, holds, rank, shares
from ollamux.domain.spec import EVERY_CARD


def need(size: int, least: int | None = None, *, layers: int = 1, compute: int = 0, overhead: int = 0) -> ModelNeed:
    """Return what a model needs: `layers` equal layers of `size` bytes together."""
    each = [size // layers + (number < size % layers) for number in range(layers)]
    total = size + compute + overhead
    return ModelNeed(
        name="m",
        digest="d",
        architecture="llama",
        parameters=1,
        quantization=None,
        context_length=8192,
        parallel=1,
        kv_type="f16",
        flash_attention=True,
        batch=512,
        least_bytes=total if least is None else least,
        layers=tuple(
            LayerNeed(number=number, kind="attention", weights_bytes=part, kv_bytes=0, state_bytes=0, on_card=True)
            for number, part in enumerate(each)
        ),
        weights_bytes=size,
        kv_bytes=0,
        state_bytes=0,
        compute_bytes=compute,
        projector_bytes=0,
        overhead_bytes=overhead,
        host_bytes=0,
        source="metadata",
    )


def card(number: int, size: int, headroom: int = 0, name: str = "card") -> PlanCard:
    return PlanCard(uuid=f"GPU-{number}", mark=str(number), name=name, total_bytes=size, headroom_bytes=headroom)


def seats(cards: Sequence[PlanCard], slots: int = 3) -> list[Seat]:
    """Return a seat for each card, called as its instance would be."""
    return [Seat(name=f"gpu{one.mark}", instance=f"gpu{one.mark}", cards=(one.uuid,), slots=slots) for one in cards]


def wanted(
    name: str,
    size: int,
    places: Sequence[Seat],
    least: int | None = None,
    *,
    replicas: int = 1,
    prefer: tuple[str, ...] = (),
) -> Wanted:
    """Return a model that needs the same on each seat."""
    return Wanted(model=name, needs={seat.name: need(size, least) for seat in places}, replicas=replicas, prefer=prefer)


def where(placed: Sequence[Placed]) -> set[tuple[str, str | None]]:
    return {(one.model, one.instance) for one in placed}


def test_the_largest_finds_the_room_that_just_holds_it() -> None:
    cards = [card(0, 20), card(1, 10)]
    places = seats(cards)
    models = [wanted("small", 3, places), wanted("large", 9, places), wanted("huge", 99, places)]
    placed, lacking = place(models, places, cards)
    assert where(placed) == {("small", "gpu0"), ("large", "gpu1")}
    assert lacking == (Lacking(model="huge", count=1),)


def test_an_instance_holds_no_more_models_than_its_server_loads() -> None:
    cards = [card(0, 10)]
    places = seats(cards, slots=1)
    placed, lacking = place([wanted("a", 3, places), wanted("b", 4, places)], places, cards)
    assert where(placed) == {("b", "gpu0")}
    assert lacking == (Lacking(model="a", count=1, alone=1, full=True),)


def test_headroom_and_what_others_hold_stay_free() -> None:
    for one, count in ((card(0, 10, headroom=2), 0), (card(0, 10, headroom=1), 1)):
        places = seats([one])
        assert len(place([wanted("a", 9, places)], places, [one])[0]) == count
    crowded = replace(card(0, 10, headroom=1), others_bytes=1)
    places = seats([crowded])
    assert place([wanted("a", 9, places)], places, [crowded])[0] == ()


def test_a_smaller_batch_is_taken_where_only_that_fits() -> None:
    for cards, sizes in (([card(0, 8)], [("gpu0", 7)]), ([card(0, 8), card(1, 9)], [("gpu1", 9)])):
        places = seats(cards)
        placed, _ = place([wanted("a", 9, places, least=7)], places, cards)
        assert [(one.instance, one.size_bytes) for one in placed] == sizes


def test_replicas_go_to_different_cards_and_every_card_means_those_that_can_hold_it() -> None:
    cards = [card(0, 20), card(1, 20), card(2, 5)]
    places = seats(cards)
    placed, lacking = place([wanted("a", 8, places, replicas=2)], places, cards)
    assert where(placed) == {("a", "gpu0"), ("a", "gpu1")} and lacking == ()
    placed, lacking = place([wanted("a", 8, places, replicas=EVERY_CARD)], places, cards)
    assert where(placed) == {("a", "gpu0"), ("a", "gpu1")} and lacking == ()
    placed, lacking = place([wanted("a", 8, places, replicas=3)], places, cards)
    assert len(placed) == 2 and lacking == (Lacking(model="a", count=1, placed=2, alone=2),)


def test_what_is_preferred_is_taken_and_what_is_there_stays() -> None:
    cards = [card(0, 20), card(1, 20)]
    places = seats(cards)
    assert where(place([wanted("a", 8, places, prefer=("gpu1",))], places, cards)[0]) == {("a", "gpu1")}
    for there in ("gpu0", "gpu1"):
        placed, _ = place([wanted("a", 8, places)], places, cards, present=frozenset({("a", there)}))
        assert where(placed) == {("a", there)} and placed[0].present


def test_what_is_kept_there_has_its_room_and_counts_as_a_replica() -> None:
    cards = [card(0, 20), card(1, 20)]
    places = seats(cards, slots=2)
    kept = (
        Placed(model="a", instance="gpu0", shares=(("GPU-0", 8),), pinned=True),
        Placed(model="other", instance="gpu0", shares=(("GPU-0", 8),), pinned=True),
    )
    placed, lacking = place([wanted("a", 8, places, replicas=2), wanted("b", 4, places)], places, cards, kept=kept)
    assert where(placed) == {("a", "gpu0"), ("a", "gpu1"), ("b", "gpu1")} and lacking == ()
    assert [one.pinned for one in placed if one.instance == "gpu0"] == [True]


def test_no_model_is_put_where_its_server_would_evict_another_for_it() -> None:
    """A server wants its own rough guess to be at most 80 % of what is free, headroom and all."""
    cards = [card(0, 100, headroom=10)]
    places = seats(cards)

    def beside(size: int, predicted: int, first: int = 50) -> bool:
        needs = {seat.name: replace(need(size), predicted_bytes=predicted) for seat in places}
        placed, _ = place([wanted("first", first, places), Wanted(model="b", needs=needs)], places, cards)
        return len(placed) == 2

    assert beside(40, 40) and not beside(40, 41), "50 are free"
    assert beside(40, 0), "it does not decide so"
    assert not beside(10, 48, first=50) and beside(10, 48, first=30)
    needs = {seat.name: replace(need(80), predicted_bytes=99) for seat in places}
    assert len(place([Wanted(model="alone", needs=needs)], places, cards)[0]) == 1
    kept = (Placed(model="k", instance="gpu0", shares=(("GPU-0", 50),), pinned=True),)
    for predicted, fits in ((40, True), (41, False)):
        needs = {seat.name: replace(need(40), predicted_bytes=predicted) for seat in places}
        assert bool(place([Wanted(model="b", needs=needs)], places, cards, kept=kept)[0]) is fits


# Over several cards


def link(one: int, other: int, kind: str, nvlinks: int | None = None) -> tuple[frozenset[str], LinkView]:
    names = f"GPU-{one}", f"GPU-{other}"
    return frozenset(names), LinkView(a=names[0], b=names[1], kind=kind, nvlinks=nvlinks)


def test_each_card_gets_layers_by_its_part_of_the_free_memory() -> None:
    model = need(30, layers=30, compute=2, overhead=1)
    assert shares(model, {"a": 10, "b": 20}) == {"a": 10 + 3, "b": 20 + 3}
    assert shares(model, {"a": 10, "b": 10, "c": 10}) == {"a": 13, "b": 13, "c": 13}
    assert sum(shares(model, {"a": 7, "b": 11, "c": 3}).values()) == 30 + 3 * 3


def test_the_output_and_the_projector_have_their_places() -> None:
    model = replace(need(10, layers=10), weights_bytes=14, projector_bytes=5)
    assert shares(model, {"a": 10, "b": 10}) == {"a": 5 + 5, "b": 5 + 4}


def test_as_few_cards_as_will_do_the_best_joined_first() -> None:
    cards = [card(0, 20), card(1, 20), card(2, 20), card(3, 20)]
    links: Links = dict((link(0, 1, "system"), link(2, 3, "nvlink", 4), link(0, 2, "switch"), link(1, 3, "socket")))
    found = groups(need(30, layers=30), cards, links)
    assert [tuple(one.mark for one in group) for group in found[:2]] == [("2", "3"), ("0", "2")]
    assert all(len(group) == 2 for group in found)
    assert len(groups(need(50, layers=50), cards, links)[0]) == 3
    assert groups(need(99, layers=99), cards, links) == []


def test_four_models_find_four_pairs_of_eight_cards() -> None:
    cards = [card(number, 20) for number in range(8)]
    found = groups(need(30, layers=30), cards, {})
    spans = [
        Seat(name="".join(one.mark for one in group), instance=None, cards=tuple(one.uuid for one in group), slots=3)
        for group in found
    ]
    models = [Wanted(model=name, needs={seat.name: need(30, layers=30) for seat in spans}) for name in "abcd"]
    assert place(models, spans, cards)[1] == ()


def test_more_nvlinks_and_equal_cards_come_first() -> None:
    cards = [card(0, 20), card(1, 20), card(2, 30, name="other"), card(3, 30, name="other")]
    same: Links = dict(link(a, b, "host-bridge") for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)))
    assert {one.mark for one in groups(need(30, layers=30), cards, same)[0]} == {"0", "1"}
    better = same | dict([link(2, 3, "nvlink", 4), link(0, 1, "nvlink", 2)])
    assert {one.mark for one in groups(need(30, layers=30), cards, better)[0]} == {"2", "3"}
    assert rank(cards[2:], better) < rank(cards[:2], better)


def test_sixteen_cards_are_no_burden() -> None:
    cards = [card(number, 20) for number in range(16)]
    assert [len(group) for group in groups(need(150, layers=150), cards, {})][:1] == [8]
    assert len(groups(need(319, layers=319), cards, {})[0]) == 16


def test_a_model_over_two_cards_takes_the_room_of_both() -> None:
    cards = [card(0, 20), card(1, 20)]
    single = seats(cards)
    both = Seat(name="both", instance="gpu0-gpu1", cards=("GPU-0", "GPU-1"), slots=6, members=("gpu0", "gpu1"))
    large = Wanted(model="large", needs={"both": need(30, layers=30)})
    placed, lacking = place([large, wanted("a", 4, single), wanted("b", 6, single)], [*single, both], cards)
    assert where(placed) == {("large", "gpu0-gpu1"), ("a", "gpu0")} | {("a", "gpu1")} & where(placed) or lacking
    assert ("large", "gpu0-gpu1") in where(placed)
    assert [one.model for one in lacking] == ["b"]


def test_an_instance_with_several_cards_has_a_small_model_on_one_of_them() -> None:
    """A server splits only what it does not take to fit one card well, and has a model once."""
    cards = [card(0, 100), card(1, 100)]
    both = Seat(name="both", instance="both", cards=("GPU-0", "GPU-1"), slots=6)

    def small(name: str, size: int, predicted: int, replicas: int = 1) -> Wanted:
        needs = {"both": replace(need(size, layers=10), predicted_bytes=predicted)}
        return Wanted(model=name, needs=needs, replicas=replicas)

    placed, lacking = place([small("a", 60, 60), small("b", 55, 55)], [both], cards)
    assert sorted(one.shares for one in placed) == [(("GPU-0", 60),), (("GPU-1", 55),)] and not lacking
    assert {one.instance for one in placed} == {"both"}
    (large,), _ = place([small("a", 60, 81)], [both], cards)
    assert large.shares == (("GPU-0", 30), ("GPU-1", 30)), "it predicts more than 80 % of a card"
    placed, lacking = place([small("a", 20, 20, replicas=2)], [both], cards)
    assert len(placed) == 1 and lacking[0].count == 1
    placed, lacking = place([small("a", 20, 20, replicas=EVERY_CARD)], [both], cards)
    assert len(placed) == 1 and not lacking
    placed, lacking = place([small(name, 70, 70) for name in "abc"], [both], cards)
    assert len(placed) == 2 and [one.count for one in lacking] == [1]
    stays, _ = place([small("a", 20, 20)], [both], cards, present=frozenset({("a", "both")}))
    assert stays[0].present


def test_what_was_measured_over_several_cards_is_what_each_of_them_holds() -> None:
    cards = [card(0, 20), card(1, 20)]
    both = Seat(name="both", instance="both", cards=("GPU-0", "GPU-1"), slots=6)
    model = Wanted(model="m", needs={"both": need(30, layers=30)}, shares={"both": {"GPU-0": 17, "GPU-1": 14}})
    assert place([model], [both], cards)[0][0].shares == (("GPU-0", 17), ("GPU-1", 14))
    assert place([replace(model, shares={"both": {"GPU-0": 21, "GPU-1": 9}})], [both], cards)[0] == ()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), max_size=7),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10)), min_size=1, max_size=4),
)
def test_no_card_is_over_its_room_and_none_is_forgotten(
    models: list[tuple[int, int]], sizes: list[tuple[int, int]]
) -> None:
    cards = [card(number, *each) for number, each in enumerate(sizes)]
    places = seats(cards)
    asked = [wanted(str(number), size, places, replicas=count) for number, (size, count) in enumerate(models)]
    placed, lacking = place(asked, places, cards)
    for one in cards:
        assert sum(size for each in placed for uuid, size in each.shares if uuid == one.uuid) <= one.room_bytes
    for each, (_, count) in zip(asked, models, strict=True):
        found = [one.instance for one in placed if one.model == each.model]
        assert len(found) == len(set(found))
        missing = sum(one.count for one in lacking if one.model == each.model)
        assert len(found) + missing == count or (count == EVERY_CARD and len(found) + missing >= 1)


@settings(deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 40),
    st.lists(st.integers(1, 100), min_size=2, max_size=5),
    st.integers(0, 5),
)
def test_shares_are_all_of_the_model_and_once_more_what_each_card_needs(
    size: int, layers: int, free: list[int], compute: int
) -> None:
    room = {str(number): each for number, each in enumerate(free)}
    model = need(size, layers=layers, compute=compute, overhead=2)
    assert sum(shares(model, room).values()) == size + len(free) * (compute + 2)
    cards = [
        PlanCard(uuid=name, mark=name, name="c", total_bytes=each, headroom_bytes=0) for name, each in room.items()
    ]
    assert holds(model, cards) == all(part <= room[name] for name, part in shares(model, room, least=True).items())


def test_no_group_mixes_cards_that_no_process_can_use_together() -> None:
    nvidia = [card(number, 100) for number in (0, 1)]
    amd = [replace(card(number, 100), maker="amd") for number in (2, 3)]
    slices = [replace(card(number, 100), maker=None) for number in (4, 5)]
    model = need(150, layers=10)
    found = groups(model, [*slices, *nvidia, *amd], {})
    assert {frozenset(one.maker for one in group) for group in found} == {frozenset({"nvidia"}), frozenset({"amd"})}
    assert groups(model, slices, {}) == [] and groups(model, [nvidia[0], amd[0], slices[0]], {}) == []
