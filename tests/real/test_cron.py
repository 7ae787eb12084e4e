"""What cron does every few minutes, from an environment that holds nothing of a login."""

from __future__ import annotations

import os
import signal

import pytest

from .box import QUICK, UNCHECKED, Box, answers

pytestmark = pytest.mark.real_ollama

WORDS = ("restart", "--if-unhealthy", "-q")


def test_nothing_is_touched_while_all_is_well(box: Box) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    before = {one["name"]: (one["pid"], one["generation"]) for one in box.status()["instances"]}
    told = box.events()
    done = box.cron(*WORDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {one["name"]: (one["pid"], one["generation"]) for one in box.status()["instances"]} == before
    assert box.events() == told


def test_a_failed_instance_is_restarted(box: Box) -> None:
    box.configure({"a": {}, "b": {}}, health=UNCHECKED, restart={"policy": "on-failure"})
    box.up()
    other = box.instance("b")
    os.kill(box.instance("a")["pid"], signal.SIGTERM)
    box.await_instance("a", "FAILED")
    done = box.cron(*WORDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert box.instance("a")["phase"] == "READY" and answers(box.ports["a"])
    assert box.instance("b")["pid"] == other["pid"]


def test_an_instance_that_hangs_is_restarted(box: Box) -> None:
    box.configure({"a": {}, "b": {}}, health={**QUICK, "unhealthy_timeout": "1h"}, restart={"stop_timeout": "2s"})
    box.up()
    before, other = box.instance("a"), box.instance("b")
    os.kill(before["pid"], signal.SIGSTOP)
    box.await_instance("a", "UNHEALTHY")
    done = box.cron(*WORDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    after = box.instance("a")
    assert after["phase"] == "READY" and after["pid"] != before["pid"]
    assert box.instance("b")["pid"] == other["pid"]


def test_what_is_stopped_on_purpose_stays_stopped(box: Box) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    box.ok("stop", "a")
    done = box.cron(*WORDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert box.instance("a")["phase"] == "STOPPED"
    assert not answers(box.ports["a"])


def test_the_supervisor_is_made_sure_of(box: Box) -> None:
    # cron's PATH does not lead to a program in a folder of its own, so the configuration names it.
    box.configure({"a": {"ollama": str(box.ollama.path)}}, health=QUICK)
    box.up()
    pid = box.instance("a")["pid"]
    there = box.cron("up", "--ensure", "-q")
    assert (there.returncode, there.stdout, there.stderr) == (0, "", "")
    assert box.instance("a")["pid"] == pid
    os.kill(box.status()["supervisor"]["pid"], signal.SIGKILL)
    again = box.cron("up", "--ensure", "-q")
    assert again.returncode == 0, again.stderr
    assert again.stdout == ""
    assert box.instance("a")["pid"] == pid and box.instance("a")["adopted"]
