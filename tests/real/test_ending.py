"""The end leaves nothing: no process, no socket, no port, and the store as it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ollamux.system.clock import wall

from .box import QUICK, Box, answers, can_listen, generate, proc_state

pytestmark = pytest.mark.real_ollama

HOUR_S = 3600.0


def contents(folder: Path) -> dict[str, tuple[float, str]]:
    """Return every file below a folder with its time and its digest, folders included."""
    found = {}
    for path in sorted(folder.rglob("*")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
        found[str(path.relative_to(folder))] = (path.stat().st_mtime if path.is_file() else 0.0, digest)
    return found


def test_down_leaves_nothing_and_the_store_untouched(box: Box, model: str) -> None:
    # What a server that prunes removes at its start: an old blob that no manifest names, and an empty folder.
    orphan = box.store / "blobs" / f"sha256-{hashlib.sha256(b'orphan').hexdigest()}"
    orphan.write_bytes(b"orphan")
    os.utime(orphan, (wall() - 2 * HOUR_S, wall() - 2 * HOUR_S))
    (box.store / "manifests" / "registry.ollama.ai" / "library" / "empty").mkdir()
    before = contents(box.store)
    box.configure({"a": {}, "b": {}, "c": {}}, health=QUICK)
    box.up()
    for name in ("a", "b"):
        generate(box.ports[name])
    pids = [one["pid"] for one in box.status()["instances"]] + box.runners("a") + box.runners("b")
    assert len(pids) == 5 and all(proc_state(pid) for pid in pids)
    assert box.ok("down").startswith("stopped 3 instances")
    assert box.processes() == []
    assert [pid for pid in pids if proc_state(pid)] == []
    assert not box.socket.exists() and list(box.runtime.iterdir()) == []
    assert all(can_listen(port) for port in box.ports.values())
    assert contents(box.store) == before
    assert box.run("status", "--config", str(box.config)).returncode == 3
    assert box.run("down").returncode == 3


def test_all_of_it_comes_back_after_down(box: Box, model: str) -> None:
    box.configure({"a": {}, "b": {}}, health=QUICK)
    box.up()
    box.ok("stop", "a")
    assert not answers(box.ports["a"]) and can_listen(box.ports["a"])
    last = box.instance("a")["generation"]
    box.ok("down")
    # `down` ends the intent of an earlier `stop`.
    box.up()
    found = box.instance("a")
    assert found["phase"] == "READY" and found["generation"] > last
    assert generate(box.ports["a"])["response"]


def test_an_empty_store_is_made_and_shared_by_all(box: Box) -> None:
    # Servers that start at the same time on one store without folders: none may die of it.
    names = {f"i{number}": {} for number in range(4)}
    box.configure(names, supervisor={"max_parallel_starts": 0}, health=QUICK)
    box.up()
    assert [one["restarts"] for one in box.status()["instances"]] == [0] * 4
    assert (box.store / "blobs").is_dir()
    box.ok("restart", "--all")
    assert [one["generation"] for one in box.status()["instances"]] == [2] * 4
    assert (box.home / ".ollama" / "id_ed25519").exists()
