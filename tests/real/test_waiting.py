"""What an instance needs and somebody else has, or nobody: it waits, says for what, and leaves the others alone."""

from __future__ import annotations

import pytest

from tests.ports import free_port

from .box import QUICK, Box, answers, end

pytestmark = pytest.mark.real_ollama

ABSENT = "GPU-00000000-dead-beef-0000-000000000000"


def test_a_port_that_a_foreign_server_holds(box: Box) -> None:
    port = free_port()
    stranger = box.stranger(port)
    box.configure({"a": {"port": port}, "b": {}}, health=QUICK)
    up = box.up(expect=6)
    assert f"pid {stranger.pid}" in up.stderr and "ollama" in up.stderr
    waiting = box.instance("a")
    assert waiting["phase"] == "WAITING" and waiting["pid"] is None and waiting["next_action"]
    for part in (f"port {port}", f"pid {stranger.pid}", "ollama"):
        assert part in waiting["reason"]
    assert box.instance("b")["phase"] == "READY" and answers(box.ports["b"])
    assert box.run("status").returncode == 6
    # The stranger is not touched …
    assert stranger.poll() is None and answers(port)
    end(stranger)
    assert stranger.returncode == 0
    # … and what it leaves is taken at once.
    assert box.await_instance("a", "READY")["generation"] >= 1
    assert answers(port) and box.run("status").returncode == 0
    assert box.log("a").count("Listening on") == 1


def test_a_foreign_server_survives_down(box: Box) -> None:
    port = free_port()
    stranger = box.stranger(port)
    box.configure({"a": {"port": port}}, health=QUICK)
    box.up(expect=6)
    box.ok("down")
    assert stranger.poll() is None and answers(port)


def test_a_gpu_that_is_not_there(box: Box) -> None:
    box.configure({"a": {"gpus": [ABSENT]}, "b": {}}, health=QUICK)
    up = box.up(expect=6)
    assert ABSENT in up.stderr
    waiting = box.instance("a")
    assert (waiting["phase"], waiting["health"], waiting["pid"]) == ("WAITING", "failing", None)
    assert ABSENT in waiting["reason"]
    assert box.instance("b")["phase"] == "READY" and answers(box.ports["b"])
    assert not answers(box.ports["a"])
    assert not (box.logs / "a.log").exists() or "Listening" not in box.log("a")
    assert box.run("status").returncode == 6
