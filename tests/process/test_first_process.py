"""The supervisor as the first process of a container: whatever loses its parent falls to it, and it is asked to end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process_box import Box, Supervisor, alive, process_state, wait_for

NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc"]


def possible() -> bool:
    """Whether this machine lets us make a namespace of process ids, and enter it."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not possible(), reason="needs the right to make a namespace of process ids (root)")


def first_process(box: Box) -> Supervisor:
    """Start a supervisor as process 1 of its own namespace; return it by its number outside."""
    command = [*NAMESPACE, str(Path(sys.executable).with_name("ollamux")), "up", "--config", str(box.config_path)]
    process = box.stranger(*command, env=box.env, stdout=subprocess.DEVNULL)
    box.strangers.remove(process)
    box.supervisors.append(Supervisor(0, process))
    wait_for(lambda: process.poll() is not None or (box.socket_path.exists() and box.listens(1)), "it listens")
    assert process.poll() is None
    box.supervisors[-1].pid = children_of(process.pid)[0]
    box.wait_ready()
    return box.supervisors[-1]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def inside(supervisor: Supervisor, script: str) -> str:
    """Run a script in the namespace, as `docker exec` would."""
    command = ["nsenter", "-t", str(supervisor.pid), "-p", "-m", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def zombies(supervisor: Supervisor) -> list[int]:
    return [pid for pid in children_of(supervisor.pid) if process_state(pid) == "Z"]


def test_R7_as_the_first_process_it_collects_the_orphans_of_strangers(box: Box) -> None:
    box.config("a")
    supervisor = first_process(box)
    before = children_of(supervisor.pid)
    gate = box.root / "gate"
    script = f"for i in 1 2 3 4 5; do (while [ ! -e {gate} ]; do sleep 0.05; done) >/dev/null 2>&1 & done"

    inside(supervisor, script)
    wait_for(lambda: len(children_of(supervisor.pid)) == len(before) + 5, "they have fallen to it")
    gate.touch()

    wait_for(lambda: set(children_of(supervisor.pid)) <= set(before), "they are collected")
    assert zombies(supervisor) == []
    assert box.changes("a") == ["STARTING", "READY"]
    assert box.instance("a")["exit"] is None


def test_R4_as_the_first_process_a_crash_is_mended_and_nothing_is_left(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 2)
    box.set("a", "runner-setsid")
    box.set("a", "runner-ignore-term")
    supervisor = first_process(box)
    wait_for(lambda: len(box.family("a")) == 3)
    first = box.family("a")

    inside(supervisor, f"kill -KILL {box.instance('a')['pid']}")

    found = box.wait_started("a", 2)
    assert found["exit"]["signal"] == "SIGKILL"
    assert not [pid for pid in first if alive(pid)]
    wait_for(lambda: zombies(supervisor) == [], "no zombie stays")


def test_R22_as_the_first_process_it_can_be_upgraded(box: Box) -> None:
    box.config("a")
    supervisor = first_process(box)
    pid = box.instance("a")["pid"]

    done = box.ollamux("upgrade")

    assert done.stdout.endswith("pid 1, 1 instance untouched\n"), done.stderr
    assert box.instance("a")["pid"] == pid
    assert children_of(box.supervisors[-1].process.pid) == [supervisor.pid]  # type: ignore[union-attr]
    inside(supervisor, f"kill -KILL {pid}")
    assert box.wait_started("a", 2)["exit"]["signal"] == "SIGKILL"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_R81_as_the_first_process_a_signal_is_down_and_the_exit_code_tells(box: Box, number: int) -> None:
    box.config("a", "b")
    supervisor = first_process(box)
    pids = box.family("a") + box.family("b")

    supervisor.signal(number)

    assert supervisor.wait() == 0
    assert len(pids) == 2
    assert not [pid for pid in pids if alive(pid)]
    assert [box.changes(name)[-1] for name in ("a", "b")] == ["STOPPED", "STOPPED"]


def test_R26_a_process_whose_session_was_begun_outside_is_no_process_of_ours(box: Box) -> None:
    """Entered from outside with a copy of a server's environment, it has no session that could be looked at."""
    box.config("a")
    box.state.mkdir(mode=0o700)
    (box.state / "id").write_text("0123456789abcdef\n")
    mark = {"OLLAMUX_SUPERVISOR": str(box.state), "OLLAMUX_SUPERVISOR_ID": "0123456789abcdef"}
    env = box.env | mark | {"OLLAMUX_INSTANCE": "a", "OLLAMUX_GENERATION": "1"}
    words = " ".join(f"{key}={value}" for key, value in box.env.items())
    command = Path(sys.executable).with_name("ollamux")
    script = f"sleep 1000 & env -i {words} {command} up --config {box.config_path} & wait %1; exec sleep 1000"
    holder = box.stranger(*NAMESPACE, "--kill-child", "sh", "-c", script, env=env, stdout=subprocess.DEVNULL)

    wait_for(lambda: box.socket_path.exists() and box.status()["instances"], "it listens")
    box.wait_ready()

    assert not any("ending pid" in reason for reason in box.reasons())
    assert box.ask("down")["exit"] == 0
    assert holder.poll() is None


def test_from_outside_down_waits_for_the_right_process_and_not_for_one_of_its_number(box: Box) -> None:
    """Inside it is process 1; outside that is another one, which does not end."""
    box.config("a")
    supervisor = first_process(box)
    pid = supervisor.pid

    done = box.ollamux("down", timeout=9)  # it gives up after ten seconds

    assert done.returncode == 0, done.stderr
    assert not alive(pid), "down returns once it is gone"


def test_from_inside_a_container_down_waits_until_the_supervisor_outside_is_gone(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    command = [*NAMESPACE, "--kill-child", str(Path(sys.executable).with_name("ollamux")), "down"]

    done = subprocess.run(command, env=box.env, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert supervisor.wait(5.0) == 0
    assert box.start().runs, "its lock is free"
    wait_for(lambda: box.socket_path.exists())


def test_from_outside_nobody_is_told_to_end_a_process_that_only_has_the_number(box: Box) -> None:
    box.config("a")
    supervisor = first_process(box)
    supervisor.signal(signal.SIGSTOP)

    done = box.ollamux("status")

    supervisor.signal(signal.SIGCONT)
    assert done.returncode == 8
    assert "does not answer" in done.stderr
    assert "kill" not in done.stderr
