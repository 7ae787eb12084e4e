"""The canary does a real server no harm, and finds a runner that hangs behind an API that answers."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from datetime import datetime
from typing import Any

import pytest

from .box import QUICK, Box, generate, proc_state, until

pytestmark = pytest.mark.real_ollama

CANARY = {"models": ["tiny"], "interval": "500ms", "timeout": "20s", "per_hour": 3600}
ASKED = re.compile(r'\| 200 \|.*POST +"/api/generate\?ollamux=canary"')
KEPT = {"keep_alive": -1}
NO_KILL = {"unhealthy_timeout": "1m"}


def asked(box: Box) -> int:
    """Return how often the server has answered the canary."""
    return len(ASKED.findall(box.log("a")))


def expiry(box: Box) -> float:
    return datetime.fromisoformat(box.ps("a")[0]["expires_at"]).timestamp()


CLIENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pinned": KEPT,
    "for a while": {"keep_alive": "10m"},
    "a context of its own": {"options": {"num_ctx": 1024}, **KEPT},
    "the trained context": {"options": {"num_ctx": 4096}, **KEPT},
    "layers": {"options": {"num_gpu": 0}, **KEPT},
}


@pytest.mark.parametrize("how", CLIENTS)
@pytest.mark.parametrize("context_length", [1536, 8192], ids=["below", "above"])
def test_it_changes_nothing_about_what_is_loaded(box: Box, model: str, how: str, context_length: int) -> None:
    client = CLIENTS[how]
    box.configure({"a": {}}, health=QUICK, canary=CANARY, context_length=context_length, num_parallel=2)
    box.up()
    generate(box.ports["a"], **client)
    runner, before, ends = box.await_runner("a"), box.ps("a")[0], expiry(box)

    if how == "the trained context" and context_length > 4096 and not box.ollama.has_llama_server:
        # Such a server does not show whether a context was cut; it is asked once, and then left alone.
        box.await_reason("a", "alone from now on: ollama loaded it anew")
        return
    wanted = 3 if client.get("keep_alive") == -1 else 1
    until(lambda: asked(box) >= wanted, f"it was asked {wanted} times", shown=box.told)
    until(lambda: (box.instance("a")["canary"] or {}).get("ok"), "and has answered", shown=box.told)

    after = box.ps("a")[0]
    assert box.runners("a") == [runner], box.told()
    assert after["context_length"] == before["context_length"]
    assert (after["name"], after["digest"], after["size"]) == (before["name"], before["digest"], before["size"])
    assert expiry(box) >= ends - 1.0, "a canary shortens no model's time"
    generate(box.ports["a"], **{key: value for key, value in client.items() if key != "keep_alive"})
    assert box.runners("a") == [runner], "nor do clients find it changed"
    assert expiry(box) >= ends - 1.0, "and what they asked for holds"
    assert not any("alone from now on" in reason for reason in box.reasons("a"))
    assert box.steps("a") == ["STARTING", "READY"]


@pytest.mark.parametrize("option", ["num_thread", "num_batch"])
def test_options_of_a_runner_are_seen_or_it_is_left_alone(box: Box, model: str, option: str) -> None:
    options = {"options": {option: {"num_thread": 2, "num_batch": 64}[option]}}
    box.configure({"a": {}}, health=QUICK, canary=CANARY, context_length=2048)
    box.up()
    generate(box.ports["a"], **options, **KEPT)
    runner = box.await_runner("a")
    if box.ollama.has_llama_server:
        until(lambda: asked(box) >= 3, "it was asked three times", shown=box.told)
        assert box.runners("a") == [runner], box.told()
        generate(box.ports["a"], **options)
        assert box.runners("a") == [runner]
    else:
        box.await_reason("a", "alone from now on: ollama loaded it anew")
        count = asked(box)
        generate(box.ports["a"], **options, **KEPT)
        box.status()
        assert asked(box) == count == 1


def test_an_idle_model_is_unloaded_in_spite_of_it(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK, canary=CANARY, keep_alive="20s")
    box.up()
    generate(box.ports["a"])
    until(lambda: asked(box) == 1, "it was asked", shown=box.told)

    until(lambda: not box.ps("a"), "it is unloaded", 60.0, shown=box.told)

    assert asked(box) == 1
    assert box.runners("a") == []


def test_a_frozen_runner_is_found_and_ended_alone(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK | NO_KILL, canary=CANARY | {"timeout": "2s", "failures": 2})
    box.up()
    generate(box.ports["a"], **KEPT)
    until(lambda: asked(box) >= 1, "it was asked", shown=box.told)
    pid, runner = box.instance("a")["pid"], box.await_runner("a")

    os.kill(runner, signal.SIGSTOP)

    box.await_reason("a", "the canary got no token from tiny:latest in 2 s, 2 times in a row", 60.0)
    until(lambda: proc_state(runner) is None, "the runner is ended", shown=box.told)
    box.await_instance("a", "READY", pid=pid)
    assert generate(box.ports["a"], **KEPT)["response"]
    assert box.await_runner("a") != runner
    box.await_reason("a", "the canary got a token from tiny:latest again")
    assert box.instance("a")["generation"] == 1


def test_a_runner_that_freezes_over_a_request_is_found_where_ps_shows_nothing(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK | NO_KILL, canary=CANARY | {"timeout": "2s", "failures": 2})
    box.up()
    generate(box.ports["a"], **KEPT)
    until(lambda: asked(box) >= 1, "it was asked", shown=box.told)
    runner = box.await_runner("a")
    connection = http.client.HTTPConnection("127.0.0.1", box.ports["a"], timeout=90)
    body = {"model": "tiny", "prompt": "hello", "options": {"num_predict": 50_000}}
    connection.request("POST", "/api/generate", json.dumps(body))
    with connection.getresponse() as stream:
        assert json.loads(stream.readline())["response"]
        os.kill(runner, signal.SIGSTOP)

        box.await_reason("a", "the canary got no token from tiny:latest in 2 s, 2 times in a row", 60.0)

        assert "error" in json.loads(stream.readlines()[-1]), "the request is answered at last"
    connection.close()
    until(lambda: proc_state(runner) is None, "the runner is ended", shown=box.told)
    assert generate(box.ports["a"])["response"]
    box.await_instance("a", "READY")
    assert box.instance("a")["generation"] == 1
