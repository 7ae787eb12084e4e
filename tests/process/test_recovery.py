"""A supervisor that is killed, replaced or upgraded while its servers go on; and what must never be signalled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from process_box import (
    COMMAND,
    Box,
    Process,
    Supervisor,
    alive,
    environment_of,
    parent_of,
    process_state,
    wait_for,
)


def remembered(box: Box) -> dict[str, Any]:
    return dict(json.loads((box.state / "state.json").read_text()))


def remember(box: Box, record: dict[str, Any]) -> None:
    (box.state / "state.json").write_text(json.dumps(record))


def test_R22_the_next_up_adopts_what_the_killed_supervisor_left(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up()
    before = {name: box.instance(name)["pid"] for name in ("a", "b")}

    supervisor.kill()
    assert all(alive(pid) for pid in before.values())
    box.up()

    for name, pid in before.items():
        found = box.wait_phase(name, "READY")
        assert (found["pid"], found["adopted"], found["generation"]) == (pid, True, 1)
        assert found["ollama_version"] == "0.32.15"
        assert len(box.starts(name)) == 1


def test_R22_an_adopted_instance_can_be_stopped(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 2)
    box.up().kill()
    box.up()
    assert len(wait_for(lambda: box.family("a"))) == 3

    assert box.ask("stop", names=["a"])["exit"] == 0

    assert box.family("a") == []


def test_R22_an_adopted_instance_can_be_restarted_and_is_then_a_child(box: Box) -> None:
    box.config("a")
    box.up().kill()
    supervisor = box.up()
    first = box.instance("a")["pid"]

    assert box.ask("restart", names=["a"])["exit"] == 0

    found = box.instance("a")
    assert found["pid"] != first
    assert not found["adopted"]
    assert found["generation"] == 2
    assert parent_of(found["pid"]) == supervisor.pid
    assert not alive(first)


def test_R22_an_adopted_server_that_ignores_term_is_killed_with_all_its_runners(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "200ms"})
    box.set("a", "ignore-term")
    box.set("a", "runners", 2)
    box.set("a", "runner-setsid")
    box.set("a", "runner-ignore-term")
    supervisor = box.up()
    wait_for(lambda: len(box.family("a")) == 3)
    supervisor.kill()
    box.up()

    assert box.ask("stop", names=["a"])["exit"] == 0

    assert box.family("a") == []
    assert "KILLING" in box.changes("a")


def test_R22_the_end_of_an_adopted_server_is_a_failure_of_unknown_status(box: Box) -> None:
    box.config("a", restart={"policy": "on-failure"})
    box.set("a", "runners", 1)
    box.set("a", "runner-ignore-term")
    supervisor = box.up()
    wait_for(lambda: len(box.family("a")) == 2)
    supervisor.kill()
    box.up()
    runner = box.runners("a")[0]

    box.set("a", "exit-now", 0)
    wait_for(lambda: "SWEEPING" in box.changes("a"))
    box.clear("a", "exit-now")

    found = box.wait_started("a", 2)
    assert not alive(runner)
    assert found["exit"]["code"] is None
    assert any("exited (status unknown)" in reason for reason in box.reasons())


def test_R22_the_checks_of_an_adopted_instance_go_on(box: Box) -> None:
    box.config("a", health={"timeout": "150ms"})
    box.up().kill()
    box.up()

    box.set("a", "hang-api")

    wait_for(lambda: len(box.starts("a")) == 2, "it is restarted")
    box.clear("a", "hang-api")
    box.wait_phase("a", "READY")
    assert "UNHEALTHY" in box.changes("a")


def test_R22_an_instance_that_the_configuration_has_changed_is_replaced_not_adopted(box: Box) -> None:
    box.config("a", "b", "c")
    supervisor = box.up()
    pids = {name: box.instance(name)["pid"] for name in ("a", "b", "c")}
    supervisor.kill()
    box.config("a", instances={"b": {"num_parallel": 3}})

    box.up()

    assert box.instance("a")["pid"] == pids["a"]
    changed = box.instance("b")
    assert changed["pid"] != pids["b"]
    assert changed["generation"] == 2
    wait_for(lambda: not alive(pids["c"]), "what is not configured any more is ended")
    assert any(f"ending pid {pids['c']}" in reason for reason in box.reasons())


def test_R22_keys_that_concern_only_the_supervisor_change_without_a_restart(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    pid = box.instance("a")["pid"]
    supervisor.kill()
    box.config("a", health={"interval": "70ms"}, restart={"failure_limit": 5})

    box.up()

    assert box.instance("a")["pid"] == pid


def test_R22_restarts_and_generations_outlive_the_supervisor(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    box.ask("restart", names=["a"])
    before = box.instance("a")
    supervisor.kill()

    box.up()

    after = box.instance("a")
    assert (after["generation"], after["restarts"]) == (before["generation"], before["restarts"]) == (2, 1)


@pytest.mark.parametrize("lie", ["foreign", "marked"])
def test_R22_R24_S12_a_wrong_identity_is_never_signalled(box: Box, lie: str) -> None:
    """The record names another process: without our mark, or with the mark of another place."""
    box.config("a")
    box.up_detached()
    assert box.ollamux("down").returncode == 0
    env = dict(box.env)
    if lie == "marked":
        env |= {"OLLAMUX_SUPERVISOR": "/somewhere/else", "OLLAMUX_INSTANCE": "a", "OLLAMUX_GENERATION": "1"}
    stranger = box.stranger(sys.executable, "-IS", "-c", "import signal; signal.pause()", env=env)
    wait_for(lambda: process_state(stranger.pid) == "S")
    record = remembered(box)
    fields = {"pid": stranger.pid, "stopped": False, "start_ticks": start_ticks(stranger.pid)}
    record["units"]["a"].update(fields)
    remember(box, record)

    box.up()
    assert not box.instance("a")["adopted"]
    box.ask("restart", names=["a"])
    box.ask("down")

    assert stranger.poll() is None, "a stranger was signalled"


def test_R22_a_process_that_started_at_another_time_is_not_adopted_though_it_bears_the_mark(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    pid = box.instance("a")["pid"]
    supervisor.kill()
    record = remembered(box)
    assert record["units"]["a"]["start_ticks"] == start_ticks(pid)
    record["units"]["a"]["start_ticks"] += 1
    remember(box, record)

    box.up()

    assert not box.instance("a")["adopted"]
    assert not alive(pid)


def start_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def test_R24_after_a_reboot_nothing_but_the_generation_is_believed(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    first = box.instance("a")["pid"]
    box.ask("restart", names=["a"])
    box.ask("stop", names=["a"])
    supervisor.kill()
    record = remembered(box)
    assert record["units"]["a"]["stopped"]
    record["boot_id"] = "another-boot"
    assert not alive(first)
    stranger = box.stranger("/bin/sleep", "600")
    record["units"]["a"] |= {"pid": stranger.pid, "start_ticks": start_ticks(stranger.pid)}
    remember(box, record)

    box.up()

    found = box.instance("a")
    assert (found["phase"], found["generation"], found["adopted"]) == ("READY", 3, False)
    box.ask("restart", names=["a"])
    assert stranger.poll() is None, "who has the number now is nobody's business"


def test_R24_what_was_written_down_in_another_boot_is_not_adopted_whatever_else_fits(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    first = box.instance("a")["pid"]
    supervisor.kill()
    record = remembered(box)
    record["boot_id"] = "another-boot"
    remember(box, record)

    box.up()

    found = box.instance("a")
    assert (found["adopted"], found["generation"]) == (False, 2)
    assert found["pid"] != first
    assert not alive(first), "its mark proves it to be ours: it is ended, not adopted"


def test_R26_what_was_started_but_not_written_down_is_found_by_its_mark(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 1)
    supervisor = box.up()
    wait_for(lambda: len(box.family("a")) == 2)
    left = box.family("a")
    supervisor.kill()
    (box.state / "state.json").unlink()

    box.up()

    found = box.instance("a")
    assert found["pid"] not in left
    assert found["generation"] == 2
    assert not [pid for pid in left if alive(pid)]


def test_R26_leftovers_that_ignore_term_are_killed_before_the_next_start(box: Box) -> None:
    box.config("a")
    box.set("a", "ignore-term")
    supervisor = box.up()
    left = box.instance("a")["pid"]
    supervisor.kill()
    (box.state / "state.json").unlink()

    box.up(ready=False)

    waiting = box.wait_phase("a", "WAITING")
    assert waiting["reason"] == f"waits until what an earlier run left is gone (pid {left})"
    box.wait_phase("a", "READY")
    assert not alive(left)


def test_R26_ports_that_were_swapped_between_two_lives_are_waited_for_by_name(box: Box) -> None:
    box.config("a", "b")
    box.set("b", "ignore-term")
    supervisor = box.up()
    left = box.instance("b")["pid"]
    supervisor.kill()
    box.ports["a"], box.ports["b"] = box.ports["b"], box.ports["a"]
    box.config("a", "b")

    box.up(ready=False, haste={"ollamux.supervisor.recovery.END_AFTER_S": 1.0})

    told = f"waits until an earlier run of b (pid {left}) has let go of port {box.ports['a']}"
    wait_for(lambda: box.instance("a")["reason"] == told, "its own leftover is gone by then")
    assert box.ask("start", names=["a", "b"])["exit"] == 0
    assert not any("is held by" in reason for reason in box.reasons())


def test_R26_a_down_after_an_upgrade_waits_for_what_an_earlier_run_left_and_no_longer(box: Box) -> None:
    box.config("a")
    box.set("a", "ignore-term")
    supervisor = box.up()
    left = box.instance("a")["pid"]
    supervisor.kill()
    box.config("a", instances={"a": {"num_parallel": 3}}, restart={"stop_timeout": "5s"})
    supervisor = box.up(ready=False, haste={"ollamux.supervisor.recovery.END_AFTER_S": 2.0})
    assert box.ollamux("upgrade").returncode == 0
    assert alive(left)

    reply = box.ask("down")

    assert (reply["exit"], reply["stuck"]) == (0, [])
    assert not alive(left)
    assert supervisor.wait() == 0


def test_R26_a_supervisor_whose_own_environment_bears_a_mark_does_not_end_itself(box: Box) -> None:
    """Started from a copy of a server's environment."""
    box.config("a")
    box.up_detached()
    mark = {name: value for name, value in environment_of(box.instance("a")["pid"]).items() if "OLLAMUX" in name}
    assert box.ollamux("down").returncode == 0
    box.env |= mark

    box.up_detached()
    box.up_detached("--ensure")

    assert box.wait_phase("a", "READY")["pid"] is not None
    assert not any("ending pid" in reason for reason in box.reasons())


