"""What cron does to a supervisor, and what it mails: nothing while all is well, one message where it is not."""

from __future__ import annotations

import json
import os
import signal

import pytest
from process_box import Box, answer_on, wait_for

from ollamux.config.warn import start_warnings
from ollamux.domain.spec import FleetSpec


def counted(box: Box) -> tuple[int, int]:
    """Return the restarts of `a` for life: by itself and by hand."""
    found = box.instance("a")
    return found["auto_restarts"], found["manual_restarts"]


def test_R84_restarts_that_come_faster_than_a_start_are_one_restart(box: Box) -> None:
    gate = box.root / "gate"
    gate.touch()
    box.config(instances={"a": {"env": {"FAKE_READY_GATE": str(gate)}}}, health={"start_timeout": "1h"})
    box.up()
    gate.unlink()
    asking = [box.send({"cmd": "restart", "names": ["a"]})]
    wait_for(lambda: len(box.starts("a")) == 2, "the first restart has led to a start")

    for _ in range(11):
        answer = box.ask("restart", names=["a"], wait=False)
        assert answer["exit"] == 0
        asking.append(box.send({"cmd": "restart", "names": ["a"], "rolling": True}))

    wait_for(lambda: any("12 times by hand within 15 min" in reason for reason in box.reasons()), "it is told")
    gate.touch()
    assert [answer_on(connection)["exit"] for connection in asking] == [0] * 12
    assert len(box.starts("a")) == 2, "no start was cut off"
    assert counted(box) == (0, 1)
    assert sum("times by hand" in reason for reason in box.reasons()) == 1
    assert box.ask("restart", names=["a"])["exit"] == 0
    assert len(box.starts("a")) == 3, "what is ready is restarted"


def test_R84_a_start_that_nobody_asked_to_restart_is_cut_off_by_a_restart(box: Box) -> None:
    gate = box.root / "gate"
    box.config(instances={"a": {"env": {"FAKE_READY_GATE": str(gate)}}}, health={"start_timeout": "1h"})
    box.up(ready=False)
    box.wait_phase("a", "STARTING")
    wait_for(lambda: box.starts("a"))

    box.ask("restart", names=["a"], wait=False)

    wait_for(lambda: len(box.starts("a")) == 2, "it hangs for all we know, and a person wants another")
    gate.touch()
    box.wait_phase("a", "READY")


def test_R84_the_counts_of_restarts_outlive_everything(box: Box) -> None:
    box.config("a", restart={"failure_limit": 1, "retry_failed": "1h"})
    supervisor = box.up()
    assert counted(box) == (0, 0), "a first start is no restart"
    box.ask("restart", names=["a"])
    box.ask("stop", names=["a"])
    box.ask("start", names=["a"])
    assert counted(box) == (0, 1), "nor is a start after a stop"
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_phase("a", "FAILED")
    box.ask("start", names=["a"])
    assert counted(box) == (0, 2), "a start of what has failed is a restart by hand"
    box.ask("down")
    supervisor.wait()

    box.config("a")
    supervisor = box.up()
    assert counted(box) == (0, 2)
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_started("a", 6)
    assert counted(box) == (1, 2)
    shown = box.ollamux("status", "instances", "-o", "wide", env=box.env | {"COLUMNS": "250"}).stdout
    assert "Auto/asked" in shown
    assert " 1/2 " in shown
    wait_for(lambda: remembered(box) == (1, 2))
    supervisor.kill()

    box.up()
    assert counted(box) == (1, 2)


def test_R84_a_reload_restarts_by_hand_and_what_leaves_the_file_keeps_its_counts(box: Box) -> None:
    box.config("a", "b")
    box.up()
    box.config("b", instances={"a": {"num_parallel": 3}})
    assert box.ollamux("reload").returncode == 0
    assert counted(box) == (0, 1), "whoever changed the file wanted it"
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_started("a", 3)
    box.config("b")
    assert box.ollamux("reload").returncode == 0
    wait_for(lambda: [entry["name"] for entry in box.status()["instances"]] == ["b"])

    box.config("a", "b")
    assert box.ollamux("reload").returncode == 0

    assert box.wait_started("a", 4)["phase"] == "READY"
    assert counted(box) == (1, 1), "to come back is no restart"


def remembered(box: Box) -> tuple[int, int]:
    entry = json.loads((box.state / "state.json").read_text())["units"]["a"]
    return entry["auto_restarts"], entry["manual_restarts"]


def test_R85_cron_has_nothing_to_mail_while_all_is_well(box: Box) -> None:
    box.config("a", "b", ollama=str(box.ollama))
    bare = {name: value for name, value in box.env.items() if name.startswith("OLLAMUX_")}
    box.up()

    for words in (
        ("restart", "--all", "-q"),
        ("restart", "--rolling", "--if-running", "-q"),
        ("restart", "a", "--if-running", "-q"),
        ("restart", "--if-unhealthy", "-q"),
        ("stop", "b", "-q"),
        ("start", "b", "-q"),
        ("up", "--ensure", "-q", "--config", str(box.config_path)),
    ):
        done = box.ollamux(*words, env=bare)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words
    assert len(box.starts("a")) == 4


def test_R85_what_failed_is_mailed_once(box: Box) -> None:
    box.config("a", "b", restart={"failure_limit": 1, "retry_failed": "1h"})
    box.up()
    box.set("a", "exit", 3)

    done = box.ollamux("restart", "--all", "-q")

    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.count("exited with status 3") == 1
    assert " b " not in done.stderr, "what went well is no news"
    box.ask("down")
    wait_for(lambda: not box.socket_path.exists())
    done = box.ollamux("restart", "--all", "-q")
    assert (done.returncode, done.stdout) == (3, "")
    assert 1 <= len(done.stderr.splitlines()) <= 2
    assert box.ollamux("restart", "--all", "--if-running", "-q").stderr == ""


def test_R88_root_is_warned_and_not_refused(box: Box) -> None:
    box.config("a")
    box.up()

    warned = [reason for reason in box.reasons() if "running as root" in reason]

    assert len(warned) == (1 if os.geteuid() == 0 else 0)
    assert all("a user of its own is safer" in reason for reason in warned)
    assert box.instance("a")["phase"] == "READY"


def test_R88_the_warning_is_for_root_alone() -> None:
    fleet = FleetSpec()
    more = set(start_warnings(fleet, root=True)) - set(start_warnings(fleet, root=False))
    assert [text for text in more if text.startswith("running as root")] == list(more)
    assert len(more) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is that careful")
def test_R88_root_is_refused_a_configuration_that_others_could_write(box: Box) -> None:
    box.config("a").chmod(0o666)

    done = box.ollamux("up", "--config", str(box.config_path))

    assert done.returncode == 9
    assert "can be written by everybody" in done.stderr
    assert box.starts("a") == []
