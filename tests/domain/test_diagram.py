"""The picture in the documentation is the table's, and shows all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollamux.domain import diagram
from ollamux.domain.machine import TABLE
from ollamux.domain.phases import SERVING, Phase
from ollamux.domain.rules import ignore, targets

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_document_is_current() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert diagram.replaced(text) == text, "run: python -m ollamux.domain.diagram docs/architecture.md"


def test_every_phase_and_every_event_that_moves_is_drawn() -> None:
    drawn = diagram.state_diagram()
    assert all(phase.name in drawn for phase in Phase)
    for (phase, event), rule in TABLE.items():
        if targets(rule) - {phase}:
            assert event.__name__ in drawn, (phase, event)


def test_what_the_picture_simplifies_is_true() -> None:
    assert set(diagram._AFTERWARDS) == set(diagram.OVER)
    for (phase, _), rule in TABLE.items():
        entered = targets(rule) & SERVING
        if rule is not ignore and phase not in SERVING:
            assert entered <= {Phase.STARTING}, "the box of the living is entered at STARTING"


def test_the_command_rewrites_between_the_markers_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{diagram.BEGIN}\nold\n{diagram.END}\nafter\n", encoding="utf-8")
    assert diagram.main([str(page)]) == 0
    assert page.read_text(encoding="utf-8") == (
        f"before\n{diagram.BEGIN}\n{diagram.state_diagram()}\n{diagram.END}\nafter\n"
    )
    assert diagram.main([]) == 0
    assert capsys.readouterr().out == diagram.state_diagram() + "\n"


@pytest.mark.parametrize("text", ["", diagram.BEGIN, diagram.END, f"{diagram.END}{diagram.BEGIN}"])
def test_a_document_without_markers_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="lacks"):
        diagram.replaced(text)
