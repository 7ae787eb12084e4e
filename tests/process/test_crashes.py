"""How an instance ends without being asked, what is done about what it leaves, and that nothing else is touched."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

import pytest
from process_box import Box, alive, answer_on, environment_of, parent_of, process_state, wait_for, words_of
from test_devices import CUDA


def kill(box: Box, name: str = "a", number: int = signal.SIGKILL) -> int:
    """Send a signal to the server of an instance; return its pid."""
    pid = int(box.instance(name)["pid"])
    os.kill(pid, number)
    return pid


def test_R28_a_crash_is_told_with_its_signal_and_mended_under_a_new_pid(box: Box) -> None:
    box.config("a")
    box.up()

    first = kill(box)

    second = box.wait_started("a", 2)
    assert second["pid"] != first
    assert second["exit"]["signal"] == "SIGKILL"
    assert (second["generation"], second["restarts"]) == (2, 1)
    assert any("killed by SIGKILL (out of memory? dmesg tells)" in reason for reason in box.reasons())
    assert box.starts("a") == [first, second["pid"]]


def test_the_last_words_of_a_server_stand_in_the_reason(box: Box) -> None:
    box.config("a", restart={"failure_limit": 2})
    box.set("a", "exit", 3)
    box.set("a", "words", "Error: something\x1b[31m \x1b]0;title\x07is wrong")
    box.up(ready=False)

    failed = box.wait_phase("a", "FAILED")

    assert "exited with status 3" in failed["reason"]
    assert "is wrong" in failed["reason"]
    assert failed["exit"]["code"] == 3
    for shown in (box.ollamux("status").stdout, box.ollamux("events").stdout):
        assert "\x1b" not in shown
        assert "\x07" not in shown


def test_a_server_that_was_killed_is_not_quoted_for_what_it_said_before(box: Box) -> None:
    box.config("a")
    box.set("a", "device-lines", "Error: model 'nosuch' not found")
    box.up()

    kill(box)

    box.wait_started("a", 2)
    assert any("killed by SIGKILL" in reason for reason in box.reasons())
    assert not [reason for reason in box.reasons() if "nosuch" in reason]


def test_R4_B3_orphaned_runners_are_gone_before_the_next_start(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 3)
    box.up()
    runners = wait_for(lambda: len(box.runners("a")) == 3 and box.runners("a"))

    kill(box)

    box.wait_started("a", 2)
    assert not [pid for pid in runners if alive(pid)]
    assert box.changes("a")[2:] == ["SWEEPING", "STARTING", "READY"], "they are asked, and need not be killed"


def test_R1_a_runner_that_holds_the_output_does_not_hold_up_the_news(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 1)
    box.set("a", "runner-setsid")
    box.set("a", "runner-ignore-term")
    box.up(haste={"ollamux.domain.rules.SWEEP_TIMEOUT_S": 300.0})
    runner = wait_for(lambda: box.runners("a"))[0]
    assert os.readlink(f"/proc/{runner}/fd/1") == str(box.log("a"))

    kill(box)

    assert box.wait_phase("a", "SWEEPING")["exit"]["signal"] == "SIGKILL"
    assert os.readlink(f"/proc/{runner}/fd/1") == str(box.log("a")), "the end was told while it is held open"
    os.kill(runner, signal.SIGKILL)
    box.wait_started("a", 2)


def test_R5_a_runner_that_left_the_session_and_ignores_term_is_killed(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 2)
    box.set("a", "runner-setsid")
    box.set("a", "runner-ignore-term")
    supervisor = box.up()
    runners = wait_for(lambda: len(box.runners("a")) == 2 and box.runners("a"))

    kill(box)

    wait_for(lambda: all(not alive(pid) or parent_of(pid) == supervisor.pid for pid in runners), "they fall to us")
    box.wait_started("a", 2)
    assert not [pid for pid in runners if alive(pid)]
    assert box.changes("a")[2:5] == ["SWEEPING", "KILLING", "STARTING"]


def test_R6_nothing_is_started_while_a_runner_lives(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 1)
    box.set("a", "runner-ignore-term")
    box.up(haste={"ollamux.domain.rules.SWEEP_TIMEOUT_S": 300.0})
    runner = wait_for(lambda: box.runners("a"))[0]

    kill(box)

    swept = box.wait_phase("a", "SWEEPING")
    assert swept["next_action"] == "kill what is left"
    box.ask("restart", names=["a"], wait=False)
    box.ask("start", names=["a"], wait=False)
    assert box.instance("a")["phase"] == "SWEEPING"
    assert len(box.starts("a")) == 1
    os.kill(runner, signal.SIGKILL)
    box.wait_started("a", 2)


def test_R6_a_runner_that_survives_a_stop_is_ended(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "300ms"})
    box.set("a", "runners", 1)
    box.set("a", "runner-ignore-term")
    box.set("a", "ignore-term")
    box.up()
    wait_for(lambda: box.runners("a"))

    assert box.ask("stop", names=["a"])["exit"] == 0

    assert box.family("a") == []
    assert box.changes("a")[-2:] == ["KILLING", "STOPPED"]


def test_R7_a_process_that_is_not_provably_ours_is_left_alone(box: Box) -> None:
    """It came from the server, but carries no mark and left the group: it might be anybody's by now."""
    box.config("a")
    box.set("a", "orphan")
    supervisor = box.up()

    def loners() -> list[int]:
        found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [p for p in found if str(box.root) in words_of(p) and "FAKE_LONER" in environment_of(p) and alive(p)]

    loner = wait_for(loners)[0]
    wait_for(lambda: parent_of(loner) == supervisor.pid, "it falls to the supervisor")
    box.clear("a", "orphan")
    kill(box)
    box.wait_started("a", 2)
    box.ask("stop", names=["a"])

    assert alive(loner)
    os.kill(loner, signal.SIGKILL)
    wait_for(lambda: process_state(loner) is None, "the supervisor collects it")
    assert box.instance("a")["phase"] == "STOPPED"
    assert box.instance("a")["exit"] != {"signal": "SIGKILL"}


