"""Whatever is killed, stopped or ended comes back as configured, and only that."""

from __future__ import annotations

import os
import signal

import pytest

from .box import QUICK, UNCHECKED, Box, answers, generate, proc_state, until

pytestmark = pytest.mark.real_ollama


def test_a_killed_server_comes_back_without_its_orphans(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    generate(box.ports["a"])
    generate(box.ports["b"])
    before, other = box.instance("a"), box.instance("b")
    runner, others_runner = box.await_runner("a"), box.await_runner("b")
    os.kill(before["pid"], signal.SIGKILL)
    after = box.await_instance("a", "READY", gen=before["generation"] + 1)
    assert proc_state(before["pid"]) is None and proc_state(runner) is None
    assert after["pid"] != before["pid"] and after["generation"] == before["generation"] + 1
    assert after["restarts"] == 1 and after["exit"]["signal"] == "SIGKILL"
    untouched = box.instance("b")
    assert (untouched["pid"], untouched["generation"]) == (other["pid"], other["generation"])
    assert box.runners("b") == [others_runner]
    steps = box.steps("a")
    assert steps.count("READY") == 2 and "SWEEPING" in steps[steps.index("READY") :]
    box.await_reason("a", "SIGKILL")
    assert generate(box.ports["a"])["response"]
    assert generate(box.ports["b"])["response"]


def test_a_server_killed_again_and_again_comes_back(box: Box) -> None:
    box.configure({"a": {}}, health=QUICK, restart={"base": "50ms", "cap": "200ms"})
    box.up()
    pids = set()
    for times in range(1, 5):
        found = box.await_instance("a", "READY", gen=times)
        pids.add(found["pid"])
        os.kill(found["pid"], signal.SIGKILL)
    last = box.await_instance("a", "READY", gen=5)
    assert last["pid"] not in pids and last["restarts"] == 4
    assert len(box.processes()) >= 2  # the supervisor and one server …
    assert [pid for pid in pids if proc_state(pid)] == []  # … and none of the old ones


def test_a_killed_runner_is_told_and_the_next_request_heals_it(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK)
    box.up()
    generate(box.ports["a"])
    before = box.instance("a")
    until(lambda: box.status()["models"], "the model is shown", shown=box.told)
    runner = box.await_runner("a")
    os.kill(runner, signal.SIGKILL)
    assert "tiny" in box.await_reason("a", "is gone")
    assert box.instance("a")["phase"] == "READY"
    assert generate(box.ports["a"])["response"]
    assert box.await_runner("a") != runner
    after = box.instance("a")
    assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    assert sum("is gone" in reason for reason in box.reasons("a")) == 1


def test_a_server_that_hangs_is_noticed_and_restarted(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK, restart={"stop_timeout": "2s"})
    box.up()
    generate(box.ports["a"])
    before, other, runner = box.instance("a"), box.instance("b"), box.await_runner("a")
    os.kill(before["pid"], signal.SIGSTOP)
    after = box.await_instance("a", "READY", gen=before["generation"] + 1)
    assert "UNHEALTHY" in box.steps("a")
    assert after["pid"] != before["pid"]
    assert proc_state(before["pid"]) is None and proc_state(runner) is None
    assert [pid for pid in box.processes() if proc_state(pid) in ("T", "t")] == []
    assert generate(box.ports["a"])["response"]
    assert box.instance("b")["pid"] == other["pid"]


def test_a_server_that_hangs_for_a_moment_is_left_alone(box: Box) -> None:
    box.configure({"a": {}}, health={**QUICK, "unhealthy_timeout": "1m"})
    box.up()
    pid = box.instance("a")["pid"]
    os.kill(pid, signal.SIGSTOP)
    told = box.await_instance("a", "UNHEALTHY")
    assert told["health"] == "failing" and "does not answer" in told["reason"]
    assert box.run("status").returncode == 6
    os.kill(pid, signal.SIGCONT)
    assert box.await_instance("a", "READY")["pid"] == pid


def test_an_end_from_outside_is_undone_by_policy_always(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK)
    box.up()
    generate(box.ports["a"])
    before, runner = box.instance("a"), box.await_runner("a")
    os.kill(before["pid"], signal.SIGTERM)
    after = box.await_instance("a", "READY", gen=before["generation"] + 1)
    assert after["pid"] != before["pid"] and after["exit"]["code"] == 0
    assert proc_state(runner) is None
    assert answers(box.ports["a"])


def test_an_end_from_outside_holds_under_policy_on_failure(box: Box) -> None:
    box.configure({"a": {}, "b": {}}, health=UNCHECKED, restart={"policy": "on-failure"})
    box.up()
    before, other = box.instance("a"), box.instance("b")
    os.kill(before["pid"], signal.SIGTERM)
    after = box.await_instance("a", "FAILED")
    assert after["exit"]["code"] == 0 and "on-failure" in after["reason"]
    assert after["generation"] == before["generation"] and after["pid"] is None
    assert box.run("status").returncode == 6
    assert not answers(box.ports["a"])
    # A failure is another matter …
    os.kill(other["pid"], signal.SIGKILL)
    box.await_instance("b", "READY", gen=other["generation"] + 1)
    # … and a person may start it again.
    box.ok("start", "a")
    assert box.await_instance("a", "READY", gen=before["generation"] + 1)["pid"] != before["pid"]
    assert box.run("status").returncode == 0
