"""A short chaos run, the bugs that it must find, and what of it can be judged without a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.intents import DOWN, UP, Intents

ROOT = Path(__file__).parents[2]
CHAOS = (sys.executable, "-m", "tests.chaos")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def chaos(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([*CHAOS, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def disks() -> tuple[str, ...]:
    """Return the word that leaves full disks out, where nothing can be mounted."""
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    maps = subprocess.run(["unshare", "-Um", "true"], capture_output=True, check=False)
    return () if done.returncode == 0 or maps.returncode == 0 else ("--no-disks",)


@pytest.mark.timeout(2400)
def test_a_short_run_hits_with_every_kind_and_violates_nothing() -> None:
    done = chaos("--minutes", "0.6", "--seed", "1", *disks())

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_every_planted_bug_is_found_and_without_one_nothing_is() -> None:
    done = chaos("--planted")

    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("impatient", "no_sweep", "by_name", "stale_pid", "forgetful", "no_respawn", "leak", "none"):
        assert f"\n{name} " in f"\n{done.stdout}", done.stdout


def test_the_seed_alone_decides_the_plan() -> None:
    first, second, other = (chaos("--show-plan", "4", "--no-disks", "--seed", seed).stdout for seed in "778")

    assert first == second
    assert first != other
    assert first.count("Step(") == 36


@pytest.mark.timeout(300)
def test_ctrl_c_ends_everything_that_was_started() -> None:
    process = subprocess.Popen(  # noqa: TID251 - tests start their processes as anybody does
        [*CHAOS, "--minutes", "5", "--no-disks", "--seed", "3", "-v"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stdout is not None
    with process.stdout as out:
        folder = out.readline().split()[-1]
        for line in out:
            if "took effect" in line:
                break
        os.kill(process.pid, signal.SIGINT)
        rest = out.read()

    assert process.wait() == 130, rest
    assert not Path(folder).exists()
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and folder.encode() in environment(pid)]
    assert not left


def environment(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


NAMES = frozenset({"a"})


@pytest.mark.parametrize(
    ("commands", "possible"),
    [
        ([], {UP}),
        ([(DOWN, 1, 2, True)], {DOWN}),
        ([(DOWN, 1, 2, True), (UP, 3, 4, True)], {UP}),
        ([(DOWN, 1, 3, True), (UP, 2, 4, True)], {UP, DOWN}),
        ([(DOWN, 1, 2, False)], {UP, DOWN}),
        ([(DOWN, 1, 2, False), (UP, 3, 4, True)], {UP}),
        ([(DOWN, 1, 2, False), (DOWN, 3, 4, True)], {DOWN}),
        ([(DOWN, 1, None, False), (UP, 3, 4, True)], {UP, DOWN}),
    ],
)
def test_of_overlapping_or_failed_commands_either_may_have_been_heard(
    commands: list[tuple[str, int, int | None, bool]], possible: set[str]
) -> None:
    intents = Intents(NAMES)
    intents.settle({"a": UP})
    now = time.monotonic()
    for want, begin, end, acknowledged in commands:
        wish = intents.ask(want, NAMES, "a command")
        wish.begin, wish.acknowledged = now + begin, acknowledged
        wish.end = None if end is None else now + end

    assert intents.possible("a") == possible
