"""What was measured is planned with: for the same model, version, card and way of loading, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.calibration import CPU, MOST_LOADS, Calibration, MeasuredLoad, Share, remember
from ollamux.domain.plan import LayerNeed, ModelNeed, PlanCard, as_json
from ollamux.domain.plan import Plan as Whole
from ollamux.domain.seats import Seat, Wanted, place

LAYER = LayerNeed(number=0, kind="attention", weights_bytes=500, kv_bytes=50, state_bytes=0, on_card=True)
NEED = ModelNeed(
    name="m",
    digest="d",
    architecture="llama",
    parameters=1,
    quantization=None,
    context_length=8192,
    parallel=2,
    kv_type="f16",
    flash_attention=True,
    batch=1024,
    least_bytes=1400,
    layers=(LAYER, replace(LAYER, number=1), replace(LAYER, number=None)),
    weights_bytes=1000,
    kv_bytes=100,
    state_bytes=10,
    compute_bytes=200,
    projector_bytes=0,
    overhead_bytes=200,
    host_bytes=5,
    source="metadata",
)
CARD = PlanCard(uuid="GPU-1", mark="0", name="RTX 3090", total_bytes=24000, headroom_bytes=0)
TWIN = replace(CARD, uuid="GPU-2", mark="1")
OTHER = replace(CARD, uuid="GPU-3", mark="2", name="RTX A2000", total_bytes=12000)
SHARE = Share(
    uuid="GPU-1",
    name="RTX 3090",
    total_bytes=24000,
    weights_bytes=1001,
    kv_bytes=90,
    state_bytes=10,
    compute_bytes=250,
    process_bytes=1501,
)
LOAD = MeasuredLoad(
    model="m",
    digest="d",
    version="0.32.15",
    context_length=8192,
    parallel=2,
    kv_type="f16",
    flash_attention=True,
    batch=1024,
    offloaded=3,
    host_bytes=7,
    ps_bytes=1351,
    shares=(SHARE,),
    time="2026-01-31T12:00:00Z",
)


def known(*loads: MeasuredLoad, version: str | None = "0.32.15") -> Calibration:
    return Calibration(loads=loads, version=version)


@pytest.mark.parametrize("card", [CARD, TWIN])
def test_just_so_on_such_a_card_all_of_it_is_measured(card: PlanCard) -> None:
    found = known(LOAD).calibrated(NEED, card)
    assert found.source == "calibrated"
    assert (found.weights_bytes, found.kv_bytes, found.state_bytes, found.compute_bytes) == (1001, 100, 10, 250)
    assert (found.overhead_bytes, found.total_bytes, found.host_bytes) == (150, 1501, 7)
    assert found.estimated_bytes == NEED.total_bytes == 1500
    assert found.measured is not None and (found.measured.used, found.measured.total_bytes) == ("all", 1501)
    assert found.least_bytes == 1501 - 100, "a smaller batch saves what it is estimated to save"


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "another"},
        {"version": "0.32.14"},
        {"shares": (replace(SHARE, uuid="GPU-3", name="RTX A2000", total_bytes=12000),)},
        {"shares": (replace(SHARE, name="", uuid="GPU-9"),)},
        {"shares": (replace(SHARE, total_bytes=12000, uuid="GPU-9"),)},
        {"shares": (SHARE, replace(SHARE, uuid="GPU-2"))},
    ],
)
def test_what_was_measured_of_something_else_is_not_used(change: dict[str, Any]) -> None:
    assert known(replace(LOAD, **change)).calibrated(NEED, CARD) == NEED


def test_without_a_version_to_plan_for_that_of_the_newest_holds() -> None:
    old = replace(LOAD, version="0.24.0", shares=(replace(SHARE, process_bytes=9999),))
    assert known(old, LOAD, version=None).calibrated(NEED, CARD).total_bytes == 1501
    assert known(LOAD, old, version=None).calibrated(NEED, CARD).total_bytes == 9999


@pytest.mark.parametrize(
    "change",
    [
        {"context_length": 4096},
        {"parallel": 1},
        {"kv_type": "q8_0"},
        {"flash_attention": False},
        {"batch": 512},
        {"offloaded": 2},
    ],
)
def test_loaded_in_another_way_only_the_overhead_is_taken_over(change: dict[str, Any]) -> None:
    found = known(replace(LOAD, **change)).calibrated(NEED, CARD)
    assert found.measured is not None and found.measured.used == "part"
    assert found == replace(NEED, overhead_bytes=150, least_bytes=1350, measured=found.measured)
    assert found.estimated_bytes is None and found.source == "metadata"


def test_compute_is_corrected_by_how_far_off_it_was_with_another_context_or_type_of_cache() -> None:
    def half(load: MeasuredLoad) -> int:
        return share.compute_bytes // 2

    share = SHARE
    for change in ({"context_length": 4096}, {"kv_type": "q8_0"}):
        found = replace(known(replace(LOAD, **change)), compute_of=half).calibrated(NEED, CARD)
        assert (found.compute_bytes, found.overhead_bytes) == (2 * NEED.compute_bytes, 150)
        assert found.least_bytes == found.total_bytes - 2 * 100
    for change in ({"parallel": 1}, {"flash_attention": False}, {"batch": 512}, {"offloaded": 2}):
        found = replace(known(replace(LOAD, **change)), compute_of=half).calibrated(NEED, CARD)
        assert (found.compute_bytes, found.overhead_bytes) == (NEED.compute_bytes, 150)
    bound = replace(NEED, source="bound")
    found = replace(known(replace(LOAD, kv_type="q8_0")), compute_of=half).calibrated(bound, CARD)
    assert found.compute_bytes == NEED.compute_bytes, "a bound stays one"
    silent = Calibration(loads=(replace(LOAD, kv_type="q8_0"),), version="0.32.15", compute_of=lambda load: None)
    assert silent.calibrated(NEED, CARD).compute_bytes == NEED.compute_bytes


def test_of_several_the_very_card_goes_before_its_kind_and_the_nearest_before_the_newest() -> None:
    twin = replace(LOAD, shares=(replace(SHARE, uuid="GPU-2", process_bytes=1600),))
    assert known(LOAD, twin).calibrated(NEED, CARD).total_bytes == 1501
    assert known(LOAD, twin).calibrated(NEED, TWIN).total_bytes == 1600
    near = replace(LOAD, context_length=9000, shares=(replace(SHARE, process_bytes=1400),))
    far = replace(LOAD, context_length=512, shares=(replace(SHARE, process_bytes=1900),))
    assert known(near, far).calibrated(NEED, CARD).overhead_bytes == 1400 - 1351


def test_a_driver_that_does_not_tell_of_processes_leaves_the_overhead_to_the_estimate() -> None:
    for process in (None, 100):
        load = replace(LOAD, shares=(replace(SHARE, process_bytes=process),))
        found = known(load).calibrated(NEED, CARD)
        assert (found.source, found.overhead_bytes, found.total_bytes) == ("calibrated", 200, 1351 + 200)
        assert known(replace(load, batch=512)).calibrated(NEED, CARD) == NEED


@pytest.mark.parametrize(("projector", "parts"), [(50, (50, 100)), (400, (150, 0))])
def test_a_projector_is_within_what_is_held_beside_the_buffers(projector: int, parts: tuple[int, int]) -> None:
    need = replace(NEED, projector_bytes=projector)
    found = known(LOAD).calibrated(need, CARD)
    assert (found.projector_bytes, found.overhead_bytes, found.total_bytes) == (*parts, 1501)


def test_without_a_card_what_was_measured_on_the_cpu_holds() -> None:
    load = replace(LOAD, offloaded=None, host_bytes=0, shares=(replace(SHARE, uuid=CPU, name="CPU", total_bytes=0),))
    found = known(replace(load, shares=(replace(load.shares[0], process_bytes=None),))).calibrated(NEED, None)
    assert (found.source, found.total_bytes, found.overhead_bytes) == ("calibrated", 1351, 0)
    assert known(load).calibrated(NEED, CARD) == NEED
    assert known(LOAD).calibrated(NEED, None) == NEED
    assert known(replace(load, context_length=4096)).calibrated(NEED, None) == NEED


def test_what_is_shown_is_what_is_planned_with() -> None:
    other = replace(LOAD, shares=(replace(SHARE, uuid="GPU-3", name="RTX A2000", total_bytes=12000),))
    assert known(LOAD).shown(NEED, [CARD, OTHER], on=CARD).source == "calibrated"
    elsewhere = known(other).shown(NEED, [CARD, OTHER], on=CARD)
    assert elsewhere.total_bytes == NEED.total_bytes and elsewhere.source == "metadata"
    assert elsewhere.measured is not None and (elsewhere.measured.used, elsewhere.measured.card) == (
        "nothing",
        "RTX A2000",
    )
    assert known(other).shown(NEED, [CARD, OTHER]).source == "calibrated"
    assert known().shown(NEED, [CARD, OTHER], on=CARD) == known().shown(NEED, []) == NEED


def test_models_are_placed_by_what_they_take_on_each_card() -> None:
    """The estimate would fit on neither of the small ones; it was measured on one kind, and there it does."""
    small, smaller = replace(CARD, total_bytes=1450), replace(OTHER, total_bytes=1450)
    load = replace(LOAD, shares=(replace(SHARE, total_bytes=1450, process_bytes=1440),))
    need, cards = replace(NEED, least_bytes=1500), [smaller, small]
    seats = [Seat(name=card.uuid, instance=None, cards=(card.uuid,), slots=3) for card in cards]
    estimated = Wanted(model="m", needs={card.uuid: need for card in cards})
    assert place([estimated], seats, cards)[0] == ()
    measured = replace(estimated, needs={card.uuid: known(load).calibrated(need, card) for card in cards})
    placed, lacking = place([measured], seats, cards)
    assert [one.shares for one in placed] == [(("GPU-1", 1440),)] and not lacking


def test_over_several_cards_only_what_was_measured_on_these_very_ones_holds() -> None:
    other = replace(SHARE, uuid="GPU-2", weights_bytes=2 * SHARE.weights_bytes, process_bytes=None)
    load = replace(LOAD, shares=(SHARE, other))
    found = known(load).over(NEED, [TWIN, CARD])
    assert found is not None
    need, sizes = found
    assert sizes == {"GPU-1": 1501, "GPU-2": other.buffers_bytes + NEED.overhead_bytes}
    assert (need.source, need.total_bytes, need.estimated_bytes) == ("calibrated", sum(sizes.values()), 1500)
    assert need.weights_bytes == 3 * SHARE.weights_bytes and need.compute_bytes == 2 * SHARE.compute_bytes
    assert known(load).over(NEED, [CARD, OTHER]) is None and known(LOAD).over(NEED, [CARD, TWIN]) is None
    assert known(replace(load, context_length=1)).over(NEED, [CARD, TWIN]) is None
    assert known(load).calibrated(NEED, CARD) == NEED


def test_in_json_the_parts_are_those_that_are_planned_with() -> None:
    def model(need: ModelNeed) -> dict[str, Any]:
        plan = Whole(version="0", time="", simulated=False, models=(need,), cards=(), placement=(), unplaced=())
        found: dict[str, Any] = as_json(plan)["models"][0]
        return found

    plain, exact = model(NEED), model(known(LOAD).calibrated(NEED, CARD))
    near = model(known(replace(LOAD, batch=512)).calibrated(NEED, CARD))
    assert (plain["measured_total_bytes"], plain["measured"], plain["estimated_total_bytes"]) == (None, None, 1500)
    assert (exact["measured_total_bytes"], exact["total_bytes"], exact["estimated_total_bytes"]) == (1501, 1501, 1500)
    assert (near["measured_total_bytes"], near["measured"]["used"], near["measured"]["batch"]) == (
        None,
        "part",
        512,
    )


def test_a_later_measurement_takes_the_place_of_the_same_and_the_oldest_go() -> None:
    again = replace(LOAD, time="2026-02-01T12:00:00Z", shares=(replace(SHARE, process_bytes=1700),))
    twin = replace(LOAD, shares=(replace(SHARE, uuid="GPU-2"),))
    assert remember((LOAD, twin), again) == (twin, again)
    many: tuple[MeasuredLoad, ...] = ()
    for context in range(MOST_LOADS + 9):
        many = remember(many, replace(LOAD, context_length=context))
    assert len(many) == MOST_LOADS and many[-1].context_length == MOST_LOADS + 8


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.none() | st.integers(0, 1 << 42))
def test_no_part_is_ever_negative_and_what_the_driver_told_is_the_sum(
    weights: int, compute: int, projector: int, process: int | None
) -> None:
    share = replace(SHARE, weights_bytes=weights, compute_bytes=compute, process_bytes=process)
    need = replace(NEED, projector_bytes=projector, least_bytes=NEED.total_bytes + projector)
    for load in (replace(LOAD, shares=(share,)), replace(LOAD, batch=1, shares=(share,))):
        found = known(load).calibrated(need, CARD)
        parts = (found.weights_bytes, found.kv_bytes, found.compute_bytes, found.projector_bytes, found.overhead_bytes)
        assert min(parts) >= 0
        if found.source == "calibrated" and share.beside_bytes is not None:
            assert found.total_bytes == process
