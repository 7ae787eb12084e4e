"""The supervisor may be killed: the instances go on serving, and the next one takes them over."""

from __future__ import annotations

import http.client
import json
import os
import signal
from datetime import datetime

import pytest

from ollamux.system.clock import wall

from .box import QUICK, Box, answers, generate, proc_state, until

pytestmark = pytest.mark.real_ollama

LONG = 8000
"""Tokens of a stream that lasts for seconds, so that it is under way when the supervisor is gone."""


def test_a_stream_goes_on_and_the_instances_are_adopted(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    generate(box.ports["a"])
    before = {one["name"]: (one["pid"], one["generation"]) for one in box.status()["instances"]}
    supervisor = box.status()["supervisor"]["pid"]
    runner = box.await_runner("a")

    connection = http.client.HTTPConnection("127.0.0.1", box.ports["a"], timeout=60)
    body = {"model": "tiny", "prompt": "hello", "options": {"num_predict": LONG}}
    connection.request("POST", "/api/generate", json.dumps(body))
    with connection.getresponse() as stream:
        first = json.loads(stream.readline())
        assert first["response"] and not first["done"]
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: proc_state(supervisor) is None, "the supervisor is gone")
        gone_at = wall()
        lines = [json.loads(line) for line in stream]
    connection.close()
    last = lines[-1]
    assert last["done"] and last["done_reason"] == "length" and last["eval_count"] == LONG, last
    assert datetime.fromisoformat(last["created_at"]).timestamp() > gone_at

    gone = box.run("status", "-o", "json", "--config", str(box.config))
    assert gone.returncode == 3 and json.loads(gone.stdout)["supervisor"] is None
    assert answers(box.ports["a"]) and answers(box.ports["b"])

    box.up()
    status = box.status()
    assert status["supervisor"]["pid"] != supervisor
    for one in status["instances"]:
        assert (one["pid"], one["generation"]) == before[one["name"]]
        assert (one["phase"], one["adopted"], one["pinning"]) == ("READY", True, "cpu")
        assert one["ollama_version"] == box.ollama.version
    assert box.runners("a") == [runner]
    assert generate(box.ports["a"])["response"]

    box.ok("restart", "a")
    after = box.instance("a")
    assert after["phase"] == "READY" and not after["adopted"]
    assert after["pid"] != before["a"][0] and after["generation"] == before["a"][1] + 1
    assert proc_state(before["a"][0]) is None and proc_state(runner) is None
    assert box.instance("b")["pid"] == before["b"][0] and box.instance("b")["adopted"]
    assert generate(box.ports["a"])["response"]

    box.ok("down")
    assert box.processes() == []


def test_an_adopted_instance_that_is_killed_comes_back(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK)
    box.up()
    generate(box.ports["a"])
    runner = box.await_runner("a")
    os.kill(box.status()["supervisor"]["pid"], signal.SIGKILL)
    box.up()
    before = box.instance("a")
    assert before["adopted"]
    os.kill(before["pid"], signal.SIGKILL)
    after = box.await_instance("a", "READY", gen=before["generation"] + 1)
    assert not after["adopted"] and after["pid"] != before["pid"]
    assert proc_state(runner) is None
    assert generate(box.ports["a"])["response"]


def test_what_died_with_the_supervisor_is_started_again(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    generate(box.ports["a"])
    runner, before, other = box.await_runner("a"), box.instance("a"), box.instance("b")
    os.kill(box.status()["supervisor"]["pid"], signal.SIGKILL)
    os.kill(before["pid"], signal.SIGKILL)
    box.up()
    after = box.instance("a")
    assert after["phase"] == "READY" and after["generation"] > before["generation"] and not after["adopted"]
    assert proc_state(runner) is None  # it kept its memory, and nobody else would have ended it
    assert box.instance("b")["pid"] == other["pid"] and box.instance("b")["adopted"]


def test_on_death_stop_leaves_nothing(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK, supervisor={"on_death": "stop"})
    box.up()
    generate(box.ports["a"])
    os.kill(box.status()["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: not box.processes(), "server and runner end with the supervisor", shown=lambda: str(box.processes()))
