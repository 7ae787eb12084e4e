"""Models on cards: never over the headroom, largest first, and written as the schema says."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.plan import LayerNeed, ModelNeed, Plan, PlanCard, Remedy, Unplaced, as_json, place


def need(name: str, size: int, least: int | None = None) -> ModelNeed:
    return ModelNeed(
        name=name,
        digest="d",
        architecture="llama",
        parameters=1,
        quantization=None,
        context_length=8192,
        parallel=1,
        kv_type="f16",
        flash_attention=True,
        batch=512,
        least_bytes=size if least is None else least,
        layers=(
            LayerNeed(number=0, kind="attention", weights_bytes=size, kv_bytes=0, state_bytes=0, on_card=True),
            LayerNeed(number=None, kind="output", weights_bytes=0, kv_bytes=0, state_bytes=0, on_card=False),
        ),
        weights_bytes=size,
        kv_bytes=0,
        state_bytes=0,
        compute_bytes=0,
        projector_bytes=0,
        overhead_bytes=0,
        host_bytes=5,
        source="metadata",
    )


def card(number: int, size: int, headroom: int = 0) -> PlanCard:
    return PlanCard(uuid=f"GPU-{number}", mark=str(number), name="card", total_bytes=size, headroom_bytes=headroom)


def test_the_largest_finds_the_room_that_just_holds_it() -> None:
    placed, missing = place([need("small", 3), need("large", 9), need("huge", 99)], [card(0, 20), card(1, 10)])
    assert [(one.model, one.uuid) for one in placed] == [("small", "GPU-0"), ("large", "GPU-1")]
    assert [one.name for one in missing] == ["huge"]


def test_a_card_holds_no_more_models_than_its_server_loads() -> None:
    one = replace(card(0, 10), slots=1, instance="gpu0")

    placed, missing = place([need("a", 3), need("b", 4)], [one])

    assert [(each.model, each.uuid) for each in placed] == [("b", "GPU-0")]
    assert [each.name for each in missing] == ["a"]
    plan = Plan(version="0", time="", simulated=False, models=(), cards=(one,), placement=placed, unplaced=())
    assert as_json(plan)["placement"] == [{"model": "b", "instance": "gpu0", "cards": ["GPU-0"], "bytes": 4}]


def test_models_go_side_by_side_rather_than_on_one_card() -> None:
    placed, _ = place([need("a", 3), need("b", 4)], [card(0, 20), card(1, 20)])

    assert {each.uuid for each in placed} == {"GPU-0", "GPU-1"}


def test_headroom_stays_free() -> None:
    assert place([need("a", 9)], [card(0, 10, headroom=2)])[0] == ()
    assert len(place([need("a", 9)], [card(0, 10, headroom=1)])[0]) == 1


def test_a_smaller_batch_is_taken_where_only_that_fits() -> None:
    placed, _ = place([need("a", 9, least=7)], [card(0, 8)])
    assert [one.size_bytes for one in placed] == [7]
    placed, _ = place([need("a", 9, least=7)], [card(0, 8), card(1, 9)])
    assert [(one.uuid, one.size_bytes) for one in placed] == [("GPU-1", 9)]


@given(
    st.lists(st.integers(1, 40), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10)), max_size=5),
)
def test_no_card_is_over_its_room_and_none_is_forgotten(sizes: list[int], cards: list[tuple[int, int]]) -> None:
    needs = [need(str(number), size) for number, size in enumerate(sizes)]
    places = [card(number, *sizes) for number, sizes in enumerate(cards)]
    placed, missing = place(needs, places)
    assert sorted([one.model for one in placed] + [one.name for one in missing]) == sorted(one.name for one in needs)
    for one in places:
        assert sum(each.size_bytes for each in placed if each.uuid == one.uuid) <= one.room_bytes


def test_as_json() -> None:
    one, two = need("a", 5), need("b", 50)
    placed, _ = place([one, two], [card(0, 10, 1)])
    remedy = Remedy(what="kv_type", value="q8_0", total_bytes=8)
    plan = Plan(
        version="1",
        time="t",
        simulated=False,
        models=(one, two),
        cards=(card(0, 10, 1),),
        placement=placed,
        unplaced=(Unplaced(model="b", reason="too large", remedies=(remedy,)),),
    )
    plain = as_json(plan)
    assert plain["schema"] == "ollamux.plan/1"
    assert plain["cards"] == [
        {"uuid": "GPU-0", "name": "card", "total_bytes": 10, "headroom_bytes": 1, "planned_bytes": 5}
    ]
    assert plain["placement"] == [{"model": "a", "instance": None, "cards": ["GPU-0"], "bytes": 5}]
    assert plain["unplaced"][0]["would_fit_if"] == [{"change": "kv_type", "value": "q8_0", "total_bytes": 8}]
    model = plain["models"][0]
    assert (model["layers"]["total"], model["layers"]["offloaded"]) == (2, 1)
    assert model["total_bytes"] == 5 and model["measured_total_bytes"] is None and model["quantization"] is None
