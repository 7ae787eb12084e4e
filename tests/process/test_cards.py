"""A card falls off the bus, a driver is replaced: a stand-in for NVIDIA's library tells the real helper."""

from __future__ import annotations

import os
import signal

from process_box import Box, wait_for

UUID = "GPU-8f3c2a90-1111-2222-3333-444455556666"
LIBRARY = '''
import os

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
        if name == which:
            raise NVMLError(int(number))


def nvmlInit():
    check("init")


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    check("count")
    return 1


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


def with_card(box: Box) -> None:
    """Start a supervisor that sees one card; `a` is pinned to it, `b` is not."""
    modules = box.root / "modules"
    modules.mkdir()
    (modules / "pynvml.py").write_text(LIBRARY)
    box.env["PYTHONPATH"] = str(modules)
    box.config("b", instances={"a": {"gpus": [UUID]}})
    box.up(haste=QUICK)
    assert box.instance("a")["gpus"] == [UUID]


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
