"""Logs that are deleted, moved, flooded or on a full disk: the servers go on, and so does the supervisor."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_box import Box, alive, wait_for


def test_R50_a_log_that_is_deleted_costs_nothing(box: Box) -> None:
    box.config("a")
    box.up()
    pid = box.instance("a")["pid"]

    box.log("a").unlink()
    box.set("a", "flood-lines", 5)
    seen = box.rounds()
    wait_for(lambda: box.rounds() > seen + 50)

    assert box.instance("a")["pid"] == pid
    assert box.changes("a") == ["STARTING", "READY"]
    box.clear("a", "flood-lines")
    box.ask("restart", names=["a"])
    assert "the server says that it starts" in box.log("a").read_text()


def test_R50_a_log_that_cannot_be_opened_is_told_and_tried_again(box: Box) -> None:
    box.config("a", "b")
    box.logs.mkdir(mode=0o700)
    box.log("a").mkdir()
    box.up(ready=False)

    waiting = box.wait_phase("a", "WAITING")

    assert f"cannot write the log {box.log('a')}" in waiting["reason"]
    assert box.wait_phase("b", "READY")
    box.log("a").rmdir()
    box.wait_phase("a", "READY")


def test_R50_a_log_that_is_a_pipe_does_not_hang_the_supervisor(box: Box) -> None:
    box.config("a", "b")
    box.logs.mkdir(mode=0o700)
    os.mkfifo(box.log("a"))
    reader = os.open(box.log("a"), os.O_RDONLY | os.O_NONBLOCK)
    box.up(ready=False)

    assert "not a plain file" in box.wait_phase("a", "WAITING")["reason"]
    assert box.wait_phase("b", "READY")
    os.close(reader)


def test_R51_a_log_is_rotated_at_its_limit_and_the_server_goes_on_writing(box: Box) -> None:
    box.config("a", supervisor={"log_max": "64KiB", "log_keep": 2})
    box.up()
    pid = box.instance("a")["pid"]
    box.set("a", "flood-lines", 400)

    wait_for(lambda: Path(f"{box.log('a')}.2").exists(), "two old ones are kept")
    wait_for(lambda: box.log("a").stat().st_size > 0, "the server writes on")

    box.clear("a", "flood-lines")
    assert box.instance("a")["pid"] == pid
    assert not Path(f"{box.log('a')}.3").exists()
    assert b"\0" not in box.log("a").read_bytes(), "the file has no hole"
    for path in (box.log("a"), Path(f"{box.log('a')}.1")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_R51_with_none_kept_the_log_is_cut(box: Box) -> None:
    box.config("a", supervisor={"log_max": "64KiB", "log_keep": 0})
    box.up()
    box.set("a", "flood-lines", 400)
    wait_for(lambda: box.log("a").stat().st_size > 65536)

    wait_for(lambda: box.log("a").stat().st_size < 65536, "it was cut")

    box.clear("a", "flood-lines")
    assert os.listdir(box.logs) == ["a.log"]


def test_R52_a_log_that_somebody_moves_stays_with_its_server_until_the_next_start(box: Box) -> None:
    box.config("a")
    box.up()
    moved = box.logs / "a.log-yesterday"
    box.log("a").rename(moved)
    size = moved.stat().st_size

    box.set("a", "flood-lines", 1)
    wait_for(lambda: moved.stat().st_size > size)
    box.clear("a", "flood-lines")
    box.ask("restart", names=["a"])

    assert box.log("a").exists()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB on a folder; skip where this may not be done."""
    folder.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave not a byte on a disk."""
    fd = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for size in (4096, 1):
            while True:
                try:
                    os.write(fd, b"x" * size)
                except OSError:
                    break
    finally:
        os.close(fd)


def test_R50_a_full_disk_under_the_logs_harms_no_server(box: Box) -> None:
    with small_disk(box.logs):
        box.config("a", "b", supervisor={"log_max": "64KiB"})
        box.log("a").write_bytes(b"x" * 100_000)
        fill(box.logs)
        box.up()
        pid = box.instance("a")["pid"]
        box.set("a", "flood-lines", 10)
        wait_for(lambda: any("cannot be rotated" in reason for reason in box.reasons()), "it is said")
        seen = box.rounds()
        wait_for(lambda: box.rounds() > seen + 60)

        assert box.instance("a")["pid"] == pid
        assert box.instance("a")["phase"] == "READY"
        assert sum("cannot be rotated" in reason for reason in box.reasons()) == 1, "once a minute at most"
        os.kill(pid, signal.SIGKILL)
        box.wait_started("a", 2)
        (box.logs / "filler").unlink()
        wait_for(lambda: Path(f"{box.log('a')}.1").exists(), "it is rotated once there is room")
        box.ask("down")


def test_R50_a_full_disk_under_the_state_harms_no_server(box: Box) -> None:
    with small_disk(box.state):
        box.config("a")
        supervisor = box.up()
        first = box.instance("a")["pid"]
        fill(box.state)

        os.kill(first, signal.SIGKILL)
        box.wait_started("a", 2)
        assert box.ask("restart", names=["a"])["exit"] == 0
        assert box.ask("stop", names=["a"])["exit"] == 0
        assert box.ask("start", names=["a"])["exit"] == 0
        assert box.ollamux("status").returncode == 0
        assert not [name for name in os.listdir(box.state) if name.endswith(".new")]
        pid = box.instance("a")["pid"]
        supervisor.kill()
        assert alive(pid)
        (box.state / "filler").unlink()
        box.up()
        assert not alive(pid) or box.instance("a")["pid"] == pid, "never two of them"
        box.ask("down")
        wait_for(lambda: not box.socket_path.exists())


def test_R19_without_descriptors_left_the_supervisor_goes_on_and_recovers(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up(haste={"ollamux.supervisor.server.ACCEPT_AGAIN_S": 0.1})
    pids = {name: box.instance(name)["pid"] for name in ("a", "b")}
    highest = max(int(fd) for fd in os.listdir(f"/proc/{supervisor.pid}/fd"))
    _, hard = resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
    waiting = [box.connect() for _ in range(12)]

    assert box.rounds_at_rest() < 300, "it must not spin on those who wait"

    assert supervisor.runs
    assert all(alive(pid) for pid in pids.values())
    for connection in waiting:
        connection.close()
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (hard, hard))
    box.rounds_while("a")
    assert {name: box.instance(name)["pid"] for name in ("a", "b")} == pids
    assert [box.instance(name)["phase"] for name in ("a", "b")] == ["READY", "READY"]


def test_R19_without_descriptors_left_an_orphaned_runner_is_still_found_and_ended(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 2)
    box.set("a", "runner-setsid")
    supervisor = box.up()
    runners = wait_for(lambda: len(box.runners("a")) == 2 and box.runners("a"), "it has its runners")
    highest = max(int(fd) for fd in os.listdir(f"/proc/{supervisor.pid}/fd"))
    _, hard = resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
    waiting = [box.connect() for _ in range(12)]

    os.kill(box.starts("a")[0], signal.SIGKILL)

    wait_for(lambda: not any(alive(pid) for pid in runners), "/proc must not read as empty then")
    for connection in waiting:
        connection.close()
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (hard, hard))
    box.wait_started("a", 2)
