"""What is asked of a running supervisor: together, in the wrong order, twice, and at its end."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from process_box import Box, alive, answer_on, wait_for


def test_R10_a_stop_in_the_gap_of_a_restart_wins(box: Box) -> None:
    gate = box.root / "gate"
    box.config(instances={"a": {"env": {"FAKE_TERM_GATE": str(gate)}}}, restart={"stop_timeout": "1h"})
    box.up()
    restarting = box.send({"cmd": "restart", "names": ["a"]})
    box.wait_phase("a", "STOPPING")
    stopping = box.send({"cmd": "stop", "names": ["a"]})
    wait_for(lambda: box.instance("a")["wanted"] == "down")
    gate.touch()

    restarted, stopped = answer_on(restarting), answer_on(stopping)

    assert stopped["exit"] == 0
    assert restarted["exit"] == 7
    assert "superseded" in restarted["outcomes"][0]["words"]
    assert box.instance("a")["phase"] == "STOPPED"
    assert len(box.starts("a")) == 1


def test_R10_a_stop_while_it_waits_for_its_restart_wins(box: Box) -> None:
    box.config("a", restart={"base": "1h", "cap": "1h", "first": "1h"})
    box.up()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    waiting = box.wait_phase("a", "WAITING")
    assert waiting["next_action"] == "restart 1"

    assert box.ask("stop", names=["a"])["exit"] == 0

    assert box.instance("a")["phase"] == "STOPPED"
    started = box.ask("start", names=["a"])
    assert started["exit"] == 0, started
    assert len(box.starts("a")) == 2


def test_a_start_in_the_middle_of_a_stop_comes_back(box: Box) -> None:
    gate = box.root / "gate"
    box.config(instances={"a": {"env": {"FAKE_TERM_GATE": str(gate)}}}, restart={"stop_timeout": "1h"})
    box.up()
    stopping = box.send({"cmd": "stop", "names": ["a"]})
    box.wait_phase("a", "STOPPING")
    starting = box.send({"cmd": "start", "names": ["a"]})
    wait_for(lambda: box.instance("a")["wanted"] == "up")
    gate.touch()

    assert answer_on(starting)["exit"] == 0
    assert answer_on(stopping)["exit"] == 7
    assert len(box.starts("a")) == 2


def test_R11_twenty_restarts_at_once_are_one_restart_and_twenty_answers(box: Box) -> None:
    gate = box.root / "gate"
    box.config(instances={"a": {"env": {"FAKE_TERM_GATE": str(gate)}}}, restart={"stop_timeout": "1h"})
    supervisor = box.up()
    before = len(os.listdir(f"/proc/{supervisor.pid}/fd"))
    asking = [box.send({"cmd": "restart", "names": ["a"]}) for _ in range(20)]
    wait_for(lambda: len(os.listdir(f"/proc/{supervisor.pid}/fd")) >= before + 20, "all were accepted")
    box.status()  # what was sent before has been read before this is answered
    gate.touch()

    answers = [answer_on(connection) for connection in asking]

    assert [answer["exit"] for answer in answers] == [0] * 20
    assert len(box.starts("a")) == 2


def test_R11_restarts_on_the_way_down_and_on_the_way_up_are_one_restart(box: Box) -> None:
    down, up = box.root / "down", box.root / "up"
    box.config("a", restart={"stop_timeout": "1h"}, health={"start_timeout": "1h"})
    box.up()
    box.set("a", "term-gate", down)
    box.set("a", "ready-gate", up)
    asking = [box.send({"cmd": "restart", "names": ["a"]}) for _ in range(10)]
    box.wait_phase("a", "STOPPING")
    box.status()
    down.touch()
    wait_for(lambda: len(box.starts("a")) == 2, "the restart has led to a start")
    asking += [box.send({"cmd": "restart", "names": ["a"]}) for _ in range(10)]
    box.status()  # what was sent before has been read before this is answered
    up.touch()

    assert [answer_on(connection)["exit"] for connection in asking] == [0] * 20
    assert len(box.starts("a")) == 2


def test_R11_restarts_from_many_commands_are_all_answered(box: Box) -> None:
    box.config("a")
    box.up()
    asking = [box.send({"cmd": "restart", "names": ["a"]}) for _ in range(20)]

    assert [answer_on(connection)["exit"] for connection in asking] == [0] * 20
    assert 2 <= len(box.starts("a")) <= 21


def test_R12_the_caller_of_a_restart_hears_that_it_failed_and_why(box: Box) -> None:
    box.config("a", "b", restart={"failure_limit": 3})
    box.up()
    box.set("a", "exit", 4)
    box.set("a", "words", "Error: the model store is on fire")

    done = box.ollamux("restart", "a")

    assert done.returncode == 6
    assert "exited with status 4" in done.stderr
    assert "on fire" in done.stderr
    assert box.instance("b")["phase"] == "READY"


def test_R10_a_stop_before_its_turn_comes_is_not_undone_by_a_rolling_restart(box: Box) -> None:
    box.config("a", "b", "c")
    box.up()
    gate = box.root / "gate"
    box.set("a", "term-gate", gate)
    rolling = box.send({"cmd": "restart", "all": True, "rolling": True})
    box.wait_phase("a", "STOPPING")
    assert box.ask("stop", names=["b"])["exit"] == 0
    box.clear("a", "term-gate")
    gate.touch()

    answer = answer_on(rolling)

    assert [(one["name"], one["exit"]) for one in answer["outcomes"]] == [("a", 0), ("b", 7), ("c", 0)]
    assert "superseded" in answer["outcomes"][1]["words"]
    assert [len(box.starts(name)) for name in "abc"] == [2, 1, 2]
    assert box.instance("b")["phase"] == "STOPPED"


def test_each_restart_of_a_rolling_one_is_on_record_with_its_reason(box: Box) -> None:
    box.config("a", "b", "c")
    box.up()

    assert box.ask("restart", all=True, rolling=True)["exit"] == 0

    stopped = [(e["instance"], e["reason"]) for e in box.events() if e["to"] == "STOPPING"]
    assert stopped == [(name, "restart requested") for name in "abc"]


@pytest.mark.parametrize("removed", [True, False])
def test_R10_what_a_reload_takes_away_is_not_started_by_a_rolling_restart(box: Box, removed: bool) -> None:
    """One that was stopped before is started by a rolling restart; one that is gone when its turn comes must not be."""
    patient = {"stop_timeout": "1h"}
    box.config("a", "b", "c", restart=patient)
    supervisor = box.up()
    assert box.ask("stop", names=["b"])["exit"] == 0
    gate = box.root / "gate"
    box.set("a", "term-gate", gate)
    rolling = box.send({"cmd": "restart", "all": True, "rolling": True})
    box.wait_phase("a", "STOPPING")
    left = {"a": {}, "c": {}} if removed else {"a": {}, "b": {"enabled": False}, "c": {}}
    box.config(instances=left, restart=patient)
    assert box.ollamux("reload").returncode == 0
    box.clear("a", "term-gate")
    gate.touch()

    answer = answer_on(rolling)

    assert [(one["name"], one["exit"]) for one in answer["outcomes"]] == [("a", 0), ("b", 7), ("c", 0)]
    assert ("removed" if removed else "disabled") in answer["outcomes"][1]["words"]
    assert [len(box.starts(name)) for name in "abc"] == [2, 1, 2]
    assert "internal error" not in str(box.reasons())
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_a_rolling_restart_stops_at_the_first_that_fails(box: Box) -> None:
    box.config("a", "b", "c", restart={"failure_limit": 1})
    box.up()
    box.set("b", "exit", 1)

    answer = box.ask("restart", all=True, rolling=True)

    assert [outcome["exit"] for outcome in answer["outcomes"]] == [0, 6, 7]
    assert [len(box.starts(name)) for name in ("a", "b", "c")] == [2, 2, 1]


def test_R13_a_start_is_never_refused_to_a_person(box: Box) -> None:
    box.config("a", restart={"failure_limit": 2, "retry_failed": "1h"})
    box.set("a", "exit", 1)
    box.up(ready=False)
    box.wait_phase("a", "FAILED")

    for count in (4, 6, 8):  # at once, and with its failures forgiven
        assert box.ask("start", names=["a"])["exit"] == 6
        assert len(box.starts("a")) == count


def test_R13_a_start_of_what_waits_is_at_once_and_forgives(box: Box) -> None:
    box.config("a", restart={"first": "0s", "base": "1h", "cap": "1h", "failure_limit": 3})
    box.set("a", "exit", 1)
    box.up(ready=False)

    for count in (2, 4, 6, 8):  # two failures each: without forgiveness the second round would have given up
        box.wait_phase("a", "WAITING")
        wait_for(lambda count=count: len(box.starts("a")) == count, "it failed twice, and waits an hour")
        assert "FAILED" not in box.changes("a")
        box.ask("start", names=["a"], wait=False)


def test_R40_signals_during_a_start_and_a_reload_lose_nothing(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up_detached()
    pid = box.instance("b")["pid"]
    box.config("b", "c", instances={"a": {"num_parallel": 3}})
    reloading = box.popen("reload")

    while reloading.poll() is None:
        for number in (signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH):
            supervisor.signal(number)
        time.sleep(0.0005)  # paces the burst; nothing is waited for

    assert reloading.wait() == 0
    assert [entry["phase"] for entry in box.status()["instances"]] == ["READY"] * 3
    assert (len(box.starts("a")), len(box.starts("c")), box.instance("b")["pid"]) == (2, 1, pid)
    supervisor.signal(signal.SIGTERM)
    supervisor.wait()
    assert not [name for name in "abc" if box.family(name)]


def test_R40_a_thousand_signals_are_no_trouble(box: Box) -> None:
    box.config("a")
    supervisor = box.up_detached()

    for _ in range(1000):
        os.kill(supervisor.pid, signal.SIGHUP)
        os.kill(supervisor.pid, signal.SIGCHLD)
        os.kill(supervisor.pid, signal.SIGWINCH)

    assert box.instance("a")["phase"] == "READY"
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_started("a", 2)
    for _ in range(200):
        supervisor.signal(signal.SIGTERM)
    supervisor.wait()
    assert box.family("a") == []
    assert box.changes("a")[-1] == "STOPPED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_R87_signals_in_the_foreground_are_down(box: Box, number: int) -> None:
    box.config("a", "b")
    box.set("a", "runners", 1)
    supervisor = box.up(env=box.env)

    supervisor.signal(number)

    assert supervisor.wait() == 0
    assert box.family("a") == box.family("b") == []
    assert not box.socket_path.exists()
    assert box.changes("a")[-1] == box.changes("b")[-1] == "STOPPED"


def test_R40_a_burst_of_signals_during_the_end_does_not_spoil_the_exit_code(box: Box) -> None:
    box.config("a")
    supervisor = box.up()

    while supervisor.runs:
        supervisor.signal(signal.SIGTERM)
        time.sleep(0.0005)  # paces the burst; nothing is waited for

    assert supervisor.wait() == 0


def test_a_second_signal_hurries(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "1h"})
    box.set("a", "ignore-term")
    supervisor = box.up(haste={"ollamux.domain.rules.HURRY_S": 0.1})
    supervisor.signal(signal.SIGTERM)
    box.wait_phase("a", "STOPPING")

    supervisor.signal(signal.SIGTERM)

    assert supervisor.wait() == 0
    assert "KILLING" in box.changes("a")


def test_R41_one_that_will_not_go_holds_up_nobody_else(box: Box) -> None:
    box.config("a", "b", "c", instances={"d": {"restart": {"stop_timeout": "1h"}}})
    box.set("d", "ignore-term")
    supervisor = box.up()
    pids = {name: box.instance(name)["pid"] for name in ("a", "b", "c", "d")}

    going = box.send({"cmd": "down"})

    for name in ("a", "b", "c"):
        box.wait_phase(name, "STOPPED")
    assert box.instance("d")["phase"] == "STOPPING"
    assert box.status()["supervisor"]["state"] == "stopping"
    os.kill(pids["d"], signal.SIGKILL)
    assert answer_on(going)["exit"] == 0
    assert supervisor.wait() == 0


def test_R42_nothing_is_started_any_more_during_a_shutdown(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "1h"})
    box.set("a", "ignore-term")
    box.up()
    going = box.send({"cmd": "down"})
    box.wait_phase("b", "STOPPED")

    for request in ({"cmd": "restart", "names": ["b"]}, {"cmd": "start", "names": ["b"]}):
        answer = answer_on(box.send(request))
        assert answer["exit"] == 7
        assert "stopping" in answer["message"]
    assert box.instance("b")["phase"] == "STOPPED"
    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    assert answer_on(going)["exit"] == 0
    assert len(box.starts("a")) == len(box.starts("b")) == 1


def test_R42_a_hang_up_during_the_shutdown_changes_nothing(box: Box) -> None:
    gate = box.root / "gate"
    box.config("a", "b", restart={"stop_timeout": "1h"})
    box.set("a", "term-gate", gate)
    supervisor = box.up_detached()
    supervisor.signal(signal.SIGTERM)
    box.wait_phase("b", "STOPPED")

    for _ in range(20):
        supervisor.signal(signal.SIGHUP)
    seen = box.instance("a")

    assert (seen["phase"], box.instance("b")["phase"]) == ("STOPPING", "STOPPED")
    assert datetime.fromisoformat(seen["next_at"]) - datetime.now(UTC) > timedelta(minutes=30), "nor is it hurried"
    gate.touch()
    supervisor.wait()
    assert box.changes("a")[-2:] == ["STOPPING", "STOPPED"]
    assert len(box.starts("a")) == len(box.starts("b")) == 1


def test_to_quit_is_to_hurry(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "1h"})
    box.set("a", "ignore-term")
    supervisor = box.up(haste={"ollamux.domain.rules.HURRY_S": 0.1})

    supervisor.signal(signal.SIGQUIT)

    assert supervisor.wait() == 0
    assert "KILLING" in box.changes("a")


def test_R43_a_signal_at_any_moment_of_the_start_leaves_nothing(box: Box) -> None:
    box.config("a", "b")
    box.set("a", "runners", 1)
    spread = random.Random(20)
    for _ in range(6):
        supervisor = box.start()
        time.sleep(spread.uniform(0.005, 0.3))  # the moment is what is tried out
        supervisor.signal(signal.SIGTERM)

        assert supervisor.wait() in (0, -signal.SIGTERM)
        wait_for(lambda: not box.family("a") and not box.family("b"), "nothing is left")
        assert not box.socket_path.exists()


def test_R43_a_signal_as_soon_as_a_server_is_started_leaves_nothing(box: Box) -> None:
    box.config(instances={"a": {"env": {"FAKE_READY_GATE": str(box.root / "never")}}})
    supervisor = box.start()
    wait_for(lambda: box.starts("a"), "a server is started, by a supervisor that may not listen yet")

    supervisor.signal(signal.SIGTERM)

    assert supervisor.wait() == 0
    assert box.family("a") == []
    assert not box.socket_path.exists()


def test_S_down_leaves_no_process_no_socket_and_no_port(box: Box) -> None:
    box.config("a", "b")
    box.set("a", "runners", 2)
    supervisor = box.up_detached()
    wait_for(lambda: len(box.family("a")) == 3)

    done = box.ollamux("down")

    assert (done.returncode, done.stdout) == (0, "stopped 2 instances and the supervisor\n")
    assert not alive(supervisor.pid), "down returns once it is gone"
    assert not box.socket_path.exists()
    assert box.family("a") == box.family("b") == []
    assert box.ollamux("status").returncode == 3
    assert box.ollamux("down").returncode == 3
    assert box.ollamux("restart", "a", "--if-running").returncode == 0
    again = box.up()
    assert box.wait_phase("a", "READY")["generation"] == 2
    assert again.runs


def test_a_command_whose_supervisor_dies_under_it_exits_3(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "1h"})
    box.set("a", "ignore-term")
    supervisor = box.up()
    waiting = box.send({"cmd": "stop", "names": ["a"]})
    box.wait_phase("a", "STOPPING")

    supervisor.kill()

    assert waiting.recv(1) == b""
    waiting.close()
    assert box.ollamux("stop", "a").returncode == 3
    box.up(ready=False)
    box.wait_phase("a", "STOPPED")


def test_R86_up_in_the_background_tells_its_caller_what_stopped_it(box: Box) -> None:
    box.config("a")
    box.state.mkdir(mode=0o700)
    (box.state / "lock").mkdir()

    done = box.ollamux("up", "-d", "--config", str(box.config_path))

    assert done.returncode == 7
    assert "lock is not a plain file" in done.stderr
    assert "Traceback" not in done.stderr
    assert box.starts("a") == []


def test_R86_up_in_the_background_returns_when_all_are_ready_or_says_which_is_not(box: Box) -> None:
    box.config("a", "b", restart={"failure_limit": 2, "retry_failed": "1h"})
    box.set("b", "exit", 9)

    done = box.ollamux("up", "-d", "--config", str(box.config_path))

    assert done.returncode == 6
    assert "1 of 2 instances READY" in done.stdout
    assert "exited with status 9" in done.stderr
    assert box.ollamux("status").returncode == 6
    assert box.ollamux("down").returncode == 0


def test_S9_every_event_is_one_line_whatever_a_server_says(box: Box) -> None:
    box.config("a", restart={"failure_limit": 2})
    box.set("a", "exit", 1)
    box.set("a", "words", 'Error: one\r{"seq": 1}\u2028two\x85three')
    box.up(ready=False)
    box.wait_phase("a", "FAILED")

    lines = (box.state / "events.jsonl").read_text().split("\n")

    assert lines.pop() == ""
    numbers = [json.loads(line)["seq"] for line in lines]
    assert numbers == list(range(1, len(lines) + 1))


def test_R54_after_fifty_restarts_nothing_has_grown(box: Box) -> None:
    box.config("a", "b")
    box.set("a", "runners", 1)
    supervisor = box.up()
    box.ask("restart", names=["a", "b"])

    def counts() -> tuple[int, int, int]:
        folder = f"/proc/{supervisor.pid}"
        with open(f"{folder}/task/{supervisor.pid}/children", encoding="ascii") as file:
            return len(os.listdir(f"{folder}/fd")), len(os.listdir(f"{folder}/task")), len(file.read().split())

    def lowest() -> list[int]:
        """Return the counts while no check and no client is under way, which is most of the time."""
        return [min(column) for column in zip(*(counts() for _ in range(5)), strict=True)]

    before = lowest()
    for number in range(25):
        if number % 5:
            box.ask("restart", names=["a", "b"])
        else:
            count = len(box.starts("a"))
            os.kill(box.instance("a")["pid"], signal.SIGKILL)
            os.kill(box.instance("b")["pid"], signal.SIGKILL)
            box.wait_started("a", count + 1)
            box.wait_phase("b", "READY")

    wait_for(lambda: all(now <= then for now, then in zip(lowest(), before, strict=True)), f"no more than {before}")
    assert len(box.starts("a")) + len(box.starts("b")) >= 50
