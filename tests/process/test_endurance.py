"""What 500 restarts leave behind in the supervisor: nothing. Counted, not timed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from process_box import Box, Supervisor, wait_for

from ollamux.domain.spec import InstanceSpec, Pinning
from ollamux.supervisor.unit import Unit
from ollamux.system.follow import Follower
from ollamux.system.logfile import rotate

LIGHT = Path(__file__).with_name("light_ollama.py")
NAMES = [f"i{number}" for number in range(20)]
WARM_UP, ROUNDS = 8, 25
MOST_GROWTH_BYTES = 3 << 19
"""Of 500 restarts, 3 KiB each; allocators keep pages that hold anything at all, and what they keep levels off slowly.

Seen over 3200 restarts by reload: 700 KiB in the first 500, and not a page more in the last 800.
"""


class Counts(NamedTuple):
    """What must not grow."""

    descriptors: int
    threads: int


def counts(supervisor: Supervisor) -> Counts:
    folder = f"/proc/{supervisor.pid}"
    return Counts(len(os.listdir(f"{folder}/fd")), len(os.listdir(f"{folder}/task")))


def rss_bytes(supervisor: Supervisor) -> int:
    return int(Path(f"/proc/{supervisor.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def crash(box: Box) -> None:
    for entry in box.status()["instances"]:
        os.kill(entry["pid"], signal.SIGKILL)


def restart(box: Box) -> None:
    assert box.ask("restart", names=NAMES, wait=False)["ok"]


def reload(box: Box) -> None:
    generation = box.status()["instances"][0]["generation"]
    box.config(*NAMES, context_length=4096 + generation)
    done = box.ollamux("reload", "--no-wait", "-q")
    assert done.returncode == 0, done.stderr


# What is done to all instances at once, and gives each a new generation.
KINDS: dict[str, Callable[[Box], None]] = {
    "crash": crash,
    "restart": restart,
    "reload": reload,
}


def ready_again(box: Box, generation: int) -> bool:
    return all(e["phase"] == "READY" and e["generation"] >= generation for e in box.status()["instances"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_R54_500_restarts_leave_no_descriptor_no_thread_and_no_memory(box: Box, kind: str) -> None:
    box.ollama.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{LIGHT.read_text()}")
    box.config(*NAMES)
    supervisor = box.up()
    before, memory = counts(supervisor), 0
    for generation in range(2, 2 + WARM_UP + ROUNDS):
        if generation == 2 + WARM_UP:
            memory = rss_bytes(supervisor)
        KINDS[kind](box)
        wait_for(lambda g=generation: ready_again(box, g), f"generation {generation}", timeout=60)
    assert sum(entry["restarts"] for entry in box.status()["instances"]) >= len(NAMES) * ROUNDS
    wait_for(lambda: counts(supervisor) == before, f"{before} again, not {counts(supervisor)}")
    assert rss_bytes(supervisor) - memory < MOST_GROWTH_BYTES


def test_R54_a_server_that_ends_while_its_log_is_read_from_a_copy_leaves_nothing_open(tmp_path: Path) -> None:
    log = tmp_path / "gpu0.log"
    log.write_bytes(b"a line\n" * 100)
    unit = Unit(InstanceSpec(name="gpu0", port=11435, pinning=Pinning.CPU), owner="nobody", log_path=str(log))
    unit.follower = Follower(str(log))
    before = sorted(os.listdir("/proc/self/fd"))
    assert unit.follower.read(14)
    rotate(str(log), keep=1)
    assert unit.follower.read(14)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1

    unit.forget_incarnation()

    assert sorted(os.listdir("/proc/self/fd")) == before
