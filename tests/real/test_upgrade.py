"""The supervisor is replaced again and again, and killed, while real servers generate: no request notices."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading

import pytest

from ollamux import __version__

from .box import QUICK, Box, generate, until

pytestmark = pytest.mark.real_ollama

PIECES = 400


class Streams:
    """One client for each port, that streams generations without a pause and records what did not end well."""

    def __init__(self, ports: list[int]) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._stream, args=(port,)) for port in ports]
        for thread in self._threads:
            thread.start()

    def more(self, count: int = 2) -> None:
        """Wait until so many more generations have ended."""
        wanted = self.done + count
        until(lambda: self.done >= wanted or self.failed, "generations end", 60.0)

    def end(self) -> None:
        """End once what is under way has ended."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _stream(self, port: int) -> None:
        body = json.dumps({"model": "tiny", "prompt": "hello", "options": {"num_predict": PIECES}})
        while not self._over.is_set():
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", "/api/generate", body)
                answer = connection.getresponse()
                lines = answer.read().splitlines()
                connection.close()
                last = json.loads(lines[-1])
            except (OSError, http.client.HTTPException, ValueError, IndexError) as error:
                self.failed.append(f"{port}: {type(error).__name__} {error}")
                return
            if answer.status != 200 or not last["done"] or last.get("eval_count") != PIECES:
                self.failed.append(f"{port}: {answer.status} {last}")
                return
            self.done += 1


@pytest.mark.timeout(600)  # five exchanges under load, on a machine that may be busy besides
def test_no_generation_notices_upgrades_or_the_death_of_the_supervisor(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}})  # at the default checks: clients that never pause may well slow an answer down
    box.up()
    for name in ("a", "b"):
        generate(box.ports[name])
    supervisor = box.status()["supervisor"]["pid"]
    before = {one["name"]: (one["pid"], one["generation"]) for one in box.status()["instances"]}
    runners = {name: box.await_runner(name) for name in ("a", "b")}

    streams = Streams([box.ports["a"], box.ports["b"]])
    try:
        streams.more()
        for _ in range(5):
            told = box.ok("upgrade")
            assert told == f"supervisor {__version__} -> {__version__}, pid {supervisor}, 2 instances untouched\n"
            assert not any(one["adopted"] for one in box.status()["instances"])
            streams.more()
        os.kill(supervisor, signal.SIGKILL)
        streams.more()
        box.up()
        streams.more()
        box.ok("upgrade")
        streams.more()
    finally:
        streams.end()

    after = {one["name"]: (one["pid"], one["generation"]) for one in box.status()["instances"]}
    print(f"pids and generations before {before}, after {after}; runners {runners}; {streams.done} generations")
    assert streams.failed == [], box.told()
    assert after == before
    assert {name: box.await_runner(name) for name in ("a", "b")} == runners
    assert [one["phase"] for one in box.status()["instances"]] == ["READY", "READY"]


def test_a_real_server_that_crashes_after_an_upgrade_is_swept_and_started_again(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK)
    box.up()
    generate(box.ports["a"])
    runner, before = box.await_runner("a"), box.instance("a")
    box.ok("upgrade")

    os.kill(before["pid"], signal.SIGKILL)

    after = box.await_instance("a", "READY", gen=before["generation"] + 1)
    assert after["exit"]["signal"] == "SIGKILL"
    assert runner not in box.processes()
    assert generate(box.ports["a"])["response"]