def test_R8_a_server_that_kills_its_whole_session_harms_nobody_else(box: Box) -> None:
    box.config("a", "b")
    supervisor = box.up()
    other = box.instance("b")["pid"]

    box.set("a", "kill-session")
    wait_for(lambda: "killed by SIGKILL" in "".join(box.reasons()), "it is dead")
    box.clear("a", "kill-session")
    box.wait_started("a", 2)

    assert supervisor.runs
    assert box.instance("b")["pid"] == other
    assert len(box.starts("b")) == 1


def test_R9_a_server_that_goes_into_the_background_is_not_let_go(box: Box) -> None:
    box.config("a", restart={"failure_limit": 2})
    box.set("a", "daemonise")
    box.up(ready=False)

    failed = box.wait_phase("a", "FAILED")

    assert "exited with status 0" in failed["reason"]
    assert "SWEEPING" in box.changes("a")
    assert box.family("a") == []
    assert len(box.starts("a")) == 2


def test_R14_a_server_that_always_exits_is_given_up_and_start_tries_anew(box: Box) -> None:
    box.config("a", "b", restart={"failure_limit": 4, "retry_failed": "1h"})
    box.set("a", "exit", 1)
    box.set("a", "words", "Error: no reason")
    box.up(ready=False)

    failed = box.wait_phase("a", "FAILED")

    assert len(box.starts("a")) == 4
    assert failed["reason"].startswith("gave up after 4 failures in a row")
    assert failed["next_action"] == "try again"
    assert len([event for event in box.events() if event["instance"] == "a"]) < 20
    assert box.wait_phase("b", "READY")["restarts"] == 0
    assert box.ollamux("status").returncode == 6
    assert box.rounds_at_rest() < 100, "what was given up costs nothing"
    done = box.ollamux("start", "a")
    assert done.returncode == 6
    box.clear("a", "exit")
    assert box.ollamux("start", "a").returncode == 0
    assert box.ollamux("status").returncode == 0


def test_R14_the_wait_before_the_next_start_costs_nothing(box: Box) -> None:
    box.config("a", restart={"failure_limit": 8, "base": "1h", "cap": "1h"})
    box.set("a", "exit", 1)
    box.up(ready=False)

    waiting = box.wait_phase("a", "WAITING")

    assert waiting["next_action"] == "restart 2"
    assert "2 failures" not in (waiting["reason"] or "")
    assert len(box.starts("a")) == 2, "the first at once, the second after a wait"
    assert box.rounds_at_rest() < 50
    assert len(box.events()) < 12


