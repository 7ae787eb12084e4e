"""What hangs is told from what is slow, each hang has its own reason, and its runner is ended before its server."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from process_box import Box, alive, process_state, wait_for
from test_health import HUNG, overdue

SHORT = {"ollamux.ollama.waits.SLACK_S": 0.3}
LOADING = {"env": {"OLLAMA_LOAD_TIMEOUT": "300ms"}}


def loading(box: Box, **more: Any) -> None:
    """Configure an instance with a runner of which ps says nothing, as it is during a load."""
    overdue(box)
    box.config(instances={"a": LOADING | more}, health={"unhealthy_timeout": "1h"})
    box.set("a", "runners", 1)


def test_a_load_that_works_is_left_alone_however_long_it_takes_and_one_that_hangs_is_ended(box: Box) -> None:
    loading(box)
    box.set("a", "runner-busy")
    box.up(haste=SHORT)
    pid = box.instance("a")["pid"]
    runner = wait_for(lambda: box.runners("a"))[0]
    box.rounds_while("a", 40)  # four seconds, several times as long as a load may stand still
    assert alive(runner)
    assert box.changes("a") == ["STARTING", "READY"]

    os.kill(runner, signal.SIGUSR2)  # from now on it does nothing any more

    wait_for(lambda: process_state(runner) in (None, "Z"), "the runner is ended")
    told = next(reason for reason in box.reasons() if "the load of" in reason)
    assert told == (
        f"the load of sha256-000000000000 hangs: its runner (pid {runner}) has used no CPU and read nothing for 0.6 s"
    )
    assert box.wait_phase("a", "READY")["pid"] == pid, "and the instance goes on"
    assert len(box.starts("a")) == 1


def test_a_configured_model_whose_load_hangs_is_named(box: Box) -> None:
    loading(box, canary={"models": ["m"]})
    box.up(haste=SHORT)
    wait_for(lambda: any("the load of m hangs" in reason for reason in box.reasons()))


def test_who_allowed_loads_to_take_for_ever_has_none_ended(box: Box) -> None:
    loading(box, env={"OLLAMA_LOAD_TIMEOUT": "-1"})
    box.up(haste=SHORT)
    runner = wait_for(lambda: box.runners("a"))[0]

    box.rounds_while("a", 30)

    assert alive(runner)
    assert box.changes("a") == ["STARTING", "READY"]


def test_an_idle_runner_beside_a_listed_model_is_no_load(box: Box) -> None:
    box.config(instances={"a": LOADING})
    box.set("a", "runners", 1)
    box.set("a", "ps", overdue(box, expires_at="2099-01-01T00:00:00Z"))
    box.up(haste=SHORT)
    runner = wait_for(lambda: box.runners("a"))[0]

    box.rounds_while("a", 30)

    assert alive(runner)
    assert box.changes("a") == ["STARTING", "READY"]


HANGS = {
    "API": ({"hang-api": 1}, "the API does not answer"),
    "scheduler": ({"hang-ps": 1}, "the scheduler does not answer"),
    "runner": ({"runners": 1, "ps": None}, "the runner of m:latest (pid"),
    "load": ({"runners": 1}, "the load of sha256-000000000000 hangs"),
    "inference": ({"runners": 1, "ps": "2319-01-01T00:00:00Z", "hang-generate": 1}, "the canary got no token from m"),
}


@pytest.mark.parametrize("what", HANGS)
def test_every_hang_is_told_by_its_name(box: Box, what: str) -> None:
    knobs, reason = HANGS[what]
    canary = {"models": ["m"], "interval": "300ms", "timeout": "200ms", "per_hour": 3600, "failures": 1}
    box.config(
        instances={"a": {**LOADING, "canary": canary if what == "inference" else {}}}, health={"timeout": "300ms"}
    )
    for knob, text in knobs.items():
        if knob == "ps":
            box.set("a", knob, overdue(box, **({} if text is None else {"expires_at": text, "digest": "d"})))
        elif knob == "runners":
            box.set("a", knob, text)
    box.up(haste=HUNG | SHORT | {"ollamux.supervisor.checks.SCHEDULER_PATIENCE_S": 0.3})
    for knob, text in knobs.items():
        if knob.startswith("hang"):
            box.set("a", knob, text)

    wait_for(lambda: "UNHEALTHY" in box.changes("a"), "it is told")
    bad = next(e["reason"] for e in box.events() if e["from"] != e["to"] == "UNHEALTHY")
    assert bad.startswith(reason)
    others = [words for name, (_, words) in HANGS.items() if name != what]
    assert not any(bad.startswith(words) for words in others)
