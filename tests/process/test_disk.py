"""Logs that are deleted, moved, flooded or on a full disk: the servers go on, and so does the supervisor."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from process_box import Box, alive, wait_for

LOOKS = {"ollamux.supervisor.upkeep.INTERVAL_S": 0.1}


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


def test_R50_a_log_that_is_deleted_is_told_and_takes_no_more_room_than_another(box: Box) -> None:
    box.config("a", supervisor={"log_max": "4KiB"})
    box.up(haste=LOOKS)
    pid = box.instance("a")["pid"]
    box.log("a").unlink()

    box.set("a", "flood-lines", 5)

    wait_for(lambda: any("its log was deleted; ollamux restart a begins" in reason for reason in box.reasons()))
    deleted = Path(f"/proc/{pid}/fd/1")
    wait_for(lambda: deleted.stat().st_size > 4096, "it grows")
    wait_for(lambda: deleted.stat().st_size <= 4096, "it is cut")
    box.clear("a", "flood-lines")
    assert sum("its log was deleted" in reason for reason in box.reasons()) == 1


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
    for path in (box.log("a"), Path(f"{box.log('a')}.1"), Path(f"{box.log('a')}.2")):
        assert b"\0" not in path.read_bytes(), "the file has no hole"
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


def sizes(folder: Path) -> dict[str, int]:
    """Return what the files of a folder take; one that goes away meanwhile is left out."""
    found = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return found


def ticks(pid: int) -> int:
    """Return the CPU time of a process in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_R51_a_flood_of_200_MB_costs_the_supervisor_little_and_the_disk_a_bounded_part(box: Box) -> None:
    box.config("a", "b", supervisor={"log_max": "4MiB", "log_keep": 2}, health={"interval": "1s"})
    supervisor = box.up()
    pid = box.instance("a")["pid"]
    rounds, before = box.rounds(), ticks(supervisor.pid)
    box.set("a", "flood-now", 200_000_000)

    copies = [0]

    def over() -> bool:
        copies.append(sum(size for name, size in sizes(box.logs).items() if name.startswith("a.log.")))
        return not (box.knobs("a") / "flood-now").exists()

    wait_for(over, "the flood is over", timeout=60)
    wait_for(lambda: sizes(box.logs)["a.log"] <= 4 << 20, "the last of it is rotated")

    assert 0 < max(copies) <= 100_000_000, "two copies and one in the making, however much was written"
    assert ticks(supervisor.pid) - before < 300
    assert box.rounds() - rounds < 2000
    assert box.instance("a")["pid"] == pid
    assert [box.instance(name)["phase"] for name in ("a", "b")] == ["READY", "READY"]
    assert set(sizes(box.logs)) <= {"a.log", "a.log.1", "a.log.2", "b.log"}


def test_R51_all_logs_together_keep_within_their_room(box: Box) -> None:
    box.config("a", "b", supervisor={"log_max": "64KiB", "log_keep": 9, "log_total_max": "400KiB"})
    box.logs.mkdir(mode=0o700)
    for number in (1, 2):
        (box.logs / f"gone.log.{number}").write_bytes(b"x" * 150_000)
        os.utime(box.logs / f"gone.log.{number}", (1_000_000, 1_000_000))
    box.up()
    for name in ("a", "b"):
        box.set(name, "flood-lines", 200)

    wait_for(lambda: not list(box.logs.glob("gone.log.*")), "what is oldest goes first, whosever it was")
    wait_for(lambda: (box.logs / "a.log.2").exists() or (box.logs / "b.log.2").exists(), "newer ones are kept")

    for name in ("a", "b"):
        box.clear(name, "flood-lines")
    wait_for(lambda: sum(sizes(box.logs).values()) <= 600_000, "it is bounded")
    assert {"a.log", "b.log"} <= set(sizes(box.logs))


def test_R51_what_the_supervisor_prints_itself_is_bounded_too(box: Box) -> None:
    box.config("a", supervisor={"log_max": "64KiB"})
    box.logs.mkdir(mode=0o700)
    own = box.logs / "supervisor.log"
    own.write_bytes(b"x" * 100_000)
    box.up()

    wait_for(lambda: own.stat().st_size == 0)

    assert (box.logs / "supervisor.log.1").stat().st_size == 100_000


def test_R51_the_record_is_bounded_and_its_numbers_go_on(box: Box) -> None:
    box.config("a")
    supervisor = box.up(haste={"ollamux.supervisor.journal._LARGEST_FILE": 2000})
    for _ in range(12):
        box.ask("restart", names=["a"])
    record, older = box.state / "events.jsonl", box.state / "events.jsonl.1"

    def numbers() -> list[int]:
        files = [path for path in (older, record) if path.exists()]
        return [json.loads(line)["seq"] for path in files for line in path.read_bytes().splitlines()]

    found = numbers()
    assert found == list(range(found[0], found[-1] + 1)) and found[0] > 1
    assert sum(path.stat().st_size for path in (record, older) if path.exists()) < 5000
    supervisor.signal(signal.SIGTERM)
    supervisor.wait()
    last = numbers()[-1]
    with record.open("ab") as file:
        file.write(b'{"seq": 1')  # cut short by a power failure
    box.up()
    lines = record.read_bytes().splitlines()
    after = [json.loads(line)["seq"] for line in lines[lines.index(b'{"seq": 1') + 1 :]]
    assert after[0] == last + 1, "the first new one is whole"
    record.write_bytes(b"")  # what is torn is no event, for whoever reads it afterwards


