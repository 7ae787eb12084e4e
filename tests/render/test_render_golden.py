"""The tables as they are drawn, kept as text. OLLAMUX_REWRITE_GOLDEN=1 writes them anew: then read the difference."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from render_cases import CASES, hostile_names, joined, logged_loads, several_cards, troubled, worst

from ollamux.domain.snapshot import VIEWS, Status
from ollamux.render.table import status_table

GOLDEN = Path(__file__).parent / "golden"
REWRITE = os.environ.get("OLLAMUX_REWRITE_GOLDEN") == "1"


def compare(name: str, drawn: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if REWRITE:
        path.write_text(drawn, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_whole_box_is_drawn_as_before(case: Callable[[], Status]) -> None:
    status = case()
    parts = []
    for width, unicode, wide in (
        (80, True, False),
        (60, True, False),
        (40, True, False),
        (120, True, False),
        (200, True, True),
        (80, False, False),
        (60, False, False),
    ):
        title = f"{width} columns{', wide' if wide else ''}{'' if unicode else ', ASCII'}"
        table = status_table(status, width=width, color=False, unicode=unicode, wide=wide)
        parts.append(f"[{title}]\n{table}\n")
    compare(case.__name__, "\n".join(parts))


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_drawn_as_before(view: str) -> None:
    parts = []
    for case in (troubled, worst, several_cards, hostile_names, *((logged_loads,) if view == "models" else ())):
        for width, wide in ((80, False), (60, False), (120, False), (200, True)):
            table = status_table(case(), width=width, color=False, unicode=True, view=view, wide=wide)
            parts.append(f"[{case.__name__}, {width} columns{', wide' if wide else ''}]\n{table}\n")
    compare(f"view_{view}", "\n".join(parts))


def test_the_matrix_of_a_large_box_is_drawn_as_before() -> None:
    parts = []
    for count, width, unicode in ((8, 60, True), (8, 80, True), (8, 200, True), (16, 60, True), (16, 80, False)):
        table = status_table(joined(count), width=width, color=False, unicode=unicode, view="topology")
        parts.append(f"[{count} cards, {width} columns{'' if unicode else ', ASCII'}]\n{table}\n")
    compare("topology_of_many", "\n".join(parts))


def test_the_coloured_table_is_drawn_as_before() -> None:
    table = status_table(worst(), width=80, color=True, unicode=True)
    compare("worst_in_colour", table.replace("\x1b", "ESC") + "\n")
