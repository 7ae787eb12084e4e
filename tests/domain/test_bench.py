"""The figures of a bench, and what two of them beside each other say."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.bench import (
    CardEnergy,
    Request,
    Row,
    Step,
    doublings,
    joules_of,
    percentile,
    rows,
    together,
    total_of,
)
from ollamux.domain.benchdiff import compare, is_run
from ollamux.domain.benchrun import Asked, BenchCard, BenchInstance, Run, as_json, queued
from ollamux.domain.energy import Energy, Reading, used


def request(instance: str = "a", *, sent: float = 0.0, first: float = 1.0, ended: float = 2.0, **more: Any) -> Request:
    keys = {"prompt_tokens": 100, "prompt_s": 0.5, "tokens": 10, "generation_s": 1.0, **more}
    return Request(instance=instance, number=1, sent_s=sent, first_token_s=first, ended_s=ended, **keys)


def step(*requests: Request, number: int = 1, concurrency: int = 1, **more: Any) -> Step:
    names = tuple(dict.fromkeys(each.instance for each in requests))
    return Step(round=number, instances=names, concurrency=concurrency, requests=requests, **more)


def only(*steps: Step) -> Row:
    (row,) = rows(steps, tokens=10)
    return row


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [([3.0], 95, 3.0), ([1, 2, 3, 4], 50, 2.5), (range(1, 101), 95, 95), (range(1, 21), 95, 19), ([1, 2], 95, 2)],
)
def test_a_percentile_is_one_of_the_values_and_the_median_the_usual_one(
    values: list[float], percent: float, found: float
) -> None:
    assert percentile(list(values), percent) == found


@given(st.lists(st.floats(0, 1e9), min_size=1), st.sampled_from([1, 50, 95, 100]))
def test_a_percentile_does_not_depend_on_the_order_and_lies_between_the_ends(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    assert min(values) <= found <= max(values)
    assert percentile(list(reversed(values)), percent) == found
    assert percentile(values, 1) <= found <= percentile(values, 100)


def test_how_many_at_once_and_which_together() -> None:
    assert [doublings(most) for most in (1, 2, 3, 4, 6, 8)] == [
        (1,), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 4, 6), (1, 2, 4, 8),
    ]  # fmt: skip
    assert together("a") == [("a",)]
    assert together("abc") == [("a",), ("b",), ("c",), ("a", "b"), ("a", "b", "c")]
    assert [len(names) for names in together("abcdefgh")] == [1] * 8 + [2, 3, 4, 8]
    assert [len(names) for names in together("abcdef")] == [1] * 6 + [2, 3, 4, 6]


def test_speeds_of_one_request_are_the_servers_and_those_of_all_are_by_our_clock() -> None:
    row = only(step(request(), request(sent=0.5, first=2.0, ended=4.0, tokens=30, generation_s=2.0), concurrency=2))
    assert row.first_token_s is not None and row.first_token_s.value == 1.25
    assert row.first_token_tail_s is not None and row.first_token_tail_s.value == 1.5
    assert row.prompt_each is not None and row.prompt_each.value == 200
    assert row.prompt_all is not None and row.prompt_all.value == 100, "200 tokens until the last first token"
    assert row.each is not None and row.each.value == 12.5
    assert row.total is not None and row.total.value == 10, "40 tokens in 4 s"
    assert (row.requests, row.failed, row.stopped_early) == (2, 0, 0)


def test_what_failed_counts_nowhere_and_a_model_that_stops_early_is_told() -> None:
    broken = request(error="gone", tokens=None, generation_s=None, ended=9.0)
    row = only(step(request(tokens=5), broken, replace(broken, error="late"), broken, concurrency=4))
    assert (row.failed, row.first_error, row.stopped_early) == (3, "gone", 1)
    assert row.total is not None and row.total.value == 2.5, "the 9 s of what failed are not counted"
    row = only(step(broken, concurrency=1))
    assert row.total is None and row.first_token_s is None and row.failed == 1
    empty = request(tokens=0, generation_s=0.0)
    assert only(step(empty)).each is None, "no speed, and no division by zero"


def test_rounds_are_taken_together_and_how_far_they_moved_is_told() -> None:
    row = only(*(step(request(ended=ended), number=number) for number, ended in enumerate((2.0, 2.5, 4.0))))
    assert row.total is not None
    assert (row.total.value, row.total.least, row.total.most, row.total.rounds) == (4.0, 2.5, 5.0, 3)
    assert rows([step(request(), cut=True)], tokens=10) == [], "an interrupted step says nothing"


def test_scaling_is_beside_the_sum_of_each_alone_in_the_same_round() -> None:
    fast, slow = request("a", ended=1.0), request("b", ended=5.0)
    steps = []
    for number, slower in ((1, 1.0), (2, 2.0)):
        a, b = (replace(one, ended_s=one.ended_s * slower) for one in (fast, slow))
        steps += [step(each, number=number) for each in (a, b)]
        steps.append(step(a, replace(b, ended_s=b.ended_s * 2), number=number))
    found = rows(steps, tokens=10)
    assert [row.instances for row in found] == [("a",), ("b",), ("a", "b")]
    assert found[0].scaling is None
    assert found[2].scaling is not None and found[2].scaling.value == pytest.approx(11 / 12)
    assert found[2].scaling.least == found[2].scaling.most, "a round that is slower as a whole is no worse scaling"
    broken = [replace(each, requests=(replace(each.requests[0], error="x"),)) for each in steps[:1]]
    (_, _, row) = rows([*broken, *steps[1:3]], tokens=10)
    assert row.scaling is None, "alone it failed: there is nothing to compare with"


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=6), st.floats(0.1, 10))
def test_independent_cards_scale_to_a_hundred_percent_whatever_their_speeds(ends: list[float], slower: float) -> None:
    singles = [request(f"i{number}", ended=end) for number, end in enumerate(ends)]
    steps = [step(one) for one in singles] + [step(*singles)]
    row = rows(steps, tokens=10)[-1]
    assert len(ends) == 1 or (row.scaling is not None and row.scaling.value == pytest.approx(1.0))
    halves = [replace(one, ended_s=one.ended_s * slower) for one in singles]
    if len(ends) > 1:
        row = rows([*steps[:-1], step(*halves)], tokens=10)[-1]
        assert row.scaling is not None and row.scaling.value == pytest.approx(1 / slower)


def test_energy_is_told_only_where_every_card_tells_it_and_each_card_counts_once() -> None:
    def card(uuid: str, joules: float | None) -> CardEnergy:
        return CardEnergy(uuid=uuid, joules=joules, seconds=1.0, source="counter")

    both = step(request("a"), request("b"), cards=(card("x", 30.0), card("y", 10.0)))
    assert joules_of(both) == 40.0
    row = rows([both], tokens=10)[0]
    assert row.joules_per_token is not None and row.joules_per_token.value == 2.0
    assert joules_of(replace(both, cards=(card("x", 30.0), card("y", None)))) is None
    assert joules_of(replace(both, cards=())) is None


def reading(at: float, counted: float | None, power: float | None) -> Reading:
    return Reading(at=at, counted_j=counted, power_w=power)


@pytest.mark.parametrize(
    ("readings", "found"),
    [
        ([], None),
        ([reading(0, 5, 9)], None),
        ([reading(0, 5, 9), reading(2, 25, 9)], (20, 2, "counter")),
        ([reading(0, 25, 10), reading(2, 5, 20)], (30, 2, "power")),
        ([reading(0, None, 10), reading(1, None, 30), reading(3, None, 10)], (60, 3, "power")),
        ([reading(0, None, 10), reading(1, None, None), reading(2, None, 20)], (30, 2, "power")),
        ([reading(0, None, 10), reading(2, None, None)], None),
        ([reading(0, 5, None), reading(2, None, None)], None),
    ],
)
def test_energy_comes_from_the_counter_else_from_samples_of_power(
    readings: list[Reading], found: tuple[float, float, str] | None
) -> None:
    energy = None if found is None else Energy(joules=found[0], seconds=found[1], source=found[2])
    assert used(readings) == energy


# Two runs


def run(speeds: list[float], **more: Any) -> dict[str, Any]:
    """Return a run whose rounds gave these speeds, as it comes from a file."""
    steps = tuple(step(request(ended=10 / speed), number=number) for number, speed in enumerate(speeds))
    asked = Asked(prompt_tokens=100, tokens=10, concurrency=(1,), rounds=len(speeds), timeout_s=9.0, seed=42)
    card = BenchCard(uuid="GPU-1", index=0, name="X", memory_total_bytes=1, power_limit_w=9.0, instances=("a",))
    instance = BenchInstance(name="a", url="u", ollama_version="0.32.15", gpus=("GPU-1",), digest="d", slots=1)
    keys = {"instances": (instance,), "cards": (card,), "asked": asked, **more}
    made = Run(version="1", time="t", simulated=False, model="m", host="h", driver="d", cuda="c", steps=steps, **keys)
    found: dict[str, Any] = json.loads(json.dumps(as_json(made)))
    assert is_run(found)
    return found


def verdict(before: dict[str, Any], now: dict[str, Any], figure: str = "total") -> tuple[float, str]:
    (found,) = (one for one in compare(before, now)["figures"] if one["figure"] == figure)
    return found["percent"], found["verdict"]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ([10, 10.1, 10.2], [12, 12.1, 12.2], "better"),
        ([12, 12.1, 12.2], [10, 10.1, 10.2], "worse"),
        ([10, 11, 12], [12, 13, 14], "within the spread"),
        ([10, 10, 10], [10, 10, 10], "within the spread"),
        ([100, 100, 100], [101.9, 101.9, 101.9], "within the spread"),
        ([100, 100, 100], [102.1, 102.1, 102.1], "better"),
        ([10, 10], [20, 20], "too few rounds"),
        ([10, 10, 10], [20], "too few rounds"),
    ],
)
def test_a_difference_within_the_spread_is_no_verdict(before: list[float], now: list[float], said: str) -> None:
    assert verdict(run(before), run(now))[1] == said


def test_less_is_better_where_it_is_and_another_question_is_not_compared() -> None:
    slow, fast = run([10] * 3), run([20] * 3)
    for plain, first in ((slow, 2.0), (fast, 1.0)):
        plain["summary"][0]["first_token_s"] = {"value": first, "least": first, "most": first, "rounds": 3}
    assert verdict(slow, fast, "first_token_s") == (-50.0, "better")
    assert verdict(fast, slow, "first_token_s") == (100.0, "worse")
    for plain in (slow, fast):
        plain["summary"][0]["instances"] = ["a", "b"]
    assert {one["figure"] for one in compare(slow, fast)["figures"]} == {"total"}, "several have sums alone"
    fast["asked"]["tokens"] = 99
    assert verdict(slow, fast)[1] == "other question"


@pytest.mark.parametrize(
    ("rounds", "shift", "least", "most"),
    [
        (3, 0, 0.0, 0.02),
        (5, 0, 0.0, 0.01),
        (10, 0, 0.0, 0.01),
        (3, 30, 0.8, 1.0),
        (5, 20, 0.8, 1.0),
        (10, 15, 0.9, 1.0),
    ],
)
def test_chance_alone_is_hardly_ever_taken_for_a_difference_and_more_rounds_find_smaller_ones(
    rounds: int, shift: float, least: float, most: float
) -> None:
    chance = random.Random(1)
    said = []
    for _ in range(500):
        before, now = ([chance.gauss(mean, 5) for _ in range(rounds)] for mean in (100, 100 + shift))
        said.append(verdict(run(before), run(now))[1])
    assert least <= sum(one in ("better", "worse") for one in said) / len(said) <= most


def test_what_differs_in_the_set_up_is_named() -> None:
    before, now = run([10] * 3), run([10] * 3)
    assert compare(before, now)["setup"] == []
    now["instances"][0] |= {"ollama_version": "0.33.0", "digest": "e"}
    now["instances"].append({"name": "b"})
    now["cards"][0]["power_limit_w"] = 7.0
    now |= {"driver": "x", "version": "2"}
    told = {(one["where"], one["what"]): (one["before"], one["now"]) for one in compare(before, now)["setup"]}
    assert told == {
        ("", "version"): ("1", "2"),
        ("", "driver"): ("d", "x"),
        ("a", "ollama_version"): ("0.32.15", "0.33.0"),
        ("a", "digest"): ("d", "e"),
        ("b", "instances"): (None, "b"),
        ("GPU-1", "power_limit_w"): (9.0, 7.0),
    }


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2)))
def test_a_file_of_anything_is_no_run_or_can_be_compared(junk: Any) -> None:
    assert not is_run(junk)
    whole = run([10] * 3)
    for row in whole["summary"]:
        for key in row:
            spoilt = {
                **whole,
                "summary": [{**row, key: junk}],
                "instances": [{"name": junk}],
                "cards": [{"uuid": junk}],
            }
            assert is_run(spoilt)
            compare(spoilt, whole)
            compare(whole, spoilt)


def test_more_at_once_than_slots_are_told_to_queue() -> None:
    plain = run([10])
    assert plain["summary"][0]["queued"] == []
    instances = tuple(
        BenchInstance(name=name, url="u", ollama_version=None, gpus=(), slots=slots)
        for name, slots in (("a", 2), ("b", 8), ("c", None))
    )
    row = only(step(request("a"), request("b"), request("c"), concurrency=4))
    base = Run(
        version="1", time="t", simulated=False, model="m", host="h", driver=None, cuda=None, cards=(), steps=(),
        asked=Asked(prompt_tokens=1, tokens=1, concurrency=(4,), rounds=1, timeout_s=1.0, seed=1), instances=instances,
    )  # fmt: skip
    assert queued(base, row) == ["a"]
    assert total_of(step(request(error="x"))) is None
