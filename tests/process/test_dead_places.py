"""Files that would never answer: a FIFO in the place of one of ours, a file system over the network that is dead."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_box import Box, process_state, wait_for

_CATATONIC = 0x9362
"""AUTOFS_IOC_CATATONIC: whoever waits is told that there is nothing, and nobody waits any more."""


def listens_and_looks(box: Box, name: str = "b") -> None:
    """Fail unless the loop goes on: it answers, and asks an instance how it is."""
    assert box.rounds_while(name) > 0


@pytest.mark.parametrize("suffix", ["", ".1", ".2"])
def test_R50_a_fifo_in_the_place_of_a_log_that_is_in_use_holds_nobody_up(box: Box, suffix: str) -> None:
    """The last words of a server that dies are looked for in its log, and its log in the copies of it."""
    box.config("a", "b", supervisor={"log_max": "64KiB", "log_keep": 2})
    box.up()
    other = box.instance("b")["pid"]
    if not suffix:
        box.log("a").unlink()
    os.mkfifo(f"{box.log('a')}{suffix}")

    box.set("a", "flood-lines", 400 if suffix else 1)
    listens_and_looks(box)
    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    if not suffix:
        assert "not a plain file" in box.wait_phase("a", "WAITING", "FAILED")["reason"]
        box.log("a").unlink()
        box.ask("start", names=["a"])
    box.wait_started("a", 2)
    listens_and_looks(box)
    assert box.instance("b")["pid"] == other


@pytest.mark.parametrize("what", ["config", "events", "socket-path"])
def test_R50_a_fifo_in_the_place_of_another_file_of_ours_holds_nobody_up(box: Box, what: str) -> None:
    box.config("a", "b")
    box.up()
    place = {"config": box.config_path, "events": box.state / "events.jsonl", "socket-path": box.state / "socket-path"}
    text = place[what].read_bytes()
    place[what].unlink()
    os.mkfifo(place[what])

    if what == "config":
        wait_for(lambda: box.status()["supervisor"]["config_changed"], "it is not what is in force")
    assert box.ask("restart", names=["a"])["exit"] == 0
    listens_and_looks(box)
    assert box.ollamux("status", timeout=20).returncode == 0

    place[what].unlink()
    place[what].write_bytes(text)
    assert box.ask("restart", names=["a"])["exit"] == 0


@pytest.mark.parametrize("what", ["lock", "supervisor.log"])
def test_R86_a_fifo_in_the_way_of_up_is_told(box: Box, what: str) -> None:
    box.config("a")
    for folder in (box.state, box.logs):
        folder.mkdir(mode=0o700)
    os.mkfifo((box.state if what == "lock" else box.logs) / what)

    done = box.ollamux("up", "-d", "--config", str(box.config_path), timeout=20)

    assert done.returncode in (1, 7)
    assert f"{what}" in done.stderr and "not a plain file" in done.stderr
    assert "Traceback" not in done.stderr
    assert box.starts("a") == []


@contextmanager
def dead(folder: Path) -> Iterator[Path]:
    """Let whatever is below a folder hang in the kernel for everybody but this test, as on a server that is gone."""
    folder.mkdir()
    read, write = os.pipe()
    options = f"fd={write},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
    command = ["mount", "-t", "autofs", "-o", options, "none", str(folder)]
    done = None if os.geteuid() else subprocess.run(command, check=False, capture_output=True, pass_fds=(write,))
    os.close(write)
    if done is None or done.returncode != 0:
        os.close(read)
        pytest.skip("only root may mount a file system that does not answer")
    try:
        yield folder / "gone"
    finally:
        wake(folder)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        os.close(read)


def wake(folder: Path) -> None:
    """Let everybody go who hangs."""
    root = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(root, _CATATONIC, 0)
    os.close(root)


HASTE = {"ollamux.system.patience.LIMIT_S": 0.3}


def hanging(pid: int) -> int:
    """Return how many threads of a process hang in the kernel."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return states.count("D")


def test_a_store_that_does_not_answer_is_waited_for_and_holds_up_nobody_else(box: Box) -> None:
    with dead(box.root / "net") as store:
        box.config("b", instances={"a": {"store": str(store)}})
        supervisor = box.up(ready=False, haste=HASTE)
        box.wait_ready("b")

        waiting = box.wait_phase("a", "WAITING")

        assert waiting["reason"] == f"the store {store} does not answer; is it on a file system over the network?"
        assert waiting["next_action"] == "look again"
        seen = box.rounds()
        wait_for(lambda: box.rounds() > seen + 60, "it looks again and again")
        assert hanging(supervisor.pid) == 1, "what hangs is not asked a second time"
        listens_and_looks(box)
        os.kill(box.instance("b")["pid"], signal.SIGKILL)
        box.wait_started("b", 2)
        supervisor.signal(signal.SIGTERM)
        assert supervisor.wait() == 0, "it ends, though a call of its hangs"
        assert box.starts("a") == []


def test_a_store_that_dies_under_a_server_holds_up_no_check(box: Box) -> None:
    """The manifest of each model that is seen is looked for there."""
    with dead(box.root / "net") as store:
        alias = box.root / "store"
        alias.mkdir()
        box.config("b", instances={"a": {"store": str(alias)}})
        supervisor = box.up(haste=HASTE)
        alias.rmdir()
        alias.symlink_to(store)
        models = [{"name": f"m{number}:latest", "size": 5, "size_vram": 5, "digest": "d"} for number in range(30)]

        box.set("a", "ps", json.dumps({"models": models}))

        wait_for(lambda: len(box.status()["models"]) == 30, "its models are shown")
        assert hanging(supervisor.pid) == 1
        listens_and_looks(box)
        assert box.changes("a") == box.changes("b") == ["STARTING", "READY"]
        again = box.ollamux("upgrade", timeout=60)
        assert again.returncode == 0, again.stderr
        assert box.instance("a")["generation"] == 1


def test_a_program_that_lies_on_what_is_dead_is_waited_for(box: Box) -> None:
    with dead(box.root / "net") as place:
        alias = box.bin / "alias"
        alias.symlink_to(box.ollama)
        box.config("b", instances={"a": {"ollama": str(alias)}})
        box.up(haste=HASTE)
        alias.unlink()
        alias.symlink_to(place / "ollama")

        os.kill(box.instance("a")["pid"], signal.SIGKILL)

        told = f"the program {alias} does not answer; is it on a file system over the network?"
        assert box.wait_phase("a", "WAITING")["reason"] == told
        listens_and_looks(box)
        assert box.ask("env", name="a")["exit"] == 8
        alias.unlink()
        alias.symlink_to(box.ollama)
        wake(box.root / "net")
        box.wait_started("a", 2)


def test_a_configuration_on_what_is_dead_holds_nobody_up(box: Box) -> None:
    with dead(box.root / "net") as place:
        box.config("a", "b")
        supervisor = box.up(haste=HASTE)
        box.config_path.unlink()
        box.config_path.symlink_to(place / "ollamux.toml")

        wait_for(lambda: hanging(supervisor.pid) == 1, "it looks whether the file has changed")

        listens_and_looks(box)
        assert process_state(supervisor.pid) in ("S", "R")
        box.config_path.unlink()
        box.config("a", "b")
