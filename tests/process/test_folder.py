"""The folder of state is tidied away, in whole or in part, under a supervisor: it stays the only one, and is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from process_box import Box, wait_for

SELDOM = {"ollamux.supervisor.upkeep.INTERVAL_S": 3600.0}
"""Nothing is put back before the test has seen what happens until then."""


def tidy(box: Box, what: str) -> None:
    if what == "all of it":
        gone = box.root / "gone"
        box.state.rename(gone)  # at once: the supervisor puts back what it misses, file by file
        shutil.rmtree(gone)
    else:
        (box.state / what).unlink()


def read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


@pytest.mark.parametrize("what", ["lock", "all of it"])
def test_R30_a_second_up_is_refused_though_the_lock_was_removed(box: Box, what: str) -> None:
    box.config("a")
    supervisor = box.up(haste=SELDOM)
    pid = box.instance("a")["pid"]
    tidy(box, what)

    second = box.start()
    ensured = box.ollamux("up", "--ensure", "-q", "--config", str(box.config_path))

    assert second.wait() == 7
    assert (ensured.returncode, ensured.stdout) == (0, "")
    assert f"running already (pid {supervisor.pid})" in box.output()
    assert box.supervisor_pid() == supervisor.pid
    assert (box.instance("a")["pid"], len(box.starts("a"))) == (pid, 1)


@pytest.mark.parametrize("what", ["lock", "id", "all of it"])
def test_R22_what_was_removed_comes_back_and_the_next_up_adopts(box: Box, what: str) -> None:
    box.config("a", "b")
    supervisor = box.up()
    pid = box.instance("a")["pid"]
    box.ask("stop", names=["b"])
    kept = {name: (box.state / name).read_text() for name in ("lock", "id", "config-path", "socket-path")}

    tidy(box, what)

    wait_for(lambda: kept == {name: read(box.state / name) for name in kept}, "all of it comes back")
    wait_for((box.state / "state.json").exists)
    assert box.ollamux("up", "-d", "--config", str(box.config_path)).returncode == 7
    supervisor.kill()
    box.up(ready=False)
    found = box.wait_phase("a", "READY")
    assert (found["pid"], found["adopted"]) == (pid, True)
    assert box.instance("b")["wanted"] == "down", "what was stopped stays so"


def test_a_server_that_dies_after_the_folder_was_removed_is_started_again(box: Box) -> None:
    box.config("a")
    box.up()
    shutil.rmtree(box.state)
    shutil.rmtree(box.logs)
    wait_for((box.state / "lock").exists, "the folder is put back")

    assert box.ask("restart", names=["a"])["exit"] == 0

    assert box.log("a").exists()


@pytest.mark.parametrize("what", ["lock", "all of it"])
def test_R22_an_upgrade_survives_it(box: Box, what: str) -> None:
    box.config("a")
    supervisor = box.up(haste=SELDOM)
    pid = box.instance("a")["pid"]
    tidy(box, what)

    done = box.ollamux("upgrade")

    assert done.returncode == 0, done.stderr
    assert box.supervisor_pid() == supervisor.pid
    assert (box.state / "lock").read_text() == f"{supervisor.pid}\n"
    assert box.instance("a")["pid"] == pid


def test_R30_one_whose_place_was_taken_says_so_and_leaves_the_others_files_alone(box: Box) -> None:
    box.config("a")
    first = box.up(haste={"ollamux.supervisor.upkeep.INTERVAL_S": 2.0})
    (box.state / "lock").unlink()
    box.socket_path.unlink()

    second = box.up(ready=False)  # nothing was left that could have told it

    inode = box.socket_path.stat().st_ino
    told = f"the lock of this supervisor (pid {first.pid}) was removed from {box.state}, and another one"
    wait_for(lambda: any(told in reason for reason in box.reasons()), "it is told")
    assert box.socket_path.stat().st_ino == inode
    assert box.supervisor_pid() == second.pid
    assert (box.state / "lock").read_text() == f"{second.pid}\n"
    first.kill()