def test_R14_a_failed_instance_is_tried_again_by_itself(box: Box) -> None:
    box.config("a", restart={"failure_limit": 1, "retry_failed": "100ms"})
    box.set("a", "exit", 1)
    box.up(ready=False)
    box.wait_phase("a", "FAILED")

    box.clear("a", "exit")

    box.wait_phase("a", "READY")


def test_R16_being_ready_for_a_moment_forgives_nothing(box: Box) -> None:
    box.config("a", restart={"failure_limit": 3, "stable_for": "1h"})
    box.up()

    for count in (2, 3):
        kill(box)
        box.wait_started("a", count)
    kill(box)

    assert "gave up after 3 failures" in box.wait_phase("a", "FAILED")["reason"]


def test_R15_being_stable_forgives_everything(box: Box) -> None:
    box.config("a", restart={"failure_limit": 2, "stable_for": "0s"})
    box.up()

    for count in range(2, 6):
        kill(box)
        box.wait_started("a", count)

    assert "FAILED" not in box.changes("a")


def test_restart_policy_never_leaves_it_down_and_says_so(box: Box) -> None:
    box.config("a", restart={"policy": "never"})
    box.up()

    kill(box)

    failed = box.wait_phase("a", "FAILED")
    assert "restart.policy is never" in failed["reason"]
    assert failed["next_action"] is None
    assert len(box.starts("a")) == 1
    assert box.ask("start", names=["a"])["exit"] == 0


def test_restart_policy_on_failure_tells_a_clean_end_from_a_crash(box: Box) -> None:
    box.config("a", restart={"policy": "on-failure"})
    box.up()

    kill(box)
    box.wait_started("a", 2)
    box.set("a", "exit-now", 0)

    failed = box.wait_phase("a", "FAILED")
    assert "exited with status 0" in failed["reason"]
    assert len(box.starts("a")) == 2


def test_R20_a_stopped_server_is_told_and_restarted_without_a_kill(box: Box) -> None:
    box.config("a", health={"timeout": "150ms"}, restart={"stop_timeout": "10s"})
    box.up()

    first = kill(box, number=signal.SIGSTOP)

    box.wait_started("a", 2)
    assert not alive(first)
    assert box.changes("a")[2:] == ["UNHEALTHY", "STOPPING", "STARTING", "READY"], "SIGCONT goes with SIGTERM"


def test_R20_stop_ends_a_stopped_server(box: Box) -> None:
    box.config("a", health={"interval": "1h"}, restart={"stop_timeout": "10s"})
    box.up()
    kill(box, number=signal.SIGSTOP)

    assert box.ask("stop", names=["a"])["exit"] == 0

    assert "KILLING" not in box.changes("a")


def test_R21_a_server_that_ignores_term_is_killed_in_time(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "200ms"})
    box.set("a", "ignore-term")
    box.up()

    box.ask("stop", names=["a"])

    assert box.changes("a")[-3:] == ["STOPPING", "KILLING", "STOPPED"]
    assert box.instance("a")["exit"]["signal"] == "SIGKILL"


def test_R21_a_repeated_stop_does_not_move_the_deadline(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "500ms"})
    box.set("a", "ignore-term")
    box.up()

    def stopped_though_asked_again() -> bool:
        box.ask("stop", names=["a"], wait=False)
        return bool(box.instance("a")["phase"] == "STOPPED")

    wait_for(stopped_though_asked_again, "it is killed in time, however often a stop is asked for")
    assert box.changes("a")[-2:] == ["KILLING", "STOPPED"]


def test_R2_a_server_that_dies_while_it_is_asked_to_stop_is_stopped(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "1h"})
    box.set("a", "ignore-term")
    box.up()
    waiting = box.send({"cmd": "stop", "names": ["a"]})
    box.wait_phase("a", "STOPPING")

    kill(box)

    box.wait_phase("a", "STOPPED")
    assert answer_on(waiting)["exit"] == 0, "nobody hears of an error"
    assert len(box.starts("a")) == 1


_PTRACE_SEIZE, _PTRACE_CONT, _TRACE_EXIT = 0x4206, 7, 0x40


