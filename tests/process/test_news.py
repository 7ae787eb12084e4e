"""Acting comes first and telling after it: what is told late is told in order, whole, and before anybody can ask."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

from process_box import Box, wait_for


def test_whoever_asks_sees_nothing_that_is_not_on_record(box: Box) -> None:
    box.config("a")
    box.up()
    for generation in range(2, 7):
        os.kill(box.instance("a")["pid"], signal.SIGKILL)
        seen = wait_for(lambda g=generation: (e := box.instance("a"))["generation"] >= g and e, "the next generation")
        starts = [event for event in box.events() if event["to"] == "STARTING"]
        assert len(starts) >= seen["generation"], box.story()


def test_what_is_told_late_is_whole_and_in_order(box: Box) -> None:
    names = [f"i{number}" for number in range(8)]
    box.config(*names)
    supervisor = box.up()
    for name in names:
        os.kill(box.instance(name)["pid"], signal.SIGKILL)
    for name in names:
        box.wait_started(name, 2)
    supervisor.signal(signal.SIGTERM)
    supervisor.wait()
    events = box.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    for name in names:
        changes = [(event["from"], event["to"]) for event in events if event["instance"] == name]
        moved = [(old, new) for old, new in changes if old != new or new == "STARTING"]
        assert all(after[0] == before[1] for before, after in pairwise(moved)), box.story()
        assert moved[-1] == ("STOPPING", "STOPPED")
