"""What a service manager is told, and by whom: the test is the manager, with a datagram socket of its own."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_box import Box, Supervisor, all_pids, environment_of, parent_of, wait_for, words_of

from ollamux.domain.spec import FleetSpec
from ollamux.supervisor.core import Core
from ollamux.supervisor.journal import Journal
from ollamux.supervisor.service import ServiceManager
from ollamux.system.notify_socket import take_manager_env

FROM_MANAGER = {
    "INVOCATION_ID": "0123",
    "JOURNAL_STREAM": "8:1",
    "LISTEN_FDS": "1",
    "LISTEN_FDNAMES": "a",
    "SYSTEMD_EXEC_PID": "1",
    "MANAGERPID": "1",
}


class Manager:
    """Hears what is said to a service manager."""

    def __init__(self, box: Box, *, abstract: bool = False) -> None:
        path = str(box.runtime.parent / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{path}" if abstract else path)
        self.socket.setblocking(False)
        self.env = {"NOTIFY_SOCKET": f"@{path}" if abstract else path, **FROM_MANAGER}
        self.heard: list[dict[str, str]] = []

    def listen(self) -> list[dict[str, str]]:
        """Return everything that was said so far, one dictionary a datagram."""
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return self.heard
            words = (line.partition("=") for line in data.decode().splitlines())
            self.heard.append({name: value for name, _, value in words})

    def says(self, **words: str) -> dict[str, str]:
        """Wait until a datagram holds these words; return it."""

        def found() -> dict[str, str] | None:
            return next((one for one in self.listen() if words.items() <= one.items()), None)

        try:
            return wait_for(found, f"the manager hears {words}") or {}
        except AssertionError as error:
            raise AssertionError(f"{error}; it heard {self.heard}") from None

    @property
    def ticks(self) -> int:
        return sum("WATCHDOG" in one for one in self.listen())


@pytest.fixture
def manager(box: Box) -> Iterator[Manager]:
    made = Manager(box)
    yield made
    made.socket.close()


def begin(box: Box, manager: Manager, *, ready: bool = True, **env: str) -> Supervisor:
    box.env |= manager.env | env
    return box.up(ready=ready)


def test_R82_ready_is_said_when_the_supervisor_listens_and_not_when_models_answer(box: Box, manager: Manager) -> None:
    box.config("a", "b")
    for name in ("a", "b"):
        box.set(name, "ready-gate", box.root / "gate")

    supervisor = begin(box, manager, ready=False)

    said = manager.says(READY="1")
    assert said == {"READY": "1", "MAINPID": str(supervisor.pid), "STATUS": "0 of 2 instances READY"}
    assert box.instance("a")["phase"] == "STARTING"
    (box.root / "gate").touch()
    manager.says(STATUS="2 of 2 instances READY")


def test_an_abstract_socket_is_understood_too(box: Box) -> None:
    manager = Manager(box, abstract=True)
    box.config("a")

    begin(box, manager)

    manager.says(STATUS="1 of 1 instance READY")
    manager.socket.close()


def test_the_status_names_what_has_failed_and_is_said_only_when_it_changes(box: Box, manager: Manager) -> None:
    box.config("a", "b", restart={"failure_limit": 1, "policy": "never"})
    begin(box, manager)
    manager.says(STATUS="2 of 2 instances READY")

    box.set("b", "exit-now", 3)

    manager.says(STATUS="1 of 2 instances READY; b FAILED")
    box.ask("stop", names=["a"])
    manager.says(STATUS="0 of 2 instances READY; b FAILED")
    told = [one["STATUS"] for one in manager.listen() if "STATUS" in one]
    assert all(one != other for one, other in itertools.pairwise(told)), told


def test_the_end_is_announced_with_the_time_it_may_take(box: Box, manager: Manager) -> None:
    box.config("a", restart={"stop_timeout": "7s"})
    supervisor = begin(box, manager)

    supervisor.signal(signal.SIGTERM)

    said = manager.says(STOPPING="1")
    assert int(said["EXTEND_TIMEOUT_USEC"]) >= 7_000_000
    assert supervisor.wait() == 0
    after = manager.listen()[manager.heard.index(said) :]
    assert not any("READY" in one for one in after)


def test_R83_a_loop_that_goes_round_is_heard_and_one_that_hangs_is_not(box: Box, manager: Manager) -> None:
    box.config("a")
    supervisor = begin(box, manager, WATCHDOG_USEC="100000")
    seen = manager.ticks
    wait_for(lambda: manager.ticks >= seen + 5, "signs of life come")

    supervisor.signal(signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{supervisor.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    silent_at = manager.ticks
    box.stranger("/bin/sleep", "0.5").wait()  # ten ticks' worth of nothing is what is looked for
    assert manager.ticks == silent_at

    supervisor.signal(signal.SIGCONT)
    wait_for(lambda: manager.ticks > silent_at, "they come again")


def test_R83_a_loop_that_computes_without_end_gives_no_sign_of_life(box: Box, manager: Manager) -> None:
    """The process lives, and all else of it could speak: the signs come from the very loop that does the work."""
    box.config("a")
    supervisor = begin(box, manager, WATCHDOG_USEC="100000")
    seen = manager.ticks
    wait_for(lambda: manager.ticks >= seen + 3, "signs of life come")

    (box.root / "spin").touch()
    wait_for((box.root / "spinning").exists, "it spins")
    silent_at = manager.ticks
    box.stranger("/bin/sleep", "0.5").wait()  # ten ticks' worth of nothing is what is looked for

    assert manager.ticks == silent_at
    assert supervisor.runs
    (box.root / "spin").unlink()
    wait_for(lambda: manager.ticks > silent_at, "they come again")


def test_R83_signs_of_life_come_at_half_the_time_that_is_given(box: Box, manager: Manager) -> None:
    box.config("a")
    begin(box, manager, WATCHDOG_USEC="600000")
    first = manager.ticks
    began = time.monotonic()

    wait_for(lambda: manager.ticks >= first + 6, "six signs of life")

    assert time.monotonic() - began > 1.2  # the first may be due at once, the five after it are not


@pytest.mark.parametrize("env", [{}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_who_is_not_watched_gives_no_sign_of_life(box: Box, manager: Manager, env: dict[str, str]) -> None:
    box.config("a")

    begin(box, manager, **env)

    manager.says(STATUS="1 of 1 instance READY")
    assert manager.ticks == 0


def test_a_manager_that_is_gone_or_never_reads_is_no_reason_to_stumble(box: Box, manager: Manager) -> None:
    box.config("a")
    begin(box, manager, WATCHDOG_USEC="2000")
    wait_for(lambda: box.rounds() > 200, "far more was said than its queue holds")
    assert box.instance("a")["phase"] == "READY"

    os.unlink(manager.env["NOTIFY_SOCKET"])
    box.ask("restart", names=["a"])

    assert len(box.starts("a")) == 2


def test_R82_nothing_of_the_managers_words_reaches_any_other_process(box: Box, manager: Manager) -> None:
    told = box.root / "told"
    program = box.bin / "tell"
    program.write_text(f"#!/bin/sh\nenv > {told}.new && mv {told}.new {told}\n")
    program.chmod(0o755)
    box.config("a", restart={"policy": "never"}, supervisor={"notify": [str(program)]})
    words = {**manager.env, "WATCHDOG_USEC": "30000000"}
    supervisor = begin(box, manager, WATCHDOG_USEC="30000000")

    def helper() -> list[int]:
        return [pid for pid in all_pids() if "ollamux.gpu.helper" in words_of(pid) and _parent(pid) == supervisor.pid]

    others = [*wait_for(helper, "the helper that reads the GPUs"), box.instance("a")["pid"]]
    for pid in others:
        env = environment_of(pid)
        assert env, words_of(pid)
        assert not env.keys() & words.keys(), words_of(pid)

    box.set("a", "exit-now", 3)
    wait_for(told.exists, "the program of `notify` has run")
    names = {line.partition("=")[0] for line in told.read_text().splitlines()}
    assert "HOME" in names and not names & words.keys()


def _parent(pid: int) -> int | None:
    try:
        return parent_of(pid)
    except OSError:
        return None


def test_R82_the_viewer_on_a_terminal_gets_none_of_it_either(box: Box, manager: Manager) -> None:
    box.config("a")
    main, tail = os.openpty()
    process = box.stranger(
        str(Path(sys.executable).with_name("ollamux")),
        *("up", "--config", str(box.config_path)),
        env=box.env | manager.env | {"TERM": "xterm"},
        cwd=box.root,
        stdout=tail,
        stderr=tail,
    )

    def viewer() -> list[int]:
        found = (pid for pid in all_pids() if "ollamux.cli.viewer" in words_of(pid))
        return [pid for pid in found if _parent(pid) == process.pid and environment_of(pid)]

    for pid in wait_for(viewer, "the viewer"):
        assert not environment_of(pid).keys() & manager.env.keys()
    said = manager.says(READY="1")
    assert said["MAINPID"] == str(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    os.close(main)
    os.close(tail)


@pytest.mark.parametrize("cold", [True, False])
def test_the_process_that_a_service_manager_starts_is_the_supervisor_itself(
    box: Box, manager: Manager, cold: bool
) -> None:
    """With a validated configuration in the cache or without: the second starts afresh, in the same process."""
    box.config("a")
    if not cold:
        box.up_detached()
        assert box.ollamux("down").returncode == 0
    env = box.env | manager.env

    supervisor = box.start("--config", str(box.config_path), env=env)

    assert manager.says(READY="1")["MAINPID"] == str(supervisor.pid)
    wait_for(lambda: box.listens(supervisor.pid), "it listens")
    assert not environment_of(box.instance("a")["pid"]).keys() & manager.env.keys()


def test_a_detached_supervisor_says_which_process_it_is(box: Box, manager: Manager) -> None:
    box.config("a")

    supervisor = box.up_detached(env=box.env | manager.env)

    assert manager.says(READY="1")["MAINPID"] == str(supervisor.pid)


def test_R46_a_reload_is_announced_and_its_end_too(box: Box, manager: Manager) -> None:
    box.config("a")
    begin(box, manager)
    manager.says(STATUS="1 of 1 instance READY")
    box.config("a", "b")

    assert box.ollamux("reload").returncode == 0

    began = manager.says(RELOADING="1")
    assert int(began["MONOTONIC_USEC"]) > 0
    after = manager.listen()[manager.heard.index(began) :]
    assert any("READY" in one for one in after)
    manager.says(STATUS="2 of 2 instances READY")


def test_a_reload_is_told_with_its_time_and_ends_with_ready(box: Box, manager: Manager) -> None:
    box.state.mkdir()
    core = Core(FleetSpec(), journal=Journal(str(box.state)), owner="nobody", log_dir=str(box.logs))
    env = take_manager_env({**manager.env, "WATCHDOG_USEC": "60000000"}, pid=os.getpid())
    told = ServiceManager(core, env)
    told.ready()
    before = time.monotonic_ns() // 1000

    told.reloading()
    told.ready()
    core.loop.close()

    heard = manager.listen()
    assert before <= int(heard[-2]["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert (heard[-2]["RELOADING"], heard[-1]["READY"]) == ("1", "1")
    assert manager.ticks == 1, "a second `ready` begins no second row of ticks"


def test_a_program_that_takes_over_can_be_handed_what_the_manager_said(manager: Manager) -> None:
    given = {**manager.env, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "42", "HOME": "/home/x"}
    env = dict(given)

    taken = take_manager_env(env, pid=42)

    assert env == {"HOME": "/home/x"}
    assert dict(taken.variables) == {name: value for name, value in given.items() if name != "HOME"}
    assert (taken.address, taken.watchdog_s) == (manager.env["NOTIFY_SOCKET"], 1.0)
    assert take_manager_env({**given}, pid=43).watchdog_s is None
