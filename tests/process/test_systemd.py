"""ollamux as a service of a real systemd: what the unit promises, with a manager of the test's own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process_box import Box, alive, process_state, wait_for
from user_manager import UserManager, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def manager(box: Box) -> Iterator[UserManager]:
    made = UserManager(box)
    yield made
    made.close()


def install(box: Box, manager: UserManager, *words: str, **keys: Any) -> int:
    """Install and start the service; return the pid of its supervisor once all instances are READY."""
    box.config("a", "b", **keys)
    done = box.ollamux("service", "install", "--user", "--config", str(box.config_path), "--now", *words)
    assert done.returncode == 0, done.stdout + done.stderr + manager.log.read_text()[-3000:]
    assert manager.told("ActiveState") == "active"
    wait_for(
        lambda: manager.main_pid and box.listens(manager.main_pid), "the main process of the service is the supervisor"
    )
    box.wait_ready()
    return manager.main_pid


def successor(box: Box, manager: UserManager, supervisor: int) -> int:
    """Wait until the service has another supervisor, and it listens; return its pid."""

    def found() -> int:
        pid = manager.main_pid
        return pid if pid != supervisor and pid and box.listens(pid) else 0

    return wait_for(found, "another supervisor listens", timeout=60.0)


def pids(box: Box) -> dict[str, int]:
    return {name: int(box.instance(name)["pid"]) for name in ("a", "b")}


def override(box: Box, manager: UserManager, **settings: str) -> None:
    """Change settings of the service as `systemctl edit` does."""
    folder = box.home / ".config/systemd/user/ollamux.service.d"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    (folder / "override.conf").write_text(f"[Service]\n{lines}")
    manager.tell("daemon-reload")


def test_a_service_is_installed_runs_and_is_taken_away_again(box: Box, manager: UserManager) -> None:
    install(box, manager)
    unit = box.home / ".config/systemd/user/ollamux.service"
    assert unit.stat().st_mode & 0o777 == 0o644
    assert manager.systemctl("is-enabled", "ollamux").stdout.strip() == "enabled"
    wait_for(lambda: manager.told("StatusText") == "2 of 2 instances READY", "its status is told")
    assert box.ollamux("status").returncode == 0
    before = pids(box)

    again = box.ollamux("service", "install", "--user", "--config", str(box.config_path), "--now")
    assert again.returncode == 0, again.stderr
    assert "was there already" in again.stdout
    assert pids(box) == before

    gone = box.ollamux("service", "uninstall", "--user")
    assert gone.returncode == 0, gone.stderr
    assert not unit.exists()
    assert manager.told("LoadState") == "not-found"
    assert not any(map(alive, before.values()))
    assert box.ollamux("service", "uninstall", "--user").returncode == 0


@pytest.mark.parametrize("on_death", ["keep", "stop"])
def test_R81_a_stop_reaches_the_supervisor_alone_which_stops_all_and_starts_nothing(
    box: Box, manager: UserManager, on_death: str
) -> None:
    box.set("a", "runners", 1)
    install(box, manager, supervisor={"on_death": on_death}, restart={"stop_timeout": "60s"})
    gate = box.root / "gate"
    box.set("a", "term-gate", gate)
    before, runner = pids(box), box.runners("a")
    assert len(runner) == 1

    manager.tell("stop", "--no-block", "ollamux")
    box.wait_phase("b", "STOPPED")
    box.wait_phase("a", "STOPPING")
    box.stranger("/bin/sleep", "0.3").wait()
    assert alive(runner[0]), "the manager has signalled more than the supervisor"
    assert manager.told("ActiveState") == "deactivating"

    gate.touch()
    manager.wait_state("inactive")
    assert not any(map(alive, [*before.values(), *runner]))
    assert manager.told("Result") == "success"
    assert (len(box.starts("a")), len(box.starts("b"))) == (1, 1)


def test_R81_a_stop_may_take_as_long_as_the_configuration_says_whatever_the_unit_allows(
    box: Box, manager: UserManager
) -> None:
    box.set("a", "term-gate", box.root / "gate")
    supervisor = install(box, manager, restart={"stop_timeout": "60s"})
    override(box, manager, TimeoutStopSec="5s")

    manager.tell("stop", "--no-block", "ollamux")
    box.wait_phase("a", "STOPPING")
    box.stranger("/bin/sleep", "6").wait()  # longer than the unit allows

    assert (manager.main_pid, alive(supervisor)) == (supervisor, True)
    (box.root / "gate").touch()
    manager.wait_state("inactive")
    assert manager.told("Result") == "success"


def test_a_killed_supervisor_is_started_again_and_finds_its_instances(box: Box, manager: UserManager) -> None:
    supervisor = install(box, manager)
    before = pids(box)

    os.kill(supervisor, signal.SIGKILL)

    successor(box, manager, supervisor)
    box.wait_ready()
    assert pids(box) == before
    assert all(box.instance(name)["adopted"] for name in before)
    assert manager.told("NRestarts") == "1"
    manager.tell("stop", "ollamux")
    assert not any(map(alive, before.values()))


def test_with_stop_nothing_outlives_a_killed_supervisor(box: Box, manager: UserManager) -> None:
    supervisor = install(box, manager, supervisor={"on_death": "stop"})
    before = pids(box)

    os.kill(supervisor, signal.SIGKILL)

    successor(box, manager, supervisor)
    box.wait_ready()
    assert not any(map(alive, before.values()))
    assert not any(box.instance(name)["adopted"] for name in before)


def test_R80_a_runner_or_server_that_is_killed_for_memory_concerns_its_instance_alone(
    box: Box, manager: UserManager
) -> None:
    box.set("a", "runners", 1)
    supervisor = install(box, manager)
    assert manager.told("OOMPolicy") == "continue"
    before = pids(box)

    os.kill(box.runners("a")[0], signal.SIGKILL)
    os.kill(before["a"], signal.SIGKILL)

    box.wait_started("a", 2)
    assert manager.told("ActiveState") == "active"
    assert (manager.main_pid, manager.told("NRestarts")) == (supervisor, "0")
    assert (pids(box)["b"], len(box.starts("b"))) == (before["b"], 1)


@pytest.mark.parametrize("on_death", ["keep", "stop"])
def test_R83_a_supervisor_that_hangs_is_replaced(box: Box, manager: UserManager, on_death: str) -> None:
    supervisor = install(box, manager, supervisor={"on_death": on_death})
    assert manager.told("WatchdogUSec") == "30s"
    override(box, manager, WatchdogSec="4s")
    manager.tell("restart", "ollamux")
    supervisor = successor(box, manager, supervisor)
    box.wait_ready()
    before = pids(box)

    os.kill(supervisor, signal.SIGSTOP)

    successor(box, manager, supervisor)
    assert process_state(supervisor) in (None, "Z")
    box.wait_ready()
    assert (pids(box) == before) is (on_death == "keep")
    if on_death == "stop":
        assert not any(map(alive, before.values()))


def test_R83_a_supervisor_at_work_is_left_alone(box: Box, manager: UserManager) -> None:
    box.config("a", "b")
    done = box.ollamux("service", "install", "--user", "--config", str(box.config_path))
    assert done.returncode == 0, done.stderr
    override(box, manager, WatchdogSec="4s")
    manager.tell("start", "ollamux")
    supervisor = manager.main_pid
    box.wait_ready()

    box.stranger("/bin/sleep", "5").wait()  # longer than the time in which it has to be heard

    assert (manager.main_pid, manager.told("NRestarts")) == (supervisor, "0")


def test_down_by_hand_ends_the_service_for_good(box: Box, manager: UserManager) -> None:
    install(box, manager)

    assert box.ollamux("down").returncode == 0

    manager.wait_state("inactive")
    assert (manager.told("Result"), manager.told("NRestarts")) == ("success", "0")


def test_a_configuration_that_is_broken_later_is_not_tried_for_ever(box: Box, manager: UserManager) -> None:
    install(box, manager)
    manager.tell("stop", "ollamux")
    box.config_path.write_text("version = 1\n[instances.a]\nport = true\n")

    assert manager.systemctl("start", "ollamux").returncode != 0

    manager.wait_state("failed")
    assert (manager.told("ExecMainStatus"), manager.told("NRestarts")) == ("4", "0")


def test_any_path_reaches_the_supervisor_as_it_is(box: Box, manager: UserManager) -> None:
    odd = box.root / 'a b %h $HOME ${PATH} "q" \\ é;'
    odd.mkdir()
    box.config_path = odd / "ollamux.toml"
    box.state = odd / "state"
    box.env["OLLAMUX_STATE_DIR"] = os.fsdecode(box.state)

    install(box, manager)

    supervisor = manager.main_pid
    words = Path(f"/proc/{supervisor}/cmdline").read_bytes().split(b"\0")
    assert os.fsencode(box.config_path) in words
    environment = Path(f"/proc/{supervisor}/environ").read_bytes().split(b"\0")
    assert b"OLLAMUX_STATE_DIR=" + os.fsencode(box.state) in environment
    assert b"PATH=" + box.env["PATH"].encode() in environment
    manager.tell("stop", "ollamux")


def test_a_supervisor_of_somebody_else_is_not_run_over(box: Box, manager: UserManager) -> None:
    box.config("a")
    box.up()

    refused = box.ollamux("service", "install", "--user", "--config", str(box.config_path), "--now")
    assert refused.returncode == 7
    assert "running already" in refused.stderr
    assert not (box.home / ".config/systemd/user/ollamux.service").exists()

    done = box.ollamux("service", "install", "--user", "--config", str(box.config_path))
    assert done.returncode == 0
    assert "ollamux down, then systemctl --user start ollamux" in done.stdout


def test_a_changed_configuration_changes_the_unit_and_says_how_it_is_taken(box: Box, manager: UserManager) -> None:
    install(box, manager)
    box.config_path.write_text(box.config_path.read_text() + "")
    box.config("a", "b", supervisor={"on_death": "stop"})

    done = box.ollamux("service", "install", "--user", "--config", str(box.config_path))

    assert done.returncode == 0, done.stderr
    assert "systemctl --user restart ollamux" in done.stdout
    assert manager.told("KillMode") == "mixed"


def test_R47_a_reload_by_systemctl_applies_what_changed(box: Box, manager: UserManager) -> None:
    install(box, manager)
    box.wait_ready()
    before = box.instance("a")["pid"]
    box.config(instances={"a": {}, "b": {"context_length": 4096}})

    manager.tell("reload", "ollamux")

    box.wait_started("b", 2)
    assert box.instance("a")["pid"] == before
