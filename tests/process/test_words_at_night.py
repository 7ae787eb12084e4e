"""What a person is told who interrupts a command that waits, or finds no supervisor where servers go on."""

from __future__ import annotations

import signal
import subprocess

import pytest
from process_box import COMMAND, Box, Process, wait_for


def begun(box: Box, *words: str) -> Process:
    """Start a command that waits."""
    return Process([COMMAND, *words], env=box.env, cwd=box.root, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL)


def interrupted(command: Process) -> str:
    command.send_signal(signal.SIGINT)
    out, told = command.communicate(timeout=20)
    assert (command.returncode, b"ready at" in out) == (130, False)
    return told.decode()


@pytest.mark.parametrize("words", ["stop a", "restart a", "restart --rolling a b", "reload"])
def test_who_interrupts_a_command_that_waits_is_told_what_goes_on(box: Box, words: str) -> None:
    box.config("a", "b", restart={"stop_timeout": "30s"})
    box.set("a", "ignore-term")
    box.up()
    if words == "reload":
        box.config("a", "b", instances={"a": {"num_parallel": 3}, "b": {}}, restart={"stop_timeout": "30s"})
    command = begun(box, *words.split())
    box.wait_phase("a", "STOPPING")

    told = interrupted(command)

    assert told.strip().startswith("interrupted; ")
    assert ("those after it are left as they are" in told) == ("--rolling" in words)
    assert "goes on" in told
    assert "ollamux status shows how far it is" in told
    assert box.instance("a")["phase"] == "STOPPING"
    assert box.ask("down", hurry=True)["exit"] == 0


def test_who_interrupts_down_is_told_that_it_goes_on(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "2s"})
    box.set("a", "ignore-term")
    supervisor = box.up()
    command = begun(box, "down")
    box.wait_phase("a", "STOPPING")

    assert "the supervisor goes on stopping" in interrupted(command)

    assert supervisor.wait() == 0


def test_R22_without_a_supervisor_what_it_left_is_named_with_the_way_to_end_it(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up()
    pid = box.instance("a")["pid"]
    box.ask("stop", names=["b"])
    supervisor.kill()

    for words in (("down",), ("stop", "a"), ("status",)):
        done = box.ollamux(*words)
        assert done.returncode == 3
        assert f"what an earlier one started goes on: a (pid {pid})" in done.stderr
        assert "ollamux up -d takes it over; after that ollamux down ends it" in done.stderr

    box.up_detached()
    assert box.ollamux("down").returncode == 0
    again = box.ollamux("down")
    wait_for(lambda: not box.family("a"))
    assert (again.returncode, "goes on" in again.stderr) == (3, False)