def test_R52_a_log_that_somebody_moves_stays_with_its_server_until_the_next_start(box: Box) -> None:
    box.config("a")
    box.up(haste=LOOKS)
    moved = box.logs / "a.log-yesterday"
    box.log("a").rename(moved)
    size = moved.stat().st_size

    box.set("a", "flood-lines", 1)
    wait_for(lambda: moved.stat().st_size > size)
    box.clear("a", "flood-lines")
    wait_for(lambda: any(f"its log was moved to {moved}" in reason for reason in box.reasons()), "it is told")
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


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let a folder look as if its disk had been mounted anew, only for reading; who has a file open keeps it."""
    command = ["mount", "--bind", str(folder), str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("a disk can be mounted by root only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_R50_a_folder_of_logs_that_may_only_be_read_harms_no_server(box: Box) -> None:
    box.config("a", "b", supervisor={"log_max": "64KiB"})
    box.up()
    pids = {name: box.instance(name)["pid"] for name in ("a", "b")}
    with read_only(box.logs):
        size = box.log("a").stat().st_size
        box.set("a", "flood-lines", 400)
        wait_for(lambda: box.log("a").stat().st_size > size + 100_000, "the server writes on")
        wait_for(lambda: any("cannot be rotated" in reason for reason in box.reasons()), "it is said")
        box.clear("a", "flood-lines")
        seen = box.rounds()
        wait_for(lambda: box.rounds() > seen + 60)
        assert {name: box.instance(name)["pid"] for name in ("a", "b")} == pids
        assert sum("cannot be rotated" in reason for reason in box.reasons()) == 1, "once a minute at most"

        os.kill(pids["b"], signal.SIGKILL)
        told = f"cannot write the log {box.log('b')}: Read-only file system"
        wait_for(lambda: any(told in reason for reason in box.reasons()), "a start waits")
        assert len(box.starts("b")) == 1
    box.wait_started("b", 2)
    wait_for(lambda: Path(f"{box.log('a')}.1").exists(), "it is rotated once that is possible")
    assert box.instance("a")["pid"] == pids["a"]


def test_R51_a_log_that_has_filled_the_disk_alone_makes_room_for_its_own_copy(box: Box) -> None:
    with small_disk(box.logs):
        box.config("a", supervisor={"log_max": "8KiB"})
        box.log("a").write_bytes(b"0123456\n" * 30_000)
        fill(box.logs)
        box.up(haste=LOOKS)

        wait_for(lambda: Path(f"{box.log('a')}.1").exists(), "it is rotated")

        assert Path(f"{box.log('a')}.1").stat().st_size < 20_000
        assert b"bytes were dropped here" in Path(f"{box.log('a')}.1").read_bytes()
        assert b"\0" not in Path(f"{box.log('a')}.1").read_bytes()
        box.ask("down")


def test_R50_a_supervisor_starts_though_the_folder_of_logs_is_read_only(box: Box) -> None:
    with small_disk(box.logs):
        box.config("a")
        remount = ["mount", "-o", "remount,mode=700", str(box.logs)]
        subprocess.run([*remount, "-r"], check=True)

        up = box.ollamux("up", "-d")

        assert up.returncode == 6
        assert "cannot write the log" in up.stderr and "Read-only file system" in up.stderr
        subprocess.run([*remount, "-w"], check=True)
        assert box.ollamux("start", "a").returncode == 0
        assert box.ollamux("down").returncode == 0


def test_R50_a_reload_on_a_full_disk_says_so_and_changes_nothing(box: Box) -> None:
    with small_disk(box.state):
        box.config("a")
        box.up()
        pid = box.instance("a")["pid"]
        fill(box.state)
        box.config("a", context_length=4096)

        done = box.ollamux("reload")

        assert done.returncode == 7
        assert "No space left on device" in done.stderr
        assert "nothing was changed" in done.stderr
        assert box.instance("a")["pid"] == pid
        (box.state / "filler").unlink()
        assert box.ollamux("reload").returncode == 0
        box.ask("down")
        wait_for(lambda: not box.socket_path.exists())


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


@pytest.mark.parametrize("words", [("-d",), ("--ensure", "-q")])
def test_R50_a_supervisor_starts_on_a_full_disk(box: Box, words: tuple[str, ...]) -> None:
    with small_disk(box.state):
        box.config("a")
        box.up().kill()
        (box.state / "lock").unlink()  # it is made anew, and nothing can be written into it
        fill(box.state)

        done = box.ollamux("up", *words, "--config", str(box.config_path))

        assert done.returncode == 0, done.stderr
        assert "No space left" not in done.stderr
        assert box.instance("a")["phase"] == "READY"
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


def test_R50_a_stop_on_a_full_disk_is_written_down_once_there_is_room(box: Box) -> None:
    with small_disk(box.state):
        box.config("a")
        supervisor = box.up()
        fill(box.state)
        assert box.ask("stop", names=["a"])["exit"] == 0
        box.rounds_at_rest()  # what is written a moment after a change has been tried by now

        (box.state / "filler").unlink()

        wait_for(
            lambda: '"stopped": true' in (box.state / "state.json").read_text(), "nothing else has to happen first"
        )
        supervisor.kill()
        box.up(ready=False)
        assert box.wait_phase("a", "STOPPED")["wanted"] == "down"
        box.ask("down")
        wait_for(lambda: not box.socket_path.exists())


def test_R22_a_state_file_that_somebody_removed_is_written_again(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up()
    pid = box.instance("a")["pid"]
    assert box.ask("stop", names=["b"])["exit"] == 0
    box.rounds_at_rest()  # what is written a moment after a change is there by now

    (box.state / "state.json").unlink()

    wait_for((box.state / "state.json").exists, "nothing else has to happen first")
    supervisor.kill()
    box.up(ready=False)
    assert box.wait_phase("a", "READY")["pid"] == pid
    assert box.wait_phase("b", "STOPPED")["wanted"] == "down"
