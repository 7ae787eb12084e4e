"""`up` in the background, and what concerns a real supervisor alone: a fake ollama stands in for the servers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_rig import Place, is_plain_error, until

NOT_RUNNING, NOT_FOUND, DEGRADED, REFUSED, TIMEOUT, INTERRUPTED = 3, 5, 6, 7, 8, 130


@pytest.fixture
def ready(place: Place) -> Place:
    """A place where `up` may start two fake servers; a third is disabled."""
    place.fake_ollama()
    place.config("a", "b", "off", a='env = { MY_API_TOKEN = "hunter2" }', off="enabled = false")
    return place


def test_the_life_of_a_supervisor(ready: Place) -> None:
    first = ready.ok("up", "-d")
    assert "a  ready at http://127.0.0.1:" in first.out
    assert "2 of 2 instances READY after" in first.out and "ollamux status" in first.out
    pid = ready.status()["supervisor"]["pid"]

    for words in (["up"], ["up", "-d"], ["up", "-d", "-q"]):
        again = ready.run(*words)
        assert again.code == REFUSED and is_plain_error(again.err), again
        assert "running already" in again.err and "ollamux down ends it" in again.err
    assert ready.run("up", "--ensure", "-q") == (0, "", "")
    assert ready.status()["supervisor"]["pid"] == pid

    refused = ready.run("sim", "crash")
    assert refused.code == REFUSED and "real" in refused.err and is_plain_error(refused.err)
    disabled = ready.run("start", "off")
    assert disabled.code == REFUSED and "enabled = true" in disabled.err
    bare = ready.run("restart")
    assert bare.code == 2 and "a, b, off" in bare.err and "--all" in bare.err

    shown = ready.ok("env", "a")
    assert "MY_API_TOKEN=***" in shown.out and "hunter2" not in shown.out and shown.err == ""
    assert "MY_API_TOKEN=hunter2\n" in ready.ok("env", "a", "--reveal").out

    assert ready.run("down", "-q") == (0, "", "")
    assert ready.run("down").code == NOT_RUNNING
    assert pid not in ready.pids()
    assert "a" in ready.ok("logs").out and "STOPPED" in ready.ok("events").out  # the record outlives the supervisor


def test_S8_hostile_lines_of_a_log_are_shown_and_not_obeyed(ready: Place) -> None:
    ready.ok("up", "-d", "-q")
    until(lambda: "hostile" in ready.run("logs", "a").out, "the line was logged")
    shown = ready.ok("logs", "a").out
    assert "\x1b" not in shown and "\r" not in shown and "\u202e" not in shown
    assert "\\x1b[31mred" in shown and "\\u202e" in shown


def test_ensure_starts_silently_and_remembers_the_file(ready: Place) -> None:
    elsewhere = (ready.work / "ollamux.toml").rename(ready.root / "moved.toml")
    assert ready.run("up", "--ensure", "-q", "--config", str(elsewhere)) == (0, "", "")
    ready.ok("down", "-q")
    assert ready.run("up", "--ensure", "-q") == (0, "", "")
    assert ready.status()["supervisor"]["config"] == str(elsewhere)


def test_of_ten_who_start_at_once_one_wins(ready: Place) -> None:
    starting = [ready.popen("up", "-d", "--no-wait") for _ in range(10)]
    ended = [(one.communicate(timeout=60), one.returncode) for one in starting]
    assert sorted(code for _, code in ended) == [0] + [REFUSED] * 9, ended
    assert not any("Traceback" in err for (_, err), _ in ended)
    supervisors = [command for command in ready.pids().values() if "ollamux.supervisor" in command]
    assert len(supervisors) == 1, supervisors


def test_of_five_who_make_sure_at_once_all_succeed(ready: Place) -> None:
    starting = [ready.popen("up", "--ensure", "-q") for _ in range(5)]
    assert [(one.communicate(timeout=60)[0], one.returncode) for one in starting] == [("", 0)] * 5


def _script(path: Path, kind: str) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind == "may not be executed":
        path.write_text("#!/bin/sh\n")
    elif kind == "interpreter":
        path.write_text("#!/nowhere/python\n")
        path.chmod(0o755)


@pytest.mark.parametrize("kind", ["does not exist", "a folder", "may not be executed", "interpreter"])
def test_C17_without_a_usable_ollama_nothing_starts(place: Place, kind: str) -> None:
    program = place.root / "bin" / "mine"
    _script(program, kind)
    place.config("a", a=f'ollama = "{program}"')
    for words in (["up"], ["up", "-d"]):
        result = place.run(*words)
        assert result.code == NOT_FOUND and is_plain_error(result.err), result
        assert str(program) in result.err and kind in result.err
    assert not place.pids()


def test_C17_ollama_that_is_not_on_the_path(place: Place) -> None:
    place.config("a", a='ollama = "no-such-ollama"')
    result = place.run("up", "-d")
    assert result.code == NOT_FOUND and "no-such-ollama was not found" in result.err


def test_a_slow_start_runs_out_of_time_but_goes_on(ready: Place) -> None:
    (ready.root / "slow").write_text('#!/bin/sh\nFAKE_DELAY=600 exec ollama "$@"\n')
    (ready.root / "slow").chmod(0o755)
    ready.config("a", "b", b=f'ollama = "{ready.root}/slow"')
    result = ready.run("up", "-d", "--timeout", "1s")
    assert result.code == TIMEOUT
    assert "b  still STARTING after 1 s" in result.err and "1 of 2 instances READY" in result.out
    status = ready.run("status")
    assert status.code == DEGRADED


def test_an_interrupt_while_waiting_says_that_the_supervisor_goes_on(ready: Place) -> None:
    (ready.root / "slow").write_text('#!/bin/sh\nFAKE_DELAY=600 exec ollama "$@"\n')
    (ready.root / "slow").chmod(0o755)
    ready.config("a", a=f'ollama = "{ready.root}/slow"')
    process = ready.popen("up", "-d")
    until(lambda: ready.run("status").code == DEGRADED, "the supervisor answers")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED
    assert "goes on" in err and "ollamux down" in err and "Traceback" not in err
    assert ready.status()["supervisor"] is not None


def test_in_the_foreground_without_a_terminal_it_prints_plain_lines(ready: Place) -> None:
    process = ready.popen("up")
    until(lambda: ready.run("status").code == 0, "all is ready")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "STARTING → READY" in out and "STOPPED" in out and "\x1b" not in out
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["up"], ["up", "-d"], ["status"], ["up", "--simulate", "1", "-d"]], ids=" ".join)
def test_an_interrupt_at_any_moment_leaves_no_traceback(ready: Place, words: list[str]) -> None:
    for delay_ms in range(60, 420, 120):
        process = ready.popen(*words, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delay_ms / 1000)  # how far it is by then is what is varied
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        # The interpreter's own start cannot be guarded; the first line of ours can.
        assert not re.search(r'File ".*/ollamux/(cli|supervisor|config|system|simulation)/', err), (delay_ms, err)
        flag = ["--simulated"] if "--simulate" in words else []
        deadline = time.monotonic() + 20
        while any("ollamux.supervisor" in command for command in ready.pids().values()):
            ready.run("down", "--now", *flag)
            assert time.monotonic() < deadline


def test_a_bare_environment_as_under_cron(ready: Place) -> None:
    bare = dict.fromkeys(("HOME", "LC_ALL", "TERM"))
    ready.ok("up", "--ensure", "-q", "--config", str(ready.work / "ollamux.toml"), env=bare)
    shown = ready.ok("status", env=bare)
    assert shown.out.isascii()
    assert ready.run("restart", "--if-unhealthy", "-q", env=bare) == (0, "", "")
    assert ready.run("restart", "--all", "-q", env=bare) == (0, "", "")
    assert ready.ok("restart", "--if-unhealthy").out == "nothing to restart\n"


def test_a_simulation_beside_the_real_thing_is_named_in_a_hint(ready: Place) -> None:
    ready.simulate(1, "-q")
    result = ready.run("down")
    assert result.code == NOT_RUNNING and "--simulated" in result.err
    status = ready.run("status")
    assert status.code == NOT_RUNNING and "--simulated" in status.err and "SIMULATED" not in status.out
    assert "--simulated" in ready.run("logs").err
    assert "SIMULATED" in ready.ok("status", "--simulated").out
    ready.ok("up", "-d", "-q")
    assert ready.status()["simulated"] is False
    assert ready.status("--simulated")["simulated"] is True
    ready.ok("sim", "clear")  # faults are for the simulation, whatever else runs
    ready.ok("down", "--simulated", "-q")
    assert ready.status()["supervisor"] is not None
