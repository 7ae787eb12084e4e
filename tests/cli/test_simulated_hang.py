"""The canary, rehearsed: a simulated runner that hangs below an API that answers is found and ended alone."""

from __future__ import annotations

import json
import urllib.request

from cli_rig import Place, until

CANARY = """
[defaults.health]
interval = "200ms"

[defaults.canary]
models = ["llama3.2:3b"]
interval = "1s"
timeout = "5s"
per_hour = 3600
"""


def generate(url: str) -> int:
    body = json.dumps({"model": "llama3.2:3b", "prompt": "hi", "stream": False, "keep_alive": -1}).encode()
    with urllib.request.urlopen(f"{url}/api/generate", body, timeout=30) as answer:
        return int(answer.status)


def test_a_hung_runner_is_found_by_the_canary_alone_and_ended_alone(place: Place) -> None:
    config = place.config("gpu0", extra=CANARY)
    place.simulate(1, "-q", "--config", str(config))

    def instance() -> dict[str, object]:
        return dict(place.status("--simulated")["instances"][0])

    def told() -> str:
        return place.ok("events", "--simulated", "-n", "1000").out

    url = str(instance()["url"])
    assert generate(url) == 200
    until(lambda: (instance()["canary"] or {"ok": None})["ok"], "it was asked and has answered", 120)  # type: ignore[index]
    before = instance()

    place.ok("sim", "hang-runner", "gpu0")

    until(lambda: "the canary got no token from llama3.2:3b in 5 s, 2 times in a row" in told(), "it is found", 120)
    until(lambda: instance()["phase"] == "READY", "and mended", 120)
    assert generate(url) == 200
    until(lambda: "the canary got a token from llama3.2:3b again" in told(), "it is asked again", 120)
    after = instance()
    assert (after["pid"], after["generation"]) == (before["pid"], before["generation"])
    assert "the scheduler does not answer" not in told() and "the API does not answer" not in told()
