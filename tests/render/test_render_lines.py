"""Event lines, log prefixes, the live block of `up`, the picture, and what drawing may import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from render_cases import simulated, troubled, worst

from ollamux.domain.snapshot import as_json
from ollamux.render.cells import cells, cut, wrap
from ollamux.render.lines import event_line, log_prefix, progress_block
from ollamux.render.picture import draw_picture, main
from ollamux.render.sample import sample_status
from ollamux.render.table import status_table

SGR = re.compile(r"\x1b\[[0-9;]*m")
EVENT = {
    "seq": 12,
    "time": "2026-01-31T12:00:04.250Z",
    "instance": "gpu0",
    "from": "STARTING",
    "to": "READY",
    "reason": "ready after 1.2 s at http://127.0.0.1:11435",
}


@pytest.fixture(autouse=True)
def somewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_an_event_is_one_line() -> None:
    line = event_line(EVENT, color=False, width=None)
    assert line == "12:00:04  gpu0  STARTING → READY     ready after 1.2 s at http://127.0.0.1:11435"
    assert event_line(EVENT, color=False, width=None, unicode=False).startswith("12:00:04  gpu0  STARTING -> READY ")
    assert event_line(EVENT, color=False, width=40).endswith("…")
    assert SGR.sub("", event_line(EVENT, color=True, width=None)) == line
    assert event_line(EVENT, color=False, width=None, date=True).startswith("2026-01-31 12:00:04")


def test_an_event_shows_the_time_where_the_reader_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-5")
    time.tzset()
    assert event_line(EVENT, color=False, width=None).startswith("17:00:04")


def test_reasons_of_events_stand_below_each_other() -> None:
    other = {**EVENT, "instance": "embedding", "from": "READY", "to": "UNHEALTHY", "reason": "no answer"}
    first = event_line(EVENT, color=False, width=None, name_width=9)
    second = event_line(other, color=False, width=None, name_width=9)
    assert first.index("ready after") == second.index("no answer")


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["seq", "time", "instance", "from", "to", "reason"]), st.none() | st.integers() | st.text()
    ),
    st.none() | st.integers(min_value=20, max_value=200),
    st.booleans(),
)
def test_S8_S9_any_event_is_one_harmless_line(event: dict[str, object], width: int | None, unicode: bool) -> None:
    plain = event_line(event, color=False, width=width, unicode=unicode)
    assert plain.isprintable()
    assert unicode or plain.isascii()
    assert width is None or cells(plain) <= width
    assert SGR.sub("", event_line(event, color=True, width=width, unicode=unicode)) == plain


def test_prefixes_are_aligned_and_neighbours_differ_in_colour() -> None:
    names = ["gpu0", "embedding", "gpu1"]
    prefixes = [log_prefix(name, names) for name in names]
    assert prefixes == ["gpu0      │ ", "embedding │ ", "gpu1      │ "]
    assert log_prefix("gpu0", names, unicode=False) == "gpu0      | "
    coloured = [log_prefix(name, names, color=True) for name in names]
    assert [SGR.sub("", prefix) for prefix in coloured] == prefixes
    assert len({SGR.findall(prefix)[0] for prefix in coloured}) == 3
    assert log_prefix("gone", names, color=True) == log_prefix("gone", names, color=True)
    assert "\x1b" not in log_prefix("\x1b[2J", names)


def test_the_live_block_has_a_line_for_each_wanted_instance() -> None:
    block = progress_block(worst(), width=100, color=False, unicode=True, elapsed_s=12.3, spinner=3)
    assert block[0] == "Starting 5 instances  0 ready  12 s"
    assert len(block) == 6
    assert block[1].startswith("✗ gpu0  http://127.0.0.1:11435  FAILED")
    assert block[4].startswith("! gpu3")
    assert block[5].startswith("⠸ gpu4")
    assert block[1].endswith("…")
    ready = progress_block(sample_status(1, False), width=100, color=False, unicode=True, elapsed_s=1, spinner=0)
    assert ready[0] == "Starting 1 instance  1 ready  1 s"
    assert ready[1].startswith("✓ gpu0")


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_the_live_block_fits(width: int) -> None:
    for status in (worst(), simulated(), troubled()):
        for unicode in (True, False):
            plain = progress_block(status, width=width, color=False, unicode=unicode, elapsed_s=75, spinner=11)
            coloured = progress_block(status, width=width, color=True, unicode=unicode, elapsed_s=75, spinner=11)
            assert [SGR.sub("", line) for line in coloured] == plain
            assert all(cells(line) <= width and line.isprintable() for line in plain)
            assert unicode or "".join(plain).isascii()
            assert not status.simulated or plain[0].startswith("SIMULATED")


@given(st.lists(st.text(alphabet="ab通é x", max_size=12), max_size=6), st.integers(min_value=2, max_value=20))
def test_wrapping_loses_no_word_and_no_line_is_too_long(words: list[str], width: int) -> None:
    text = " ".join(words)
    lines = wrap(((text, ""),), width)
    drawn = ["".join(part for part, _ in line) for line in lines]
    assert all(cells(line) <= width for line in drawn)
    assert "".join(drawn).replace(" ", "") == text.replace(" ", "")


def test_cutting_leaves_room_for_the_mark() -> None:
    assert cut("abcdef", 4, "…") == "abc…"
    assert cut("通义千问", 4, "…") == "通…"
    assert cut("abc", 3, "…") == "abc"
    assert cut("abc", 0, "…") == ""


def test_the_picture_is_the_same_every_time(tmp_path: Path) -> None:
    out = tmp_path / "status.svg"
    assert main([str(out)]) == 0
    drawn = out.read_text(encoding="utf-8")
    assert drawn == draw_picture(sample_status())
    assert "http:" not in drawn.replace("http://www.w3.org", "")
    assert "DEGRADED" in drawn
    source = tmp_path / "status.json"
    source.write_text(json.dumps(as_json(sample_status())), encoding="utf-8")
    assert main([str(out), str(source)]) == 0
    assert out.read_text(encoding="utf-8") == drawn
    assert main([]) == 2


def test_drawing_imports_no_rich() -> None:
    script = (
        "import sys\n"
        "from ollamux.render import lines, sample, table\n"
        "table.status_table(sample.sample_status(), width=80, color=True, unicode=True)\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('rich', 'typer', 'pydantic')])\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ})
    assert run.stdout.strip() == "[]"


def test_a_line_that_is_well_gives_no_next_step() -> None:
    status = sample_status(1, trouble=False)
    odd = replace(status.instances[0], next_action="renew the pin of qwen3:8b", next_at="2026-01-31T12:00:10Z")
    block = progress_block(
        replace(status, instances=(odd,)), width=120, color=False, unicode=True, elapsed_s=1, spinner=0
    )
    assert "renew" not in block[1]


def test_cards_that_are_not_supported_are_named() -> None:
    status = replace(troubled(), host=replace(troubled().host, gpus_unsupported=("Intel GPU 0x56a0 (0000:03:00.0)",)))

    drawn = status_table(status, width=60, color=False, unicode=True, view="gpus")

    assert "Not supported: Intel GPU 0x56a0 (0000:03:00.0)." in drawn
    assert max(map(len, drawn.splitlines())) <= 60
    assert "Not supported" not in status_table(status, width=60, color=False, unicode=True)
