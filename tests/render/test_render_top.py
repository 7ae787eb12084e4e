"""The screen of `ollamux top`: as drawn before, never larger than the screen, and the same without colour."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from render_cases import eight_cards, hostile_names, lost_card, simulated, worst
from test_render_golden import compare
from test_render_properties import SGR, statuses

from ollamux.domain.snapshot import Status
from ollamux.domain.top import ORDERS, Key, Told, Top, Untold, step
from ollamux.render.cells import cells
from ollamux.render.sample import sample_status
from ollamux.render.top import draw_top


def watched(status: Status, steps: int = 90) -> Top:
    """Return what is known after a while in which use and memory went up and down."""
    top = Top()
    for number in range(steps):
        wave = [int(50 + 50 * math.sin(number / 7 + place)) for place in range(len(status.gpus))]
        gpus = tuple(
            gpu if gpu.utilization_percent is None else replace(gpu, utilization_percent=use)
            for gpu, use in zip(status.gpus, wave, strict=True)
        )
        instances = tuple(
            replace(one, phase="STARTING") if one.name == "gpu1" and 60 < number < 66 else one
            for one in status.instances
        )
        last = number == steps - 1
        now = status if last else replace(status, gpus=gpus, instances=instances)
        top, _ = step(top, Told(status=now, at=number * 5.0))
    return top


def drawn(top: Top, width: int, height: int, *, color: bool = False, unicode: bool = True) -> list[str]:
    lines = draw_top(top, width=width, height=height, color=color, unicode=unicode, now=500.0)
    assert len(lines) == height
    assert all(cells(SGR.sub("", line)) <= max(width, 20) for line in lines)
    return lines


@pytest.mark.parametrize("size", [(60, 24), (80, 24), (120, 30), (200, 30)], ids=str)
def test_the_screen_is_drawn_as_before(size: tuple[int, int]) -> None:
    cases = (worst, eight_cards, lost_card, simulated, hostile_names)
    parts = [f"[{case.__name__}]\n" + "\n".join(drawn(watched(case()), *size)) + "\n" for case in cases]
    compare(f"top_{size[0]}x{size[1]}", "\n".join(parts))


def test_other_screens_are_drawn_as_before() -> None:
    top = watched(worst())
    parts = []
    for name, keys in (("help", "?"), ("filter", "/qwen"), ("question", "r"), ("sorted", "ss")):
        shown = top
        for key in keys:
            shown, _ = step(shown, Key(name=key))
        parts.append(f"[{name}]\n" + "\n".join(drawn(shown, 80, 24)) + "\n")
    gone, _ = step(top, Untold(trouble="no supervisor is running; ollamux up -d starts it", at=500.0))
    parts.append("[gone]\n" + "\n".join(drawn(gone, 80, 24)) + "\n")
    never, _ = step(Top(), Untold(trouble="no supervisor is running; ollamux up -d starts it", at=1.0))
    parts.append("[never there]\n" + "\n".join(drawn(never, 80, 8)) + "\n")
    parts.append("[ASCII]\n" + "\n".join(drawn(top, 80, 24, unicode=False)) + "\n")
    compare("top_others", "\n".join(parts))


@pytest.mark.parametrize("cards", [1, 8, 16])
@pytest.mark.parametrize("height", [1, 2, 5, 8, 12, 24, 50])
def test_the_chosen_instance_is_always_on_the_screen(cards: int, height: int) -> None:
    top = watched(sample_status(cards, trouble=False), 3)
    for _ in range(cards):
        shown = "\n".join(drawn(top, 80, height))
        if height >= 5:
            assert shown.count(">") == 1
        top, _ = step(top, Key(name="down"))
    assert height < 5 or f">gpu{cards - 1}" in shown


def test_colour_changes_nothing_else_and_ascii_is_ascii() -> None:
    for case in (worst, hostile_names, lost_card):
        top = watched(case(), 20)
        for width in (60, 90, 200):
            plain = drawn(top, width, 24)
            assert [SGR.sub("", line) for line in drawn(top, width, 24, color=True)] == plain
            assert all(line.isascii() for line in drawn(top, width, 24, unicode=False))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(statuses, st.integers(20, 220), st.integers(1, 60), st.sampled_from(ORDERS), st.text(max_size=4))
def test_any_snapshot_at_all_is_drawn(status: Status, width: int, height: int, order: str, wanted: str) -> None:
    top, _ = step(Top(order=order, wanted=wanted), Told(status=status, at=0.0))
    top, _ = step(top, Told(status=status, at=7.0))
    for line in drawn(top, width, height):
        assert line.isprintable()
