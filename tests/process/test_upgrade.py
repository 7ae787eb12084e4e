"""A supervisor replaced by the installed version while its instances serve: nothing is cut, nothing forgotten."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
import sysconfig
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from load import Load
from process_box import Box, Supervisor, alive, answer_on, environment_of, parent_of, process_state, wait_for

import ollamux
from ollamux import __version__

PACKAGE = Path(ollamux.__file__).parent


def upgraded(box: Box) -> None:
    done = box.ollamux("upgrade")
    assert done.returncode == 0, done.stderr


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Installation:
    """A copy of the package that a supervisor runs from, as an installer might replace it under it."""

    def __init__(self, box: Box) -> None:
        self.root = box.root / "site"
        self.package = self.root / "ollamux"
        self.put()
        box.env["PYTHONPATH"] = f"{self.root}:{sysconfig.get_path('purelib')}"

    def put(self) -> None:
        """Install it anew, as an installer does: who runs from it may write its caches meanwhile."""
        shutil.rmtree(self.package, ignore_errors=True)
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)

    def version(self, version: str) -> None:
        """Install it as another version."""
        self.put()
        self.append("__init__.py", f"__version__ = {version!r}")

    def append(self, module: str, text: str) -> None:
        """Add a line to a module."""
        with open(self.package / module, "a") as file:
            file.write(f"\n{text}\n")


@pytest.fixture
def installation(box: Box) -> Iterator[Installation]:
    """A box whose supervisor, and whose commands, run from a copy of the package."""
    yield Installation(box)


@pytest.fixture
def gate(box: Box) -> Iterator[Path]:
    """While this file is there, the program that takes over waits before it does anything at all."""
    path = box.root / "exec-gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


def reach_exec(box: Box, supervisor: Supervisor) -> None:
    wait_for((box.root / "exec-reached").exists, "the exec")
    assert (box.root / "exec-reached").read_text() == str(supervisor.pid)


def test_R22_five_upgrades_and_a_kill_under_load_fail_no_request(box: Box) -> None:
    names = ("a", "b", "c")
    box.config(*names, health={"timeout": "10s"})
    supervisor = box.up()
    before = {name: (box.instance(name)["pid"], box.instance(name)["generation"]) for name in names}
    started_at = box.status()["supervisor"]["started_at"]

    with Load(box, *names) as load:
        open_at_first = 0
        for _ in range(5):
            done = box.ollamux("upgrade")
            assert (done.returncode, done.stderr) == (0, "")
            assert (
                done.stdout
                == f"supervisor {__version__} -> {__version__}, pid {supervisor.pid}, 3 instances untouched\n"
            )
            open_at_first = open_at_first or descriptors(supervisor.pid)
            load.more()
        wait_for(lambda: descriptors(supervisor.pid) <= open_at_first, "none leaks from one program to the next")
        assert box.status()["supervisor"]["started_at"] == started_at
        assert all(parent_of(pid) == supervisor.pid for pid, _ in before.values())
        supervisor.kill()
        load.more()
        box.up()
        load.more()

    assert load.failed == []
    assert {name: (box.instance(name)["pid"], box.instance(name)["generation"]) for name in names} == before
    assert all(len(box.starts(name)) == 1 for name in names)
    assert sum("upgraded: supervisor" in reason for reason in box.reasons()) == 5


def test_R22_children_stay_our_own_over_an_upgrade(box: Box) -> None:
    """So an exit is known by its status, and what a crash leaves is swept by its group."""
    box.config("a")
    for knob, value in {"runners": 2, "runner-ignore-term": 1}.items():
        box.set("a", knob, value)
    supervisor = box.up()
    wait_for(lambda: len(box.family("a")) == 3)
    first = box.family("a")
    upgraded(box)
    assert not box.instance("a")["adopted"]

    box.set("a", "exit-now", 7)
    wait_for(lambda: "SWEEPING" in box.changes("a"))
    box.clear("a", "exit-now")

    found = box.wait_started("a", 2)
    assert found["exit"]["code"] == 7
    assert not [pid for pid in first if alive(pid)]
    assert parent_of(found["pid"]) == supervisor.pid
    assert not [pid for pid in children_of(supervisor.pid) if process_state(pid) == "Z"]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_R22_what_was_adopted_stays_adopted_over_an_upgrade(box: Box) -> None:
    box.config("a", "b")
    box.up().kill()
    box.up()

    upgraded(box)

    assert box.instance("a")["adopted"]
    box.set("a", "exit-now", 3)
    wait_for(lambda: len(box.starts("a")) == 2)
    box.clear("a", "exit-now")
    box.wait_phase("a", "READY")
    assert any("exited (status unknown)" in reason for reason in box.reasons())
    assert box.ask("stop", names=["b"])["exit"] == 0
    assert box.family("b") == []


@pytest.mark.parametrize("how", ["ours", "adopted"])
def test_R22_a_server_that_dies_in_the_very_moment_of_the_exec_is_noticed(box: Box, gate: Path, how: str) -> None:
    box.config("a", "b", restart={"first": "0s"})
    box.set("a", "runners", 1)
    box.set("a", "runner-ignore-term")
    supervisor = box.up()
    if how == "adopted":
        supervisor.kill()
        supervisor = box.up()
    pid, other = box.instance("a")["pid"], box.instance("b")["pid"]
    wait_for(lambda: len(box.family("a")) == 2)
    runner = box.runners("a")[0]
    asked = box.send({"cmd": "upgrade", "version": __version__})
    reach_exec(box, supervisor)

    box.set("a", "exit-now", 7)
    wait_for(lambda: not alive(pid))
    box.clear("a", "exit-now")
    box.clear("a", "runner-ignore-term")
    gate.unlink()

    assert answer_on(asked)["ok"]
    found = box.wait_started("a", 2)
    assert found["exit"]["code"] == (7 if how == "ours" else None)
    assert not alive(runner)
    assert box.instance("b")["pid"] == other


def test_R30_R33_during_the_exec_the_lock_is_held_and_clients_wait_instead_of_failing(box: Box, gate: Path) -> None:
    box.config("a")
    supervisor = box.up()
    asked = box.send({"cmd": "upgrade", "version": __version__})
    half = box.connect()
    half.sendall(b'{"v": 1, "cmd": ')
    reach_exec(box, supervisor)

    second = box.start()
    assert second.wait() == 7
    later = box.send({"cmd": "status"})
    half.sendall(b'"status"}\n')
    gate.unlink()

    assert answer_on(asked)["pid"] == supervisor.pid
    assert answer_on(later)["status"]["supervisor"]["pid"] == supervisor.pid
    assert answer_on(half)["ok"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_R43_a_signal_in_the_very_moment_of_the_exec_is_not_lost(box: Box, gate: Path, number: int) -> None:
    box.config("a")
    supervisor = box.up()
    asked = box.send({"cmd": "upgrade", "version": __version__})
    reach_exec(box, supervisor)

    supervisor.signal(number)
    gate.unlink()

    assert supervisor.wait() == 0
    assert box.family("a") == []
    asked.close()


def test_R22_every_phase_is_what_it_was_after_an_upgrade(box: Box) -> None:
    """A wait is not begun anew, a failure not forgotten, and what is going down goes on going down."""
    box.config(
        instances={
            "failed": {"restart": {"policy": "never"}},
            "waiting": {"restart": {"first": "1h", "base": "1h", "cap": "1h"}},
            "starting": {"health": {"start_timeout": "10m"}},
            "stopped": {},
            "stopping": {"restart": {"stop_timeout": "30s"}},
            "killed": {"restart": {"stop_timeout": "4s"}},
            "sweeping": {},
            "unhealthy": {"health": {"unhealthy_timeout": "1h", "timeout": "500ms"}},
            "ready": {},
        },
        health={"timeout": "10s"},
    )
    box.set("failed", "exit", 3)
    box.set("waiting", "exit", 4)
    box.set("starting", "ready-gate", box.root / "gate")
    box.set("stopping", "term-gate", box.root / "gate")
    box.set("killed", "ignore-term")
    box.set("sweeping", "runners", 1)
    box.set("sweeping", "runner-ignore-term")
    box.up(ready=False, haste={"ollamux.domain.rules.SWEEP_TIMEOUT_S": 8.0})
    box.wait_phase("failed", "FAILED")
    box.wait_phase("waiting", "WAITING")
    for name in ("stopped", "stopping", "killed", "sweeping", "unhealthy", "ready"):
        box.wait_phase(name, "READY")
    wait_for(lambda: len(box.family("sweeping")) == 2)
    box.ask("stop", names=["stopped"])
    waits = box.send({"cmd": "stop", "names": ["stopping", "killed"]})
    box.set("unhealthy", "hang-api")
    box.wait_phase("unhealthy", "UNHEALTHY")
    box.set("sweeping", "exit-now", 5)
    box.wait_phase("sweeping", "SWEEPING")
    box.clear("sweeping", "exit-now")
    box.clear("sweeping", "runner-ignore-term")
    kept = ("phase", "wanted", "reason", "pid", "generation", "restarts", "exit", "since", "next_action")
    before = {entry["name"]: entry for entry in box.status()["instances"]}

    upgraded(box)

    after = {entry["name"]: entry for entry in box.status()["instances"]}
    for name, entry in before.items():
        if name not in ("killed", "sweeping"):  # their deadlines are short, to be seen to pass
            entry["reason"], after[name]["reason"] = (uncounted(each["reason"]) for each in (entry, after[name]))
            assert {key: after[name][key] for key in kept} == {key: entry[key] for key in kept}, name
            assert seconds_between(after[name]["next_at"], entry["next_at"]) < 1.0, name
    assert {entry["phase"] for entry in before.values()} >= {
        "FAILED", "WAITING", "STARTING", "STOPPED", "STOPPING", "UNHEALTHY", "READY"
    }  # fmt: skip
    (box.root / "gate").touch()
    box.wait_phase("starting", "READY")
    assert [outcome["words"] for outcome in answer_on(waits)["outcomes"]] == ["stopped", "stopped"]
    assert box.wait_started("sweeping", 2)["exit"]["code"] == 5
    assert "KILLING" in box.changes("killed")
    box.clear("unhealthy", "hang-api")
    box.wait_phase("unhealthy", "READY")
    assert len(box.starts("waiting")) == len(box.starts("unhealthy")) == 1


def uncounted(reason: str | None) -> str | None:
    """Leave out how often it has been seen: that goes on."""
    return reason and re.sub(r"\d+ checks", "checks", reason)


def seconds_between(one: str | None, other: str | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else 1e9
    return abs((datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds())


def test_failures_before_and_after_an_upgrade_count_together(box: Box) -> None:
    box.config("a", restart={"failure_limit": 4, "base": "50ms", "cap": "1h", "factor": 100, "first": "0s"})
    box.set("a", "exit", 1)
    box.up(ready=False)
    wait_for(lambda: len(box.starts("a")) == 3, "the third of four waits an hour")
    box.wait_phase("a", "WAITING")

    upgraded(box)
    box.ask("stop", names=["a"])
    box.clear("a", "exit")
    box.ask("start", names=["a"])

    assert box.instance("a")["generation"] == 4


def test_R12_who_waits_for_a_restart_is_answered_by_the_new_program(box: Box) -> None:
    box.config("a", "b")
    box.up()
    box.set("a", "ready-gate", box.root / "gate")
    waits = box.send({"cmd": "restart", "names": ["a"]})
    rolls = box.send({"cmd": "restart", "names": ["*"], "rolling": True, "wait": True})
    wait_for(lambda: len(box.starts("a")) >= 2)

    upgraded(box)
    (box.root / "gate").touch()

    assert [(one["name"], one["exit"]) for one in answer_on(waits)["outcomes"]] == [("a", 0)]
    assert [(one["name"], one["exit"]) for one in answer_on(rolls)["outcomes"]] == [("a", 0), ("b", 0)]
    assert len(box.starts("b")) == 2


def test_a_changed_file_is_not_applied_by_an_upgrade(box: Box) -> None:
    box.config("a")
    box.up()
    pid = box.instance("a")["pid"]
    box.config("a", num_parallel=7)
    wait_for(lambda: box.status()["supervisor"]["config_changed"])

    upgraded(box)

    assert box.status()["supervisor"]["config_changed"]
    assert box.instance("a")["pid"] == pid
    assert box.ask("restart", names=["a"])["exit"] == 0
    assert "OLLAMA_NUM_PARALLEL" not in environment_of(box.instance("a")["pid"])
    assert box.status()["supervisor"]["config_changed"]


def test_what_a_reload_has_put_in_force_stays_in_force(box: Box) -> None:
    box.config("a", "b")
    box.up()
    other = box.instance("b")["pid"]
    box.config("a", "b", instances={"a": {"num_parallel": 7}})
    assert box.ollamux("reload").returncode == 0
    pid = box.instance("a")["pid"]

    upgraded(box)

    assert not box.status()["supervisor"]["config_changed"]
    assert (box.instance("a")["pid"], box.instance("b")["pid"]) == (pid, other)
    assert box.ask("restart", names=["a"])["exit"] == 0
    assert environment_of(box.instance("a")["pid"])["OLLAMA_NUM_PARALLEL"] == "7"


def test_R82_the_environment_stays_with_the_supervisor_and_nothing_new_reaches_a_child(box: Box) -> None:
    box.config("a")
    box.env["NOTIFY_SOCKET"] = "/nowhere"
    box.set("a", "dump", box.root / "dump")
    supervisor = box.up()
    before = json.loads((box.root / "dump").read_text())

    upgraded(box)
    (box.root / "dump").unlink()
    box.ask("restart", names=["a"])

    assert environment_of(supervisor.pid)["NOTIFY_SOCKET"] == "/nowhere"
    after = json.loads((box.root / "dump").read_text())
    before["env"]["OLLAMUX_GENERATION"] = "2"
    assert after["env"] == before["env"]
    assert set(after["fds"]) == set(before["fds"]) == {"0", "1", "2"}


def test_R22_a_key_that_depends_on_the_version_of_ollama_stands_an_upgrade(box: Box) -> None:
    """What the program before this one had asked is carried over, and nobody is asked again."""
    box.config("a", headroom="1GiB")
    box.set("a", "dump", box.root / "dump")
    supervisor = box.up()
    before = json.loads((box.root / "dump").read_text())["env"]
    assert before["LLAMA_ARG_FIT_TARGET"] == "1024" and "OLLAMA_GPU_OVERHEAD" not in before

    upgraded(box)
    assert box.status()["supervisor"]["pid"] == supervisor.pid
    (box.root / "dump").unlink()
    box.ask("restart", names=["a"])

    after = json.loads((box.root / "dump").read_text())["env"]
    assert after == before | {"OLLAMUX_GENERATION": "2"}


def test_R23_an_upgrade_is_not_the_death_of_the_supervisor(box: Box) -> None:
    box.config("a", supervisor={"on_death": "stop"})
    supervisor = box.up()
    pid = box.instance("a")["pid"]

    upgraded(box)

    assert box.instance("a")["pid"] == pid
    assert box.status()["instances"][0]["phase"] == "READY"
    supervisor.kill()
    wait_for(lambda: not alive(pid), "now it goes")


def test_an_upgrade_is_refused_during_a_shutdown_and_without_a_supervisor(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "30s"})
    box.set("a", "term-gate", box.root / "gate")
    supervisor = box.up()
    down = box.send({"cmd": "down"})
    box.wait_phase("a", "STOPPING")

    done = box.ollamux("upgrade")
    assert (done.returncode, done.stderr.splitlines()[0]) == (7, "ollamux: the supervisor is stopping")
    (box.root / "gate").touch()
    assert answer_on(down)["ok"]
    supervisor.wait()

    assert box.ollamux("upgrade").returncode == 3


def test_two_upgrades_at_once_are_one_and_both_are_answered(box: Box) -> None:
    box.config("a")
    box.up()

    asked = [box.send({"cmd": "upgrade", "version": __version__}) for _ in range(2)]

    assert [answer_on(one)["ok"] for one in asked] == [True, True]
    assert sum("upgraded: supervisor" in reason for reason in box.reasons()) == 1


def test_the_version_is_told_and_the_new_one_runs(box: Box, installation: Installation) -> None:
    box.config("a")
    supervisor = box.up(haste={"ollamux.supervisor.watch.LEISURE_S": 0.0})
    box.status()
    installation.version("0.99.0")

    done = box.ollamux("upgrade")

    assert done.stdout == f"supervisor {__version__} -> 0.99.0, pid {supervisor.pid}, 1 instance untouched\n"
    assert box.status()["version"] == "0.99.0"
    assert box.ollamux("upgrade", "-q").stdout == ""
    installation.version("0.98.0")
    assert "0.99.0 -> 0.98.0" in box.ollamux("upgrade").stdout, "an older one that reads the hand-over may come back"


@pytest.mark.parametrize(
    ("module", "text", "words"),
    [
        ("supervisor/boot.py", "this is no Python", "SyntaxError"),
        ("render/table.py", "import no_such_module_at_all", "ModuleNotFoundError"),
        ("supervisor/carried.py", "SCHEMA = 2", "the hand-over has schema 1, this version reads 2"),
        ("config/cache.py", "def load_fleet(*_):\n    raise ValueError('not my kind of file')", "not my kind of file"),
        ("supervisor/taking.py", "def check(fd):\n    os._exit(0)", "it ended without a word"),
    ],
)
def test_a_version_that_cannot_take_over_changes_nothing(
    box: Box, installation: Installation, module: str, text: str, words: str
) -> None:
    box.config("a")
    supervisor = box.up(haste={"ollamux.supervisor.watch.LEISURE_S": 0.0})
    pid = box.instance("a")["pid"]
    installation.append(module, text)

    answer = answer_on(box.send({"cmd": "upgrade", "version": __version__}))

    assert (answer["ok"], answer["exit"]) == (False, 7)
    assert words in answer["message"] and f"supervisor {__version__} goes on" in answer["message"]
    assert box.listens(supervisor.pid)
    assert (box.instance("a")["pid"], box.instance("a")["phase"]) == (pid, "READY")
    assert any(words in reason and reason.startswith("not upgraded") for reason in box.reasons())
    installation.put()
    assert box.ollamux("upgrade").returncode == 0
    assert box.instance("a")["pid"] == pid


def test_a_version_that_hangs_is_given_up(box: Box, installation: Installation) -> None:
    box.config("a")
    box.up(haste={"ollamux.supervisor.watch.LEISURE_S": 0.0})
    box.status()
    installation.append("supervisor/taking.py", "import time\ndef check(fd):\n    time.sleep(1000)")

    done = box.ollamux("upgrade", "--timeout", "1s")

    assert (done.returncode, "did not say within 1 s" in done.stderr) == (8, True)
    assert box.instance("a")["phase"] == "READY"


def test_a_command_of_another_installation_is_told_so(box: Box, installation: Installation) -> None:
    box.config("a")
    box.up()

    answer = answer_on(box.send({"cmd": "upgrade", "version": "99.0.0"}))

    assert (answer["exit"], f"there is {__version__}, not 99.0.0" in answer["message"]) == (7, True)
    assert box.instance("a")["phase"] == "READY"


def test_an_exec_that_fails_changes_nothing(box: Box, installation: Installation) -> None:
    """The interpreter is there when the new version is asked, and gone when it is to run."""
    box.config("a")
    python = box.root / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    start = [str(python), "-P", "-c", "import sys; from ollamux.__main__ import main; main()", "up"]
    supervisor = Supervisor(0, box.stranger(*start, "--config", str(box.config_path), env=box.env))
    assert supervisor.process is not None
    supervisor.pid = supervisor.process.pid
    wait_for(lambda: box.socket_path.exists() and box.listens(supervisor.pid))
    box.wait_ready()
    box.supervisors.append(supervisor)
    box.strangers.remove(supervisor.process)
    pid, before = box.instance("a")["pid"], descriptors(supervisor.pid)
    installation.append(
        "supervisor/taking.py",
        "_check = check\ndef check(fd):\n    import sys\n    os.unlink(sys.executable)\n    return _check(fd)",
    )

    answer = answer_on(box.send({"cmd": "upgrade", "version": __version__}))

    assert answer["exit"] == 7
    assert (
        answer["message"]
        == f"{python} could not be started: No such file or directory; supervisor {__version__} goes on"
    )
    wait_for(lambda: descriptors(supervisor.pid) <= before, "what was opened for it is closed")
    box.set("a", "exit-now", 9)
    wait_for(lambda: len(box.starts("a")) == 2)
    box.clear("a", "exit-now")
    assert box.wait_phase("a", "READY")["exit"]["code"] == 9
    assert not alive(pid)
    box.set("a", "dump", box.root / "dump")
    box.ask("restart", names=["a"])
    assert set(json.loads((box.root / "dump").read_text())["fds"]) == {"0", "1", "2"}


@pytest.mark.parametrize("told", ["a client", "a service manager"])
def test_R29_a_supervisor_whose_files_are_taken_away_goes_on(box: Box, installation: Installation, told: str) -> None:
    """Whatever it can ever need is loaded before anybody hears that all are READY, or that the supervisor is."""
    box.config("a", "b", preload=["model"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(box.root / "notify"))
        manager.settimeout(60)
        box.env |= {"NOTIFY_SOCKET": manager.getsockname()} if told == "a service manager" else {}
        supervisor = box.start(haste={"ollamux.supervisor.watch.LEISURE_S": 3600.0})
        if told == "a service manager":
            assert manager.recv(4096).startswith(b"READY=1")
        else:
            wait_for(lambda: box.listens(supervisor.pid), "it listens")
            assert box.ask("wait")["exit"] == 0
    shutil.rmtree(installation.root)
    assert box.ask("wait")["exit"] == 0

    box.set("a", "words", "Error: it says why")
    box.set("a", "exit-now", 7)
    wait_for(lambda: len(box.starts("a")) == 2)
    box.clear("a", "exit-now")
    found = box.wait_phase("a", "READY")
    assert found["exit"]["code"] == 7
    assert any("it says why" in reason for reason in box.reasons())
    assert box.ask("restart", names=["b"])["exit"] == 0
    assert "did you mean" in box.ask("stop", names=["aa"])["hint"]
    assert box.ask("stop", names=["b"])["exit"] == 0
    assert box.ask("env", name="a")["ok"]
    for form in ("table", "wide", "json"):
        with box.send({"cmd": "draw", "format": form}) as connection:
            assert connection.recv(100).startswith(b"ollamux-text 0\n")
    upgrade = answer_on(box.send({"cmd": "upgrade", "version": "99.0.0"}))
    assert upgrade["exit"] == 7  # asked from the installation of the tests
    assert box.ask("down")["ok"]
    assert supervisor.wait() == 0


def test_R22_a_further_key_with_a_default_changes_no_fingerprint() -> None:
    from dataclasses import dataclass

    from ollamux.domain.spec import GpuRef, GpuRefKind, HealthSpec, InstanceSpec, Pinning
    from ollamux.supervisor.recovery import fingerprint

    @dataclass(frozen=True, slots=True, kw_only=True)
    class NextSpec(InstanceSpec):
        """What a later version may know."""

        invented: int = 5
        also: HealthSpec = HealthSpec()

    card = (GpuRef(kind=GpuRefKind.INDEX, value="0"),)
    known = {"name": "a", "port": 1, "pinning": Pinning.GPUS, "gpus": card}
    assert fingerprint(NextSpec(**known)) == fingerprint(InstanceSpec(**known))  # type: ignore[arg-type]
    assert fingerprint(NextSpec(**known, invented=6)) != fingerprint(NextSpec(**known))  # type: ignore[arg-type]
    assert fingerprint(InstanceSpec(**known, num_parallel=2)) != fingerprint(InstanceSpec(**known))  # type: ignore[arg-type]
    assert fingerprint(InstanceSpec(**known)) == (  # written down: it stands in files that the next version reads
        "b9795db8cf0ed5f67512d349f09a966d538e1054938a7bf657e4f7792a1a5699"
    )
    assert re.fullmatch("[0-9a-f]{64}", fingerprint(InstanceSpec(**known)))  # type: ignore[arg-type]
