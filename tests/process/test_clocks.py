"""Clocks that are set and machines that sleep: nothing is decided by the wall clock, and a sleep is nobody's fault."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from process_box import Box, wait_for
from test_health import HUNG, overdue

YEAR_S = 365 * 86400.0


@pytest.mark.parametrize("step_s", [YEAR_S, -YEAR_S, 3.0, -3.0], ids=["year on", "year back", "NTP on", "NTP back"])
def test_R44_a_wall_clock_that_is_set_restarts_nothing_and_holds_nothing_up(box: Box, step_s: float) -> None:
    box.config("a", "b")
    box.set("a", "runners", 1)
    box.set("a", "ps", overdue(box, expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat()))
    supervisor = box.up(haste=HUNG)
    wait_for(lambda: box.status()["models"], "the model is seen before the step")

    box.set_clock(wall_s=step_s)
    for _ in range(3):
        box.rounds_while("a", 10)

    status = box.status()
    assert box.changes("a") == box.changes("b") == ["STARTING", "READY"]
    assert not [reason for reason in box.reasons() if "hangs" in reason]
    assert 0 <= status["supervisor"]["uptime_s"] < 300
    os.kill(box.instance("b")["pid"], signal.SIGKILL)
    box.wait_started("b", 2)
    assert box.ask("restart", names=["a"], timeout=60)["exit"] == 0
    shown = datetime.fromisoformat(box.status()["time"]) - datetime.now(UTC)
    assert abs(shown.total_seconds() - step_s) < 60, "what is shown is the wall clock"
    pids = {name: box.instance(name)["pid"] for name in ("a", "b")}
    supervisor.kill()
    box.up(haste=HUNG)
    for name, pid in pids.items():
        found = box.wait_phase(name, "READY")
        assert (found["pid"], found["adopted"]) == (pid, True), "what was started before the step is known again"


def test_R45_a_night_in_suspend_is_no_failure(box: Box) -> None:
    """The machine sleeps eight hours between any two looks, so no missing answer may be held against it."""
    box.config("a", health={"timeout": "150ms", "failures": 2, "unhealthy_timeout": "1h"})
    box.up()
    pid = box.instance("a")["pid"]
    box.set_clock(asleep_s=8 * 3600.0)

    os.kill(pid, signal.SIGSTOP)
    seen = box.rounds()
    wait_for(lambda: box.rounds() > seen + 60, "several checks are missed")

    assert box.instance("a")["phase"] == "READY"
    box.set_clock()
    assert "2 checks in a row" in box.wait_phase("a", "UNHEALTHY")["reason"], "awake, misses count"
    os.kill(pid, signal.SIGCONT)
    assert box.wait_phase("a", "READY")["pid"] == pid
    assert len(box.starts("a")) == 1