def test_R26_what_a_person_starts_with_the_environment_that_env_prints_is_left_alone(box: Box) -> None:
    box.config("a")
    supervisor = box.up()
    shown = box.ollamux("env", "a", "--reveal").stdout.splitlines()
    env = dict(line.partition("=")[::2] for line in shown)
    assert env["OLLAMA_HOST"].endswith(str(box.ports["a"]))
    stranger = box.stranger("/bin/sleep", "1000", env=env)

    supervisor.kill()
    box.up()
    box.ask("restart", names=["a"])
    box.ask("down")

    assert stranger.poll() is None, "a stranger was signalled"


def test_R23_with_on_death_stop_the_servers_and_their_runners_go_with_the_supervisor(box: Box) -> None:
    box.config("a", "b", supervisor={"on_death": "stop"})
    box.set("a", "runners", 2)
    box.set("a", "runner-setsid")
    supervisor = box.up()
    wait_for(lambda: len(box.family("a")) == 3)

    supervisor.kill()

    wait_for(lambda: not box.family("a") and not box.family("b"), "they end by themselves")


def test_R23_with_on_death_stop_what_would_not_go_is_ended_by_the_next_up(box: Box) -> None:
    box.config("a", supervisor={"on_death": "stop"})
    box.set("a", "ignore-term")
    supervisor = box.up()
    left = box.instance("a")["pid"]
    supervisor.kill()
    assert alive(left)

    box.up()

    assert not alive(left)
    assert not box.instance("a")["adopted"]


