"""The user's own program is told what happens, and can do no harm: hanging, crashing, missing, forking, flooding."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from process_box import Box, alive, environment_of, wait_for

from ollamux.supervisor.errand import clean

HASTE = {
    "ollamux.supervisor.notify.SPACING_S": 0.05,
    "ollamux.supervisor.notify.LOOK_AGAIN_S": 0.05,
    "ollamux.supervisor.errand.DEADLINE_S": 0.5,
}
MOST = 4


class Notified:
    """A box whose instances fail at once, and a program that is told of it."""

    def __init__(self, box: Box, script: str) -> None:
        self.box = box
        self.program = box.bin / "tell"
        self.told, self.pids_file = box.root / "told", box.root / "pids"
        self.program.write_text(f"#!/bin/sh\necho $$ >> {self.pids_file}\n{script}\n".replace("TOLD", str(self.told)))
        self.program.chmod(0o755)

    def up(self, *names: str, haste: dict[str, float] | None = None, **env: str) -> None:
        box = self.box
        box.env.update(env)
        box.config(
            *(names or ("a",)),
            supervisor={"notify": [str(self.program), "an argument"]},
            restart={"failure_limit": 1, "retry_failed": "1h"},
        )
        for name in names or ("a",):
            box.set(name, "exit", 1)
        box.up(ready=False, haste=HASTE | (haste or {}))
        for name in names or ("a",):
            box.wait_phase(name, "FAILED")

    def pids(self) -> list[int]:
        return [int(line) for line in self.pids_file.read_text().split()] if self.pids_file.exists() else []

    def recover(self, name: str = "a") -> None:
        self.box.clear(name, "exit")
        assert self.box.ask("start", names=[name])["exit"] == 0


def test_it_reads_one_event_and_its_environment_is_clean(box: Box) -> None:
    notified = Notified(box, 'cat > TOLD.new; env > TOLD.env; echo "$1" > TOLD.words; mv TOLD.new TOLD')
    notified.up(NOTIFY_SOCKET="/nowhere", WATCHDOG_USEC="1", LISTEN_FDS="3", OLLAMUX_INSTANCE="a", MINE="kept")

    wait_for(notified.told.exists)

    event = json.loads(notified.told.read_text())
    assert (event["instance"], event["from"], event["to"]) == ("a", "READY", "FAILED")
    assert "gave up" in event["reason"]
    assert Path(f"{notified.told}.words").read_text() == "an argument\n"
    env = dict(line.split("=", 1) for line in Path(f"{notified.told}.env").read_text().splitlines() if "=" in line)
    assert env["MINE"] == "kept"
    assert not [name for name in env if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_", "FAKE_", "OLLAMUX_INST"))]


def test_what_speaks_to_the_service_manager_is_not_passed_on() -> None:
    env = {"PATH": "/bin", "LISTEN_PID": "1", "WATCHDOG_PID": "1", "NOTIFY_SOCKET": "x", "OLLAMUX_GENERATION": "3"}
    assert clean(env | {"OLLAMUX_STATE_DIR": "/s"}) == {"PATH": "/bin", "OLLAMUX_STATE_DIR": "/s"}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("sleep 3600 & exec sleep 3600", "was killed with its group: it ran for more than 0.5 s"),
        ("exec sleep 3600 < /dev/null", "was killed with its group"),
        ("trap '' TERM HUP INT; while :; do sleep 1; done", "was killed with its group"),
        ("exit 3", "exited with status 3"),
        ("kill -SEGV $$", "was killed by SIGSEGV"),
        ("while :; do echo 0123456789012345678901234567890123456789; done", "was killed with its group"),
    ],
    ids=["hangs with a child", "reads nothing", "ignores signals", "fails", "crashes", "floods"],
)
def test_one_that_misbehaves_is_ended_and_said_once(box: Box, script: str, said: str) -> None:
    notified = Notified(box, script)
    notified.up()
    wait_for(lambda: any(said in reason for reason in box.reasons()), said)
    wait_for(lambda: not any(alive(pid) for pid in notified.pids()), "it is gone")

    notified.recover()

    wait_for(lambda: len(notified.pids()) == 2, "the next one is started all the same")
    wait_for(lambda: not any(alive(pid) for pid in notified.pids()))
    assert sum("notify: " in reason for reason in box.reasons()) == 1, "once a minute at most"
    assert box.instance("a")["phase"] == "READY"


def test_one_that_is_missing_is_said_and_harms_nothing(box: Box) -> None:
    notified = Notified(box, "")
    notified.program.unlink()
    notified.up()
    wait_for(lambda: any("could not be started: No such file" in reason for reason in box.reasons()))
    notified.recover()
    assert box.instance("a")["phase"] == "READY"


def test_what_it_leaves_in_its_group_has_the_rest_of_its_time_and_what_leaves_the_group_is_nobodys(box: Box) -> None:
    notified = Notified(box, "(sleep 3600; :) & echo $! > TOLD; setsid sleep 0.1 & exit 0")
    notified.up(haste={"ollamux.supervisor.errand.DEADLINE_S": 1.0, "ollamux.supervisor.errand.YOUNG_S": 0.0})
    wait_for(lambda: notified.told.exists() and notified.told.read_text().strip())
    left = int(notified.told.read_text())

    assert left not in box.family("a")
    assert "OLLAMUX_INSTANCE" not in environment_of(left)
    notified.recover()

    wait_for(lambda: not alive(left), "it is killed with the group")
    assert box.instance("a")["phase"] == "READY"
    assert "SWEEPING" not in box.changes("a")


def test_no_more_than_a_few_run_at_a_time_and_all_are_told_in_the_end(box: Box) -> None:
    names = [f"i{number}" for number in range(8)]
    gate = box.root / "gate"
    notified = Notified(box, f"cat >> TOLD; while [ ! -e {gate} ]; do sleep 0.05; done")
    notified.up(*names, haste={"ollamux.supervisor.errand.DEADLINE_S": 3600.0})
    wait_for(lambda: len(notified.pids()) == MOST)
    seen = box.rounds()
    wait_for(lambda: box.rounds() > seen + 40)
    assert len(notified.pids()) == MOST

    gate.touch()

    wait_for(lambda: len(notified.pids()) == len(names))
    wait_for(lambda: notified.told.read_text().count("\n") == len(names))
    assert {json.loads(line)["instance"] for line in notified.told.read_text().splitlines()} == set(names)


def test_a_shutdown_waits_for_none_and_leaves_none_that_hangs(box: Box) -> None:
    notified = Notified(box, "exec sleep 3600")
    notified.up(haste={"ollamux.supervisor.errand.DEADLINE_S": 3600.0, "ollamux.supervisor.errand.YOUNG_S": 0.0})
    wait_for(notified.pids)
    (pid,) = notified.pids()
    assert alive(pid)

    supervisor = box.supervisors[-1]
    supervisor.signal(signal.SIGTERM)

    assert supervisor.wait() == 0
    wait_for(lambda: not alive(pid))


def test_a_zombie_of_it_is_collected(box: Box) -> None:
    notified = Notified(box, "exit 0")
    notified.up()
    wait_for(notified.pids)
    (pid,) = notified.pids()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "not even a zombie is left")


def test_a_program_that_cannot_be_run_is_told_before_the_night_it_is_needed(box: Box) -> None:
    box.config("a", supervisor={"notify": [str(box.root / "nobody")]})
    told = f"notify: {box.root}/nobody is no program that this user may run"
    assert told in box.ollamux("config", "check", "--here", str(box.config_path)).stderr
    box.config("a")
    box.up()
    box.config("a", supervisor={"notify": [str(box.root / "nobody")]})

    assert box.ollamux("reload").returncode == 0

    assert any(told in reason for reason in box.reasons())
