"""What a person sees on a terminal: questions, the live screen of `up`, colour, and Ctrl-C."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from cli_rig import ESCAPES, Place, on_terminal, until

NOT_FOUND, INTERRUPTED = 5, 130
CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture
def ready(place: Place) -> Place:
    place.fake_ollama()
    place.config("a", "b")
    return place


@pytest.mark.parametrize(
    "answer", ["n\n", "no\n", "what?\n", CTRL_C, CTRL_D], ids=["n", "no", "else", "Ctrl-C", "Ctrl-D"]
)
def test_up_without_a_file_asks_and_a_no_writes_nothing(place: Place, answer: str) -> None:
    place.fake_ollama()
    with on_terminal(place, "up") as terminal:
        terminal.wait_for("[Y/n]")
        assert "[instances.cpu]" in terminal.text and "config.toml" in terminal.text
        terminal.type(answer)
        assert terminal.end() == 0
        assert terminal.text.endswith("nothing was written or started\n")
    assert not list((place.root / "home").iterdir())


def test_up_without_a_file_writes_it_and_starts_after_a_yes(place: Place) -> None:
    place.fake_ollama()
    with on_terminal(place, "up", "-d") as terminal:
        terminal.wait_for("[Y/n]")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "wrote " in terminal.text and "1 of 1 instance READY" in terminal.text
    assert (place.root / "home/.config/ollamux/config.toml").exists()


def test_up_on_a_terminal_without_gpu_and_ollama_says_what_is_missing(place: Place) -> None:
    with on_terminal(place, "up", env={"PATH": "/nonexistent"}) as terminal:
        assert terminal.end() == NOT_FOUND
        assert "no GPU and no ollama" in terminal.text and "--simulate 4" in terminal.text


@pytest.mark.parametrize("columns", [60, 100])
def test_up_in_the_foreground_is_live_and_ctrl_c_stops_everything(ready: Place, columns: int) -> None:
    with on_terminal(ready, "up", columns=columns) as terminal:
        terminal.wait_for("Ctrl-C stops everything")
        until(lambda: ready.run("status").code == 0, "all is ready")
        terminal.wait_for("b │ ")  # what the servers write is shown, and harmless
        assert "\x1b[31mred" not in terminal.raw
        terminal.type(CTRL_C)
        assert terminal.end() == 0
        assert "stopped 2 instances and the supervisor\n" in terminal.text
    assert not ready.pids()


@pytest.mark.parametrize("flags", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": None}], ids=str)
def test_C30_without_colour_nothing_is_coloured(ready: Place, flags: dict[str, str | None]) -> None:
    ready.ok("up", "-d", "-q")
    with on_terminal(ready, "status", env=flags) as terminal:
        assert terminal.end() == 0
        assert not ESCAPES.search(terminal.raw) and "READY" in terminal.text
    with on_terminal(ready, "status") as terminal:
        terminal.end()
        assert ESCAPES.search(terminal.raw)


def test_up_in_the_foreground_stays_live_when_the_supervisor_is_upgraded(ready: Place) -> None:
    with on_terminal(ready, "up") as terminal:
        terminal.wait_for("Ctrl-C stops everything")
        until(lambda: ready.run("status").code == 0, "all is ready")
        viewers = [pid for pid, words in ready.pids().items() if "ollamux.cli.viewer" in words]
        ready.ok("upgrade", "-q")
        terminal.wait_for("2 instances untouched")
        assert [pid for pid, words in ready.pids().items() if "ollamux.cli.viewer" in words] == viewers
        ready.ok("restart", "b")
        terminal.wait_for("restart requested")
        terminal.type(CTRL_C)
        assert terminal.end() == 0
        assert "stopped 2 instances and the supervisor\n" in terminal.text
    assert not ready.pids()


def test_C30_a_dumb_terminal_gets_no_escapes_from_up_either(ready: Place) -> None:
    with on_terminal(ready, "up", env={"TERM": "dumb"}) as terminal:
        terminal.wait_for("READY")
        until(lambda: ready.run("status").code == 0, "all is ready")
        terminal.type(CTRL_C)
        assert terminal.end() == 0
        assert not ESCAPES.search(terminal.raw)


def test_a_plan_of_a_reload_is_wrapped_by_words(ready: Place) -> None:
    ready.ok("up", "-d", "-q")
    words = [f"OLLAMA_X{number}" for number in range(8)]
    env = ", ".join(f'{word} = "{number * 111}"' for number, word in enumerate(words))
    path = ready.work / "ollamux.toml"
    path.write_text(path.read_text() + f"env = {{ {env} }}\n" + "[instances.b.health]\ninterval = '1h'\n")

    with on_terminal(ready, "reload", "--dry-run", columns=60) as terminal:
        assert terminal.end() == 0
        text = terminal.text
    piped = ready.ok("reload", "--dry-run").out.splitlines()

    lines = text.splitlines()
    assert max(map(len, lines)) <= 60
    assert all(f'env.{word} = "' in text for word in words), "no word is broken"
    assert [line for line in lines if line.startswith(" " * 13)], "it goes on below its beginning"
    assert max(map(len, piped)) > 60, "a pipe gets each instance on a line of its own"
    assert " ".join(text.split()) == " ".join(" ".join(piped).split())


def test_who_interrupts_a_restart_is_told_that_it_goes_on(ready: Place) -> None:
    ready.ok("up", "-d", "-q")
    before = {one["name"]: one["pid"] for one in ready.status()["instances"]}
    slow = Path(ready.fake_ollama())
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")

    with on_terminal(ready, "restart", "a", "b", "--rolling") as terminal:
        until(lambda: ready.status()["instances"][0]["phase"] == "STARTING", "it was asked")
        terminal.type(CTRL_C)
        assert terminal.end() == INTERRUPTED
        assert "the instance that is being restarted goes on, those after it are left as they are" in terminal.text

    after = {one["name"]: (one["phase"], one["pid"]) for one in ready.status()["instances"]}
    assert after["a"][0] == "STARTING"
    assert after["b"] == ("READY", before["b"])


def test_watch_draws_over_itself_and_leaves_the_last_screen(ready: Place) -> None:
    ready.ok("up", "-d", "-q")
    with on_terminal(ready, "status", "--watch", "--interval", "0.1", columns=60) as terminal:
        terminal.wait_for("2 of 2 instances READY")
        ready.ok("stop", "b", "-q")
        terminal.wait_for("1 of 1 instance READY")
        terminal.type(CTRL_C)
        assert terminal.end() == 0
        last = terminal.raw.rpartition("\x1b[?1049l")[2]
        assert terminal.raw.count("\x1b[?1049h") == 1 and "1 of 1 instance READY" in ESCAPES.sub("", last)


def test_watch_outlives_the_supervisor(ready: Place) -> None:
    ready.ok("up", "-d", "-q")
    with on_terminal(ready, "status", "-w", "--interval", "100ms") as terminal:
        terminal.wait_for("2 of 2 instances READY")
        ready.ok("down", "-q")
        terminal.wait_for("No supervisor is running")
        terminal.type(CTRL_C)
        assert terminal.end() == 3


def test_progress_of_a_detached_start_is_drawn_and_erased(ready: Place) -> None:
    with on_terminal(ready, "up", "-d") as terminal:
        assert terminal.end() == 0
        assert "Starting 2 instances" in terminal.text
        assert re.search(r"2 of 2 instances READY after .*\n$", terminal.text)


def test_a_log_that_is_followed_ends_with_ctrl_c(ready: Place) -> None:
    ready.ok("up", "-d", "-q")
    with on_terminal(ready, "logs", "-f") as terminal:
        terminal.wait_for("hello")
        terminal.type(CTRL_C)
        assert terminal.end() == 0


def test_a_terminal_that_hangs_up_stops_what_runs_in_it(ready: Place) -> None:
    with on_terminal(ready, "up") as terminal:
        until(lambda: ready.run("status").code == 0, "all is ready")
        closed, terminal.fd = terminal.fd, os.open("/dev/null", os.O_RDONLY)
        os.close(closed)
        until(lambda: not ready.pids(), "everything ended")
        terminal.process.wait(timeout=10)