class Unkillable:
    """Holds a process at the door of its exit, as a hanging driver does: SIGKILL is accepted, but it does not go.

    Tracing belongs to a thread, so that thread waits for the release.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seized, self._release = threading.Event(), threading.Event()
        self._worked = False
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()
        self._seized.wait()
        if not self._worked:
            self._thread.join()
            pytest.skip("this kernel does not let us trace")

    def _hold(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._worked = libc.ptrace(_PTRACE_SEIZE, self._pid, None, _TRACE_EXIT) == 0
        self._seized.set()
        if self._worked:
            self._release.wait()
            try:
                os.waitpid(self._pid, 0x40000000)  # __WALL: it stands in its exit
            except ChildProcessError:
                return
            libc.ptrace(_PTRACE_CONT, self._pid, None, None)

    def release(self) -> None:
        """Let it go."""
        self._release.set()
        self._thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="needs ptrace")
def test_R27_a_server_that_not_even_a_kill_ends_is_stuck_and_hurts_nobody(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "100ms"})
    box.set("a", "runners", 1)
    box.up(haste={"ollamux.domain.rules.KILL_TIMEOUT_S": 0.3})
    wait_for(lambda: box.runners("a"))
    pid = box.instance("a")["pid"]
    held = Unkillable(pid)
    try:
        assert box.ask("restart", names=["a"])["exit"] == 6
        stuck = box.instance("a")
        assert stuck["phase"] == "STUCK"
        assert stuck["pid"] == pid
        assert "hangs in the kernel" in stuck["reason"]
        assert len(box.starts("a")) == 1, "its port and its GPU are not free"
        assert box.instance("b")["phase"] == "READY"
        assert box.rounds_while("b") < 200, "it must not spin on what has ended already"
    finally:
        held.release()
    box.wait_started("a", 2)


def test_R27_a_shutdown_ends_with_what_is_stuck_named(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "100ms"})
    supervisor = box.up(haste={"ollamux.domain.rules.KILL_TIMEOUT_S": 0.3})
    held = Unkillable(box.instance("a")["pid"])
    pid = box.instance("a")["pid"]
    try:
        answer = box.ask("down")
        assert answer["stuck"] == [pid]
        assert supervisor.wait() == 6
        assert any(f"pid {pid} could not be ended" in reason for reason in box.reasons())
    finally:
        held.release()
    wait_for(lambda: not alive(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="needs ptrace")
def test_R27_why_it_was_to_end_is_not_forgotten_while_it_is_stuck(box: Box) -> None:
    box.config(
        instances={"a": {"on": {"wrong_gpu": "stop"}, "env": {"FAKE_READY_GATE": str(box.root / "gate")}}},
        restart={"stop_timeout": "100ms"},
    )
    box.set("a", "device-lines", CUDA)
    box.up(ready=False, haste={"ollamux.domain.rules.KILL_TIMEOUT_S": 0.3})
    held = Unkillable(wait_for(lambda: box.starts("a"))[0])
    try:
        (box.root / "gate").touch()
        stuck = box.wait_phase("a", "STUCK")["reason"]
        assert "should use the CPU alone" in stuck
        assert "hangs in the kernel" in stuck
    finally:
        held.release()
    failed = box.wait_phase("a", "FAILED")
    assert "should use the CPU alone" in failed["reason"], "that is why it is not started again"
    assert failed["next_action"] is None


def test_R41_a_shutdown_ends_in_its_time_whatever_does_not(box: Box) -> None:
    """Also where an instance is never told to be stuck: the whole has a limit of its own."""
    box.config("a", "b", restart={"stop_timeout": "100ms"})
    short = {f"ollamux.supervisor.boot.{name}": 0.1 for name in ("HURRY_S", "SWEEP_TIMEOUT_S", "KILL_TIMEOUT_S")}
    supervisor = box.up(haste={"ollamux.domain.rules.KILL_TIMEOUT_S": 3600.0, **short})
    pid = box.instance("a")["pid"]
    held = Unkillable(pid)
    try:
        answer = box.ask("down")

        assert (answer["exit"], answer["stuck"]) == (6, [pid])
        assert supervisor.wait() == 6
        assert box.changes("b")[-1] == "STOPPED"
        assert box.changes("a")[-1] == "KILLING"
    finally:
        held.release()
    wait_for(lambda: not alive(pid))