def test_the_intent_of_stop_survives_the_supervisor_and_down_ends_it(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up()
    box.ask("stop", names=["a"])
    supervisor.kill()

    again = box.up(ready=False)
    box.wait_phase("b", "READY")
    assert box.instance("a")["phase"] == "STOPPED"
    assert box.instance("a")["wanted"] == "down"
    assert len(box.starts("a")) == 1
    assert box.ollamux("status").returncode == 0
    box.ask("down")
    assert again.wait() == 0

    box.up()
    assert box.instance("a")["phase"] == "READY"


def test_a_supervisor_killed_during_a_stop_does_not_bring_the_instance_back(box: Box) -> None:
    box.config("a")
    box.set("a", "ignore-term")
    supervisor = box.up(haste={})
    left = box.instance("a")["pid"]
    box.ask("stop", names=["a"], wait=False)
    supervisor.kill()

    box.up(ready=False)

    wait_for(lambda: not alive(left), "the stop is carried out")
    assert box.instance("a")["phase"] == "STOPPED"
    assert len(box.starts("a")) == 1


def test_R39_a_damaged_state_file_is_put_aside_and_said(box: Box) -> None:
    for number, damage in enumerate(
        (b'{"schema": 1, "units": {"a"', b"\xff\xfe not JSON", b'{"schema": 99, "units": {}}')
    ):
        box.config("a")
        (box.state).mkdir(mode=0o700, exist_ok=True)
        (box.state / "state.json").write_bytes(damage)

        supervisor = box.up()

        assert (box.state / "state.json.bad").read_bytes() == damage
        assert sum("was put aside" in reason for reason in box.reasons()) == number + 1
        assert box.ask("down")["exit"] == 0
        assert supervisor.wait() == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gen", "1e400"),
        ("gen", "-1"),
        ("gen", "9" * 30),
        ("restarts", "-1"),
        ("log_start", "-5"),
        ("proof", '["nonsense", "x"]'),
        ("proof", '"x"'),
        ("gpus", r'["\ud800"]'),
        ("version", r'"\udcff"'),
    ],
)
def test_R39_a_state_file_with_nonsense_in_it_is_put_aside(box: Box, field: str, value: str) -> None:
    box.config("a")
    box.up().kill()
    record = remembered(box)
    record["units"]["a"][field] = "HERE"
    (box.state / "state.json").write_text(json.dumps(record).replace('"HERE"', value))

    box.up()

    assert any("was put aside" in reason for reason in box.reasons())
    assert box.instance("a")["restarts"] == 0


