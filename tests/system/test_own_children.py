"""The list of our own children is read anew each time, through a file that is opened once."""

from __future__ import annotations

import os
import sys

import pytest

from ollamux.system import procs


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_list_follows_what_is_started_and_collected() -> None:
    ours = procs.OwnChildren()
    before = set(ours.list() or ())
    pids = {os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ) for _ in range(3)}
    try:
        assert set(ours.list() or ()) == before | pids == set(procs.children(os.getpid()) or ())
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    assert set(ours.list() or ()) == before
