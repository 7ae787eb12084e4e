"""Models on a terminal: how far a load or a pull is; in a pipe nothing but what came of it."""

from __future__ import annotations

import re

import pytest
from cli_rig import Place, on_terminal, until

INTERRUPTED = 130


@pytest.fixture(scope="module")
def slow(shared_place: Place) -> Place:
    """Two simulated GPUs whose loads and pulls take as long as real ones."""
    shared_place.env["OLLAMUX_SIMULATION_SPEED"] = "1"
    shared_place.simulate(2)
    return shared_place


def test_a_pull_shows_a_bar_and_leaves_one_line(slow: Place) -> None:
    with on_terminal(slow, "pull", "llama3.2:1b", "--simulated", columns=100) as terminal:
        terminal.wait_for(" of 1.2 GiB")
        assert re.search(r"llama3\.2:1b +[█▏▎▍▌▋▊▉ ]* +\d+ %  ", terminal.text), terminal.text
        assert terminal.end() == 0
        assert re.search(r"llama3\.2:1b  is there \(1\.2 GiB, [^)]*through gpu0\)", terminal.text)
        assert "\x1b[J" in terminal.raw, "what was drawn is taken away"


def test_in_a_pipe_there_is_the_result_alone(slow: Place) -> None:
    result = slow.ok("pull", "qwen3:1.7b", "--simulated")
    assert re.fullmatch(r"qwen3:1\.7b  is there \([^\n]*\)\n", result.out) and result.err == ""
    result = slow.ok("models", "load", "qwen3:1.7b", "--on", "gpu1", "--simulated")
    assert re.fullmatch(r"gpu1  qwen3:1\.7b is loaded \([^\n]*\)\n", result.out) and result.err == ""
    assert slow.ok("models", "unload", "qwen3:1.7b", "--simulated", "-q").out == ""


def test_ctrl_c_on_a_terminal_says_what_is_left(slow: Place) -> None:
    with on_terminal(slow, "models", "load", "qwen3:8b", "--on", "gpu0", "--simulated") as terminal:
        terminal.wait_for("qwen3:8b is being loaded on gpu0")
        terminal.type("\x03")
        assert terminal.end() == INTERRUPTED
        assert "interrupted; the load is given up" in terminal.text
    until(lambda: "(loading)" not in slow.run("models", "ls", "--simulated").out, "nothing is loading")
    assert "SIMULATED" in slow.run("models", "ls", "--simulated").out
    assert not slow.status("--simulated")["models"]


def test_a_narrow_terminal_without_colour_and_ascii(slow: Place) -> None:
    env = {"COLUMNS": "60", "LC_ALL": "C", "NO_COLOR": "1"}
    shown = slow.ok("models", "ls", "--simulated", env=env).out
    assert shown.isascii() and all(len(line) <= 60 for line in shown.splitlines()), shown