def test_R39_the_state_file_is_replaced_as_a_whole(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "1s"})
    box.up()
    box.rounds_at_rest()  # what is written a moment after a change is there by now
    held = (box.state / "state.json").open("rb")
    before = held.read()
    stop = wait_for_change_while_reading(box)

    for _ in range(5):
        box.ask("restart", names=["a", "b"])

    assert stop() > 0
    held.seek(0)
    assert held.read() == before, "it is another file: whoever reads the old one reads it to its end"
    held.close()
    assert not [name for name in os.listdir(box.state) if name.endswith(".new")]


def wait_for_change_while_reading(box: Box) -> Any:
    """Read the file over and over in another process; the function returned tells how many whole contents it saw."""
    code = (
        "import json, os, sys\nos.set_blocking(0, False)\nseen = 0\n"
        "while sys.stdin.buffer.raw.read(1) is None:\n    json.load(open(sys.argv[1]))\n    seen += 1\nprint(seen)"
    )
    reader = subprocess.Popen(  # noqa: TID251
        [sys.executable, "-IS", "-c", code, str(box.state / "state.json")], stdin=-1, stdout=-1, text=True
    )

    def stop() -> int:
        out, _ = reader.communicate("x")
        assert reader.returncode == 0
        return int(out)

    return stop


def test_S11_a_link_in_the_place_of_a_file_is_not_followed(box: Box) -> None:
    box.config("a")
    box.state.mkdir(mode=0o700)
    box.logs.mkdir(mode=0o700)
    victim = box.root / "victim"
    victim.write_text("precious")
    for path in (box.state / "state.json", box.state / "events.jsonl", box.log("a")):
        path.symlink_to(victim)

    box.up(ready=False)

    waiting = box.wait_phase("a", "WAITING")
    assert str(box.log("a")) in waiting["reason"]
    box.log("a").unlink()
    box.wait_phase("a", "READY")
    assert victim.read_text() == "precious"
    (box.state / "events.jsonl").unlink()


@pytest.mark.parametrize("what", ["lock", "supervisor.log"])
def test_S11_a_link_in_the_way_of_up_is_refused(box: Box, what: str) -> None:
    box.config("a")
    victim = box.root / "victim"
    victim.write_text("precious")
    for folder in (box.state, box.logs):
        folder.mkdir(mode=0o700)
    ((box.state if what == "lock" else box.logs) / what).symlink_to(victim)

    done = box.ollamux("up", "-d", "--config", str(box.config_path))

    assert done.returncode in (1, 7)
    assert what in done.stderr and "Traceback" not in done.stderr
    assert victim.read_text() == "precious"
    assert box.starts("a") == []


