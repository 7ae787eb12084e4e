"""A bench against real servers: what is loaded is measured as it is, what was not is let go, the counts are true."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from .box import OLLAMUX, QUICK, Box, ask, generate, until

pytestmark = pytest.mark.real_ollama
WORDS = ("-o", "json", "--prompt-tokens", "64", "--tokens", "16", "--repeat", "2")


def loaded(box: Box, name: str) -> dict[str, tuple[int, bool]]:
    return {row["name"]: (row["context_length"], row["expires_at"] > "2200") for row in box.ps(name)}


def bench(box: Box, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(box.ok("bench", *words, *WORDS))
    return found


@pytest.mark.timeout(300)
def test_what_is_loaded_is_measured_as_it_is_and_what_was_not_is_let_go(box: Box, model: str) -> None:
    pinned = {"preload": [{"name": "tiny", "num_ctx": 1024, "options": {"num_batch": 256}}], "num_parallel": 2}
    box.configure({"a": pinned, "b": {}}, health=QUICK, context_length=512)
    box.up()
    until(lambda: loaded(box, "a") == {"tiny:latest": (1024, True)}, "it is kept", shown=box.told)
    runner = box.await_runner("a")

    run = bench(box, "tiny", "-i", "a,b", "-c", "1,2,4")

    assert box.runners("a") == [runner] and loaded(box, "a") == {"tiny:latest": (1024, True)}
    until(lambda: not box.runners("b"), "b let it go")
    a, b = run["instances"]
    assert (a["slots"], a["context_length"], a["load_s"], b["slots"], b["context_length"]) == (2, 1024, None, 1, 512)
    assert b["load_s"] > 0 and a["digest"] == b["digest"] and run["notes"] == []
    requests = [request for step in run["steps"] for request in step["requests"]]
    assert len(requests) == 2 * (1 + 2 + 4) * 4 and all(request["error"] is None for request in requests)
    assert {request["tokens"] for request in requests} == {16}
    assert all(52 <= request["prompt_tokens"] <= 76 for request in requests), (
        "about as many as were asked for, not cached"
    )
    assert all(request["sent_s"] < request["first_token_s"] <= request["ended_s"] for request in requests)
    assert [row["queued"] for row in run["summary"] if row["concurrency"] == 2] == [[], ["b"], ["b"]]
    assert all(row["joules_per_token"] is None and row["total"]["value"] > 0 for row in run["summary"])


def test_without_a_name_the_loaded_model_is_measured_and_its_time_stays(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    box.ok("models", "load", "tiny", "--on", "a", "--keep-alive", "1h")
    run = bench(box)
    assert [one["name"] for one in run["instances"]] == ["a"] and run["model"] == "tiny:latest"
    assert [row["name"] for row in box.ps("a")] == ["tiny:latest"]
    left = ask(box.ports["a"], "GET", "/api/ps")["models"][0]["expires_at"]
    assert left < "2200", "not pinned"
    done = box.run("bench", "--compare", "last", *WORDS)
    assert done.returncode == 0 and json.loads(done.stdout)["comparison"]["setup"] == []


def test_a_load_whose_options_do_not_show_is_told(box: Box, model: str) -> None:
    """Before 0.30 a runner's command line does not tell them; later ones tell the batch."""
    box.configure({"a": {"context_length": 512}}, health=QUICK)
    box.up()
    generate(box.ports["a"], options={"num_batch": 128, "num_ctx": 512})
    runner = box.await_runner("a")
    until(lambda: box.status()["models"], "it is seen")
    run = bench(box, "tiny")
    if box.ollama.has_llama_server:
        assert box.runners("a") == [runner] and run["notes"] == []
    else:
        assert run["notes"] == [
            "a had the model loaded with options that do not show, and loaded it anew for the first request"
        ]


def test_a_model_that_says_one_word_for_ever_is_measured_to_its_last_token(box: Box, model: str) -> None:
    """Real servers end an answer after the same word thirty times, without a last line."""
    box.configure({"a": {"num_parallel": 2}}, health=QUICK)
    box.up()
    words = ("tiny", "-i", "a", "-c", "2", "--tokens", "100", "--prompt-tokens", "300", "--repeat", "15", "-o", "json")
    run = json.loads(box.ok("bench", *words))
    assert {request["tokens"] for step in run["steps"] for request in step["requests"]} == {100}


def test_ctrl_c_stops_the_server_and_lets_the_model_go(box: Box, model: str) -> None:
    box.configure({"a": {}}, health=QUICK)
    box.up()
    words = ("bench", "tiny", "-i", "a", "--tokens", "3000", "--prompt-tokens", "16", "--repeat", "50", "-o", "json")
    process = subprocess.Popen(  # noqa: TID251
        [str(OLLAMUX), *words], env=box.env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(lambda: box.runners("a"), "it is loaded", shown=box.told)
        until(lambda: "/api/generate" in box.log("a"), "it was asked", shown=box.told)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    run = json.loads(out)
    assert (run["state"], run["reason"]) == ("partial", "interrupted")
    until(lambda: not box.runners("a"), "it let the model go", shown=box.told)
