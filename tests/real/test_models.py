"""What is kept, loaded or fetched on real servers: pins come back after whatever takes them away."""

from __future__ import annotations

import http.client
import json

import pytest

from .box import QUICK, Box, generate, until

pytestmark = pytest.mark.real_ollama


def loaded(box: Box, name: str) -> dict[str, tuple[int, bool]]:
    """Return the context of each loaded model, and whether it is kept for ever."""
    return {row["name"]: (row["context_length"], row["expires_at"] > "2200") for row in box.ps(name)}


def test_a_restart_loads_what_is_kept_as_it_was_and_tells_the_time(box: Box, model: str) -> None:
    box.configure({"a": {"preload": [{"name": "tiny", "num_ctx": 1024}]}}, health=QUICK, context_length=512)
    box.up()
    assert "a  other is pinned and loaded (" in box.ok("models", "pin", "other", "--on", "a")
    kept = {"tiny:latest": (1024, True), "other:latest": (512, True)}
    until(lambda: loaded(box, "a") == kept, "both are kept", shown=box.told)
    runners = set(box.runners("a"))

    box.ok("restart", "a")

    until(lambda: loaded(box, "a") == kept, "both are kept again", shown=box.told)
    assert not runners & set(box.runners("a"))
    until(lambda: sum("is loaded and kept (" in reason for reason in box.reasons("a")) == 4, "told", shown=box.told)
    box.ok("models", "unpin", "other")
    until(lambda: loaded(box, "a")["other:latest"] == (512, False), "let go, not unloaded", shown=box.told)
    assert "tiny:latest" in box.ok("models", "ls")


@pytest.mark.timeout(300)
def test_pins_come_back_after_an_eviction_and_after_a_clients_other_context(box: Box, model: str) -> None:
    keys = {"max_loaded_models": 1, "preload": ["tiny"]}
    box.configure({"evicted": keys, "reloaded": keys}, health=QUICK, context_length=512)
    box.up()
    kept = {"tiny:latest": (512, True)}
    for name in ("evicted", "reloaded"):
        until(lambda name=name: loaded(box, name) == kept, f"{name}: it is kept", shown=box.told)
        box.await_reason(name, "tiny is loaded and kept")

    generate(box.ports["evicted"], model="other")
    generate(box.ports["reloaded"], options={"num_ctx": 1024})
    assert set(loaded(box, "evicted")) == {"other:latest"}, "a pin is no protection"
    assert loaded(box, "reloaded") == {"tiny:latest": (1024, False)}, "nor is it against a reload"

    for name, why in (("evicted", "(evicted"), ("reloaded", "loaded anew with a context of 1024")):
        until(lambda name=name: loaded(box, name) == kept, f"{name}: it is back", 150, shown=box.told)
        box.await_reason(name, why)
        assert box.instance(name)["generation"] == 1


def test_loading_and_unloading_by_hand(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    assert box.ok("models", "load", "tiny", "--on", "b", "--ctx", "1024", "--keep-alive", "1h").startswith("b ")
    until(lambda: loaded(box, "b") == {"tiny:latest": (1024, False)}, "it is loaded", shown=box.told)
    until(lambda: box.status()["models"], "it is seen")
    assert "; it is loaded there)" in box.ok("models", "load", "tiny", "--ctx", "1024")
    assert box.ok("models", "unload", "tiny") == "b  tiny is unloaded\n"
    assert box.runners("b") == []
    done = box.run("models", "load", "tiny", "--on", "a", "--ctx", "999999")
    assert done.returncode == 0, "a context beyond the trained one is capped"


def test_what_was_deleted_is_told_and_a_pull_without_a_network_too(box: Box, model: str) -> None:
    box.configure({"a": {"preload": ["tiny"], "pull": "missing"}}, health=QUICK)
    box.up()
    until(lambda: loaded(box, "a"), "it is loaded", shown=box.told)
    ask_delete(box, "tiny")
    assert "gone from the store" in box.run("models", "ls").stdout
    box.ok("restart", "a")
    box.await_reason("a", "tiny was not fetched", seconds=60)
    done = box.run("models", "ls")
    assert done.returncode == 6 and "not in the store: ollamux pull tiny" in done.stdout, done.stdout
    done = box.run("pull", "tiny")
    assert done.returncode == 6 and "was not fetched: the registry cannot be reached" in done.stderr, done.stderr


def ask_delete(box: Box, name: str) -> None:
    """Delete a model; the answer has no body."""
    connection = http.client.HTTPConnection("127.0.0.1", box.ports["a"], timeout=30)
    connection.request("DELETE", "/api/delete", json.dumps({"model": name}))
    assert connection.getresponse().status == 200
    connection.close()
