"""What is loaded when: ps, keep-alive, eviction, reload, the queue; and runners that freeze or die."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from simulation_rig import NEW, OLD, VERSIONS, Rig, Served, until


def left_s(model: dict[str, Any]) -> float:
    moment = datetime.fromisoformat(model["expires_at"][:19] + "+00:00")
    return (moment - datetime.now(UTC)).total_seconds()


class Stream:
    """A generation that is read piece by piece."""

    def __init__(self, served: Served, model: str, **options: Any) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        row = {"model": model, "prompt": "the people", "options": options}
        self.connection.request("POST", "/api/generate", json.dumps(row))
        self.response = self.connection.getresponse()

    def line(self) -> Any:
        text = self.response.readline()
        return json.loads(text) if text else None

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def slow(rig: Rig, version: str = NEW, **env: str) -> Served:
    """Start a server on which generating takes long enough to look at it."""
    return rig.cpu(version, OLLAMUX_SIMULATION_TOKENS_PER_SECOND="8", **env)


def in_background(work: Any) -> list[Any]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except (OSError, http.client.HTTPException):
            return  # the server is ended while it waits

    threading.Thread(target=run, daemon=True).start()
    return results


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_is_not_listed_while_it_loads(rig: Rig, version: str) -> None:
    served = rig.cpu(version, OLLAMUX_SIMULATION_SPEED="0.3")
    results = in_background(lambda: served.generate("tiny"))
    until(served.runners, "a runner starts")
    while not results:
        seen = served.ps()
        assert results or seen == [] or until(lambda: results, "the load was over")
    assert len(served.ps()) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_expiry(rig: Rig, version: str) -> None:
    served = rig.cpu(version, OLLAMA_KEEP_ALIVE="100")
    served.generate("tiny")
    assert 97 < left_s(served.ps()[0]) <= 100
    served.generate("tiny", keep_alive=-1)
    assert served.ps()[0]["expires_at"].startswith(str(datetime.now(UTC).year + 292)[:3])
    served.generate("tiny", prompt="x")
    assert left_s(served.ps()[0]) > 1e9, "a plain request keeps a pin"
    served.generate("tiny", keep_alive="30s")
    assert 27 < left_s(served.ps()[0]) <= 30
    (pid,) = served.runners()
    assert served.generate("tiny", keep_alive=0).json["done_reason"] == "unload"
    until(lambda: served.ps() == [] and pid not in served.runners(), "the model is unloaded")


def test_keep_alive_zero_unloads_after_each_request(rig: Rig) -> None:
    served = rig.cpu(OLLAMA_KEEP_ALIVE="0")
    assert served.generate("tiny", prompt="x").status == 200
    until(lambda: not served.ps() and not served.runners(), "the runner is gone")


def test_a_busy_model_shows_a_moving_and_then_a_past_expiry(rig: Rig) -> None:
    served = slow(rig, OLLAMA_KEEP_ALIVE="1s")
    stream = Stream(served, "tiny")
    assert stream.line()
    assert left_s(served.ps()[0]) <= 1
    stream.close()
    until(lambda: not served.ps(), "it expires after the client hung up")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pinned_idle_model_is_evicted_when_the_limit_is_reached(rig: Rig, version: str) -> None:
    served = rig.cpu(version, OLLAMA_MAX_LOADED_MODELS="1")
    served.generate("tiny", keep_alive=-1)
    served.generate("tiny2")
    assert [model["name"] for model in served.ps()] == ["tiny2:latest"]
    assert len(served.runners()) == 1


@pytest.mark.parametrize(
    ("options", "reloads"),
    [({"num_ctx": 1024}, True), ({"num_thread": 1}, True), ({"temperature": 0.1}, False), ({"num_ctx": 9999}, False)],
)
def test_other_options_reload(rig: Rig, options: dict[str, Any], reloads: bool) -> None:
    served = rig.cpu()
    served.generate("tiny")
    before = served.runners()
    served.generate("tiny", options=options)
    assert (served.runners() != before) is reloads
    assert len(served.runners()) == 1


def test_slots_allocate_context_and_ps_shows_one_share(rig: Rig) -> None:
    served = rig.cpu(OLLAMA_NUM_PARALLEL="3", OLLAMA_CONTEXT_LENGTH="1024")
    served.generate("tiny")
    assert "-c 3072 -np 3 " in served.stderr
    assert served.ps()[0]["context_length"] == 1024


def test_a_client_that_hangs_up_ends_the_load(rig: Rig) -> None:
    served = rig.cpu(OLLAMUX_SIMULATION_SPEED="0.05")
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        body = b'{"model":"tiny"}'
        sock.sendall(
            b"POST /api/generate HTTP/1.1\r\nHost: x.local\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        until(served.runners, "the load begins")
    until(lambda: "| 499 |" in served.stdout, "the access line says 499")
    assert "aborting load" in served.stderr
    until(lambda: not served.runners(), "its runner is ended")


def test_the_queue_overflows_while_a_load_takes_long(rig: Rig) -> None:
    served = rig.cpu(OLLAMUX_SIMULATION_SPEED="0.05", OLLAMA_MAX_QUEUE="1")
    first = in_background(lambda: served.generate("tiny"))
    until(served.runners, "the load begins")
    second = in_background(lambda: served.generate("tiny2"))
    results: list[int] = []

    def full() -> bool:
        try:
            results.append(served.ask("POST", "/api/generate", {"model": "tiny2"}, timeout=0.3).status)
        except TimeoutError:
            return bool(second)
        return results[-1] == 503

    # Whichever of the two comes second finds the one place taken.
    until(full, "the queue is full")
    assert not first
    assert results[-1:] == [503] or second[0].status == 503


@pytest.mark.parametrize("version", VERSIONS)
def test_a_killed_runner_stays_listed_until_the_next_request_heals_it(rig: Rig, version: str) -> None:
    served = rig.cpu(version)
    served.generate("tiny")
    (pid,) = served.runners()
    os.kill(pid, signal.SIGKILL)
    until(lambda: not served.runners(), "the runner is gone")
    assert len(served.ps()) == 1
    assert served.generate("tiny", prompt="x").status == 200
    assert len(served.runners()) == 1
    name = "llama-server" if version == NEW else "llama runner"
    assert served.stderr.count(f'msg="{name} process no longer running" sys=9 string="signal: killed"') == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_a_runner_killed_in_mid_stream_ends_the_stream_with_the_recorded_line(rig: Rig, version: str) -> None:
    served = slow(rig, version)
    stream = Stream(served, "tiny")
    assert stream.line()
    os.kill(served.runners()[0], signal.SIGKILL)
    lines = until(lambda: [line for line in iter(stream.line, None) if "error" in line], "the last line")
    assert lines == [{"error": "an error was encountered while running the model: unexpected EOF"}]
    stream.close()


def test_a_frozen_busy_runner_blocks_its_model_until_it_is_killed(rig: Rig) -> None:
    served = slow(rig)
    stream = Stream(served, "tiny")
    assert stream.line()
    (pid,) = served.runners()
    os.kill(pid, signal.SIGSTOP)
    waiting = in_background(lambda: served.generate("tiny"))
    time.sleep(0.3)
    assert served.answers() and not waiting
    with pytest.raises(TimeoutError):
        served.ask("GET", "/api/ps", timeout=0.5)
    os.kill(pid, signal.SIGKILL)
    until(lambda: waiting, "the next request is served by a new runner")
    assert waiting[0].status == 200
    stream.close()


def test_ps_of_the_older_version_never_waits(rig: Rig) -> None:
    served = rig.cpu(OLD)
    served.generate("tiny")
    (pid,) = served.runners()
    os.kill(pid, signal.SIGSTOP)
    waiting = in_background(lambda: served.generate("tiny"))
    time.sleep(0.3)
    assert len(served.ask("GET", "/api/ps", timeout=0.5).json["models"]) == 1 and not waiting
    assert served.end() == 0
    assert not served.runners()


def test_a_load_that_stalls_times_out(rig: Rig) -> None:
    served = rig.cpu(OLLAMUX_SIMULATION_SPEED="0.05", OLLAMA_LOAD_TIMEOUT="300ms")
    answer = served.generate("tiny")
    assert (answer.status, answer.json["error"]) == (500, "timed out waiting for llama-server to start - ")
    assert not served.runners()


def test_a_model_that_is_deleted_while_it_is_loaded_stays_in_ps(rig: Rig) -> None:
    served = rig.cpu()
    served.generate("tiny")
    before = served.ps()
    assert served.ask("DELETE", "/api/delete", {"model": "tiny"}).status == 200
    assert served.ps() == before
    assert served.generate("tiny").status == 404
