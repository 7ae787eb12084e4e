"""A card falls off the bus, a driver is replaced: a stand-in for NVIDIA's library tells the real helper."""

from __future__ import annotations

import os
import signal

import pytest
from process_box import Box, Supervisor, process_state, wait_for
from test_crashes import Unkillable
from test_health import helpers

UUID = "GPU-8f3c2a90-1111-2222-3333-444455556666"
LIBRARY = '''
import os
import time

TROUBLE = os.path.join(os.path.dirname(__file__), "trouble")


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__("error %d" % value)
        self.value = value


def check(which):
    """A file holds a function and the number of the error with which it answers."""
    if os.path.exists(TROUBLE):
        with open(TROUBLE) as file:
            name, number = file.read().split()
        if name == "hang":
            time.sleep(3600)
        if name == which:
            raise NVMLError(int(number))


def nvmlInit():
    check("init")


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    check("count")
    return 0 if os.path.exists(TROUBLE + "-none") else 1


def nvmlDeviceGetHandleByIndex(index):
    check("handle")
    return index


def nvmlDeviceGetUUID(handle):
    return "UUID-HERE"


def nvmlDeviceGetName(handle):
    return "NVIDIA RTX A2000 12GB"


def nvmlSystemGetDriverVersion():
    return "580.95.05"
'''.replace("UUID-HERE", UUID)
LOST, MISMATCH = 15, 18
QUICK = {"ollamux.supervisor.gpus.SAMPLE_INTERVAL_S": 0.1}


def with_library(box: Box) -> None:
    """Let the helper find the stand-in, which knows one card; `a` is pinned to that, `b` is not."""
    modules = box.root / "modules"
    modules.mkdir()
    (modules / "pynvml.py").write_text(LIBRARY)
    box.env["PYTHONPATH"] = str(modules)
    box.config("b", instances={"a": {"gpus": [UUID]}})


def with_card(box: Box) -> Supervisor:
    """Start a supervisor that sees one card."""
    with_library(box)
    supervisor = box.up(haste=QUICK)
    assert box.instance("a")["gpus"] == [UUID]
    return supervisor


def trouble(box: Box, text: str | None) -> None:
    path = box.root / "modules/trouble"
    if text is None:
        path.unlink()
    else:
        draft = path.with_name("draft")
        draft.write_text(text)
        draft.rename(path)


def card(box: Box) -> str:
    return str(box.status()["gpus"][0]["state"])


def test_R65_a_card_that_is_lost_is_told_and_waited_for_never_looped_on(box: Box) -> None:
    with_card(box)
    first = box.instance("a")["pid"]

    trouble(box, f"handle {LOST}")

    wait_for(lambda: box.instance("a")["health"] == "degraded", "it is told")
    found = box.instance("a")
    assert (found["pid"], found["phase"]) == (first, "READY"), "what serves is not cut off"
    assert "fallen off the bus" in found["reason"]
    assert card(box) == "lost"
    assert box.instance("b")["health"] == "ok"
    assert box.ollamux("restart", "--if-unhealthy", "-q").returncode == 0
    assert box.instance("a")["pid"] == first, "a restart mends no card"
    os.kill(first, signal.SIGKILL)
    waiting = box.wait_phase("a", "WAITING")
    assert "is lost" in waiting["reason"]
    assert waiting["next_action"] == "look again"
    seen = box.rounds()
    wait_for(lambda: box.rounds() > seen + 60, "it looks again and again")
    assert box.starts("a") == [first]
    assert "FAILED" not in box.changes("a")
    trouble(box, None)
    assert box.wait_started("a", 2)["health"] == "ok"


def test_R68_a_driver_that_is_replaced_under_us_blinds_us_and_harms_nobody(box: Box) -> None:
    with_card(box)
    pids = {name: box.instance(name)["pid"] for name in ("a", "b")}

    trouble(box, f"count {MISMATCH}")

    told = wait_for(lambda: box.status()["host"]["gpus_error"], "it is told")
    assert "driver was updated while the old one runs" in told
    assert "reboot" in told
    assert card(box) == "unknown", "the card is not said to be lost"
    box.rounds_while("a")
    assert {name: box.instance(name)["pid"] for name in ("a", "b")} == pids
    assert [box.instance(name)["phase"] for name in ("a", "b")] == ["READY", "READY"]
    assert box.instance("a")["health"] == "ok"
    assert "reboot" in box.ollamux("status").stdout
    trouble(box, None)
    wait_for(lambda: card(box) == "ok" and not box.status()["host"]["gpus_error"], "it is read again")


@pytest.mark.parametrize(
    ("error", "words"),
    [("init 12", "install"), ("init 9", "modprobe"), ("init 18", "reboot"), ("-none", "there is no GPU here")],
    ids=["no library", "no module", "updated under the kernel", "no card"],
)
def test_C14_what_needs_no_gpu_starts_and_what_needs_one_waits_with_the_advice(
    box: Box, error: str, words: str
) -> None:
    with_library(box)
    if error == "-none":
        (box.root / "modules/trouble-none").touch()
    else:
        trouble(box, error)
    box.up(ready=False, haste=QUICK)
    box.wait_ready("b")

    waiting = wait_for(lambda: words in (box.instance("a")["reason"] or "") and box.instance("a"))

    assert (waiting["phase"], waiting["next_action"]) == ("WAITING", "look again")
    assert box.starts("a") == []
    assert box.ollamux("status").returncode == 6
    if error == "-none":
        (box.root / "modules/trouble-none").unlink()
    else:
        assert words in box.ollamux("status").stdout
        trouble(box, None)
    assert box.wait_started("a", 1)["gpus"] == [UUID]
    assert len(box.starts("b")) == 1


@pytest.mark.parametrize("killable", [True, False], ids=["a call", "the kernel"])
def test_R66_while_nvml_hangs_the_last_sample_is_shown_with_its_age(box: Box, killable: bool) -> None:
    supervisor = with_card(box)
    pids = {name: box.instance(name)["pid"] for name in ("a", "b")}
    helper = helpers(supervisor.pid)[0]
    held = None if killable else Unkillable(helper)
    try:
        trouble(box, "hang 0")

        told = wait_for(lambda: box.status()["host"]["gpus_error"], "it is told")
        assert "has not answered for" in told
        before = box.status()["gpus"][0]
        assert (before["state"], before["uuid"]) == ("ok", UUID)
        wait_for(lambda: box.status()["gpus"][0]["age_s"] > before["age_s"] + 0.5, "it grows old")
        assert "has not answered for" in box.ollamux("status").stdout
        assert (process_state(helper) in (None, "Z")) is killable
        wait_for(lambda: [pid for pid in helpers(supervisor.pid) if pid != helper], "another one is asked")
        box.rounds_while("a")
        assert {name: box.instance(name)["pid"] for name in ("a", "b")} == pids
        assert [box.instance(name)["health"] for name in ("a", "b")] == ["ok", "ok"]
        trouble(box, None)
        wait_for(lambda: not box.status()["host"]["gpus_error"], "it is read again", timeout=40)
        box.ask("down")
        assert supervisor.wait() == 0, "whatever hangs"
    finally:
        if held is not None:
            held.release()
