"""The line that best says why a server died, from recorded ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.ollama.words import LONGEST_WORDS, last_words

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
VERSIONS = ["v0.24.0", "v0.32.15"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_failure_to_start(version) -> None:
    text = (RECORDINGS / version / "start-failures.txt").read_text()
    checked = 0
    for block in re.split(r"\n\n(?=# )", text):
        stderr = block.partition("[stderr] ")[2].partition("\n[exit")[0]
        if "Error: " in stderr or "panic: " in stderr:
            words = last_words(stderr)
            assert words is not None
            assert words.startswith(("Error: ", "panic: "))
            checked += 1
    assert checked >= 8


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ("", None),
        ("time=2026-01-01T00:00:00Z level=INFO msg=hello\n[GIN] 500 | CUDA error\n", None),
        ("Error: first\nError: second\nlater talk\n", "Error: second"),
        ("CUDA error: out of memory\n  current device: 0\n", "CUDA error: out of memory"),
        ("panic: boom\n\ngoroutine 1 [running]:\nmain.main()\nCUDA error: x\n", "panic: boom"),
        (
            'time=2026-01-01T00:00:00Z level=ERROR source=a.go:1 msg="llama-server terminated" error="exit status 1"\n',
            "llama-server terminated: exit status 1",
        ),
        ("Error: \x1b[31mred\n", "Error: \\x1b[31mred"),
        (
            "exec: error while loading shared libraries: libx.so\n",
            "exec: error while loading shared libraries: libx.so",
        ),
    ],
)
def test_what_tells_most(tail, words) -> None:
    assert last_words(tail) == words


def test_a_failed_load_is_told_from_the_log() -> None:
    words = last_words((RECORDINGS / "v0.32.15" / "load-failed.log").read_text())
    assert words == "llama-server terminated: exit status 1"


@given(st.text(max_size=500))
def test_S8_S9_words_are_short_and_safe(tail) -> None:
    words = last_words(tail + "\nError: " + tail)
    assert words is None or (len(words) <= LONGEST_WORDS and not re.search(r"[\x00-\x1f\x7f-\x9f]", words))