def test_S11_links_in_the_place_of_what_is_written_as_a_whole_are_replaced(box: Box) -> None:
    box.config("a", supervisor={"log_max": "64KiB", "log_keep": 2})
    victim = box.root / "victim"
    victim.write_text("precious")
    for folder in (box.state, box.logs):
        folder.mkdir(mode=0o700)
    whole = [box.state / name for name in ("id", "config-path", "socket-path", "config-cache.json")]
    copies = [box.logs / f"a.log.{number}" for number in (1, 2)]
    for path in (*whole, *copies):
        path.symlink_to(victim)
    assert box.ollamux("up", "-d", "--config", str(box.config_path)).returncode == 0
    box.set("a", "flood-lines", 400)

    wait_for(lambda: box.log("a").stat().st_size > 65536, "it is time to rotate", timeout=60)
    box.supervisors.append(Supervisor(box.supervisor_pid(), None))
    wait_for(lambda: not copies[0].is_symlink(), "the copy takes the place of the link", timeout=60)

    box.clear("a", "flood-lines")
    assert not [path for path in whole if path.is_symlink()]
    assert victim.read_text() == "precious"


def test_S11_a_log_that_became_a_link_is_not_cut(box: Box) -> None:
    box.config("a", supervisor={"log_max": "64KiB", "log_keep": 0})
    box.up()
    victim = box.root / "victim"
    victim.write_bytes(b"x" * 100_000)
    box.log("a").unlink()
    box.log("a").symlink_to(victim)

    wait_for(lambda: any("cannot be rotated" in reason for reason in box.reasons()), "it is said")

    assert victim.stat().st_size == 100_000


def test_R32_a_number_in_the_lock_file_means_nothing_without_the_lock(box: Box) -> None:
    box.config("a")
    box.state.mkdir(mode=0o700)
    (box.state / "lock").write_text(f"{os.getpid()}\n")

    supervisor = box.up()

    assert re.fullmatch(rf"{supervisor.pid}\n", (box.state / "lock").read_text())


def test_R87_a_supervisor_in_the_background_survives_the_end_of_its_terminal(box: Box) -> None:
    box.config("a")
    supervisor = box.up_detached()

    supervisor.signal(signal.SIGHUP)
    box.ask("restart", names=["a"])

    assert box.instance("a")["phase"] == "READY"
    assert os.getsid(supervisor.pid) == supervisor.pid
    supervisor.signal(signal.SIGTERM)
    supervisor.wait()


def on_a_terminal(box: Box, *words: str) -> tuple[Any, int]:
    """Start a command as a login shell does; return its process and the other end of its terminal."""
    main, tail = os.openpty()
    command = [str(COMMAND), *words, "--config", str(box.config_path)]
    process = Process(command, env=box.env | {"TERM": "xterm"}, cwd=box.root, preexec_fn=lambda: os.login_tty(tail))
    os.close(tail)
    os.set_blocking(main, False)
    return process, main


def drain(main: int) -> None:
    with suppress(OSError):
        while os.read(main, 65536):
            pass


def test_R87_the_terminal_of_a_supervisor_in_the_foreground_is_closed(box: Box) -> None:
    box.config("a", "b")
    box.set("a", "runners", 1)
    process, main = on_a_terminal(box, "up")
    box.supervisors.append(Supervisor(process.pid, process))
    wait_for(lambda: (drain(main), box.listens(process.pid))[1], "it listens")
    box.wait_ready()

    os.close(main)

    assert process.wait(20) == 0
    assert box.family("a") == box.family("b") == []
    assert box.changes("a")[-1] == "STOPPED"


def test_R87_the_terminal_from_which_one_was_put_into_the_background_is_closed(box: Box) -> None:
    box.config("a")
    process, main = on_a_terminal(box, "up", "-d")
    wait_for(lambda: (drain(main), process.poll() is not None)[1], "it has started one")
    assert process.wait() == 0
    pid = box.supervisor_pid()
    box.supervisors.append(Supervisor(pid, None))

    os.close(main)

    box.rounds_at_rest()
    assert alive(pid)
    assert box.wait_phase("a", "READY")["generation"] == 1
