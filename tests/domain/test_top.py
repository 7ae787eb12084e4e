"""What `ollamux top` makes of keys and answers, as tables; and what it remembers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.domain.snapshot import InstanceModelView, Status
from ollamux.domain.top import (
    ORDERS,
    Answered,
    Command,
    Key,
    Quit,
    Restart,
    Told,
    Top,
    Untold,
    selected,
    shown_cards,
    shown_instances,
    step,
)
from ollamux.domain.trail import MOST_STEPS, NO_TRAIL, STEP_S, extended
from ollamux.render.sample import sample_status

steady = settings(derandomize=True, deadline=None, database=None, max_examples=100)
BOX = sample_status(4, trouble=False)  # gpu0 to gpu3, all READY, a model on each


def changed(name: str, **changes: Any) -> Status:
    return replace(BOX, instances=tuple(replace(o, **changes) if o.name == name else o for o in BOX.instances))


def told(status: Status = BOX) -> Top:
    return step(Top(), Told(status=status, at=100.0))[0]


def typed(top: Top, *keys: str) -> tuple[Top, list[Command]]:
    done = []
    for key in keys:
        top, command = step(top, Key(name=key))
        done += [command] if command is not None else []
    return top, done


def names(top: Top) -> list[str]:
    return [one.name for one in shown_instances(top)]


def chosen(top: Top) -> str | None:
    found = selected(top)
    return None if found is None else found.name


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ((), "gpu0"),
        (("down",), "gpu1"),
        (("j", "j", "k"), "gpu1"),
        (("up",), "gpu0"),
        (("end",), "gpu3"),
        (("end", "down"), "gpu3"),
        (("page-down", "home"), "gpu0"),
        (("down", "unknown key", "x"), "gpu1"),
        (("/", "u", "2", "enter"), "gpu2"),
        (("down", "/", "u", "2", "enter", "escape"), "gpu1"),
        (("/", "n", "o", "n", "e", "enter", "down"), None),
    ],
)
def test_keys_choose_an_instance(keys: tuple[str, ...], name: str | None) -> None:
    assert chosen(typed(told(), *keys)[0]) == name


@pytest.mark.parametrize(
    ("keys", "done"),
    [
        (("q",), [Quit()]),
        (("?", "q"), [Quit()]),
        (("?", "x", "q"), [Quit()]),
        (("/", "q"), []),
        (("r", "y"), [Restart(name="gpu0")]),
        (("r", "Y"), [Restart(name="gpu0")]),
        (("down", "enter", "y"), [Restart(name="gpu1")]),
        (("r", "n"), []),
        (("r", "q"), []),
        (("r", "escape", "y"), []),
        (("r", "enter"), []),
        (("y",), []),
        (("r", "down", "y"), []),
        (("/", "u", "3", "enter", "r", "y"), [Restart(name="gpu3")]),
        (("/", "r", "y"), []),
    ],
)
def test_only_a_yes_to_the_question_restarts(keys: tuple[str, ...], done: list[Command]) -> None:
    assert typed(told(), *keys)[1] == done


def test_the_instance_in_the_question_is_the_one_that_is_restarted() -> None:
    """The list may change between the question and its answer."""
    top, _ = typed(told(), "s", "s", "r")
    assert (top.order, top.asking) == ("state", "gpu0")
    top, _ = step(top, Told(status=changed("gpu3", phase="FAILED"), at=101.0))
    assert names(top)[0] == "gpu3"
    assert typed(top, "y")[1] == [Restart(name="gpu0")]


def test_nothing_is_restarted_where_nobody_can_be_asked() -> None:
    top, _ = step(told(), Untold(trouble="no supervisor is running", at=101.0))
    top, done = typed(top, "r")
    assert done == [] and top.message_is_bad and "no supervisor" in (top.message or "")
    empty, done = typed(told(replace(BOX, instances=())), "r")
    assert done == [] and "no instance" in (empty.message or "")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("gpu1", ["gpu1"]),
        ("GPU1", ["gpu1"]),
        ("qwen", ["gpu0", "gpu1"]),
        ("qwen 8b", ["gpu1"]),
        ("11437", ["gpu2"]),
        ("ready", ["gpu0", "gpu1", "gpu2", "gpu3"]),
        ("failed", []),
    ],
)
def test_a_filter_leaves_what_has_all_its_words(words: str, left: list[str]) -> None:
    top, _ = typed(told(), "/", *words)
    assert names(top) == left and top.mode == "filter"
    assert [name for gpu in shown_cards(top) for name in gpu.instances] == left
    top, _ = typed(top, "escape")
    assert (top.wanted, top.mode, len(names(top))) == ("", "look", 4)


def test_a_filter_is_corrected_and_ended() -> None:
    top, _ = typed(told(), "/", "x", "g", "backspace", "backspace", "backspace", "u", "ctrl-u", "p", "left", "enter")
    assert (top.wanted, top.mode) == ("p", "look")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("file", ["gpu0", "gpu1", "gpu2", "gpu3"]),
        ("state", ["gpu3", "gpu2", "gpu0", "gpu1"]),
        ("memory", ["gpu0", "gpu2", "gpu1", "gpu3"]),
        ("use", ["gpu0", "gpu2", "gpu1", "gpu3"]),
    ],
)
def test_instances_are_sorted_as_asked(order: str, expected: list[str]) -> None:
    status = changed("gpu3", phase="FAILED", models=())
    instances = [replace(o, health="degraded") if o.name == "gpu2" else o for o in status.instances]
    top = replace(told(replace(status, instances=tuple(instances))), order=order)
    assert names(top) == expected
    assert sorted(names(replace(top, order="name"))) == names(replace(top, order="name"))


def test_s_goes_through_all_orders_and_keeps_what_is_chosen() -> None:
    top, _ = typed(told(), "down")
    for order in (*ORDERS[1:], ORDERS[0]):
        top, _ = typed(top, "s")
        assert (top.order, chosen(top)) == (order, "gpu1")


def test_an_instance_that_is_gone_gives_its_choice_to_the_first() -> None:
    top, _ = typed(told(), "down")
    top, _ = step(top, Told(status=replace(BOX, instances=BOX.instances[2:]), at=101.0))
    assert chosen(top) == "gpu2"


def test_what_was_told_stays_where_nobody_tells_any_more() -> None:
    top, _ = step(told(), Untold(trouble="silent", at=103.0))
    assert (top.status, top.told_at, top.trouble) == (BOX, 100.0, "silent")
    assert step(top, Told(status=BOX, at=104.0))[0].trouble is None


def test_an_answer_is_shown_until_the_next_key() -> None:
    top, _ = step(told(), Answered(words="gpu0: ready", well=True))
    assert (top.message, top.message_is_bad) == ("gpu0: ready", False)
    assert typed(top, "down")[0].message is None


def series(top: Top, name: str) -> list[float | None]:
    return list(top.trail.series[name])


def test_the_history_has_a_value_each_five_seconds_and_misses_no_spike() -> None:
    top = told()
    for second, phase in ((101, "READY"), (103, "STARTING"), (104, "READY"), (105, "READY"), (111, "FAILED")):
        top, _ = step(top, Told(status=changed("gpu1", phase=phase), at=float(second)))
    assert series(top, "state gpu1") == [2, 1, 4]
    assert series(top, "state gpu0") == [1, 1, 1]


def test_a_restart_between_two_looks_is_in_the_history() -> None:
    top, _ = step(told(), Told(status=changed("gpu1", generation=2), at=106.0))
    assert series(top, "state gpu1") == [1, 2]
    assert series(top, "state gpu2") == [1, 1]


def test_the_unknown_is_a_gap_and_not_zero() -> None:
    lost = replace(BOX.gpus[0], state="lost", utilization_percent=None)
    top, _ = step(told(), Told(status=replace(BOX, gpus=(lost, *BOX.gpus[1:])), at=105.0))
    assert series(top, f"use {lost.uuid}") == [87, None]
    top, _ = step(top, Untold(trouble="silent", at=110.0))
    top, _ = step(top, Told(status=BOX, at=120.0))
    assert series(top, f"use {lost.uuid}") == [87, None, None, None, 87]
    stale = replace(BOX.gpus[0], age_s=11.0)
    top, _ = step(top, Told(status=replace(BOX, gpus=(stale,)), at=125.0))
    assert series(top, f"memory {stale.uuid}")[-1] is None
    unloaded = InstanceModelView(name="m", size_bytes=0, size_vram_bytes=0, context_length=None, expires_at=None)
    assert shown_instances(told(changed("gpu0", models=(unloaded,))))[0].models == (unloaded,)


LOOKS = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.dictionaries(st.sampled_from("abc"), st.none() | st.floats(0, 100), max_size=3),
    ),
    max_size=40,
)


@steady
@given(LOOKS)
def test_all_series_end_together_and_are_bounded(looks: list[tuple[float, dict[str, float | None]]]) -> None:
    trail, now = NO_TRAIL, 0.0
    for later, values in looks:
        now += later
        trail = extended(trail, now, values)
        assert len({len(known) for known in trail.series.values()}) <= 1
        assert all(0 < len(known) <= MOST_STEPS for known in trail.series.values())
        assert trail.step == int(now // STEP_S)
        for name, value in values.items():
            last = trail.series[name][-1]
            assert last is not None and last >= value if value is not None else True


def test_a_series_that_is_gone_is_forgotten_in_the_end() -> None:
    trail = extended(NO_TRAIL, 0.0, {"a": 1.0})
    for number in range(1, MOST_STEPS + 2):
        trail = extended(trail, number * STEP_S, {"b": 1.0})
    assert set(trail.series) == {"b"}


def test_a_long_sleep_leaves_a_gap_of_bounded_length() -> None:
    trail = extended(extended(NO_TRAIL, 0.0, {"a": 1.0}), 1e9, {"a": 2.0})
    assert trail.series["a"] == (*(None,) * (MOST_STEPS - 1), 2.0)


@steady
@given(
    st.lists(st.sampled_from(["q", "r", "y", "/", "s", "?", "up", "down", "end", "escape", "enter", "g", "backspace"]))
)
def test_no_keys_at_all_confuse_it(pressed: list[str]) -> None:
    top, _ = typed(told(), *pressed)
    assert top.mode in ("look", "filter", "confirm", "help")
    assert (top.asking is not None) == (top.mode == "confirm")
    assert chosen(top) in (None, *names(top))
