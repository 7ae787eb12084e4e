"""Bugs that must be found: each is planted into the supervisor, and a short story must show the invariant it breaks.

The same stories without a bug must show nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.chaos.faults import FAULTS
from tests.chaos.ground import Ground
from tests.chaos.intents import DOWN, UP
from tests.chaos.plan import Step
from tests.chaos.settle import Quiet
from tests.chaos.world import World

PATIENCE_S = 15.0
AT_ONCE = 4
NO_BUG = "none"
Story = Callable[[World, Quiet], None]


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug of `inject/plants.py`, what it breaks, and the story that shows it."""

    name: str
    invariant: str
    story: Story


def crash(world: World, quiet: Quiet) -> None:
    """A server dies and leaves its runner behind."""
    seen = world.leader(0)
    assert seen is not None
    world.wait(lambda: world.runner(0) is not None, PATIENCE_S)
    world.kill_leader(seen)
    world.wait(lambda: (new := world.leader(0)) is not None and new.gen > seen.gen, 3.0)
    world.wait(lambda: all(other.gen > seen.gen for other in world.observer.marked if other.instance == "cpu0"), 3.0)


def crash_and_settle(world: World, quiet: Quiet) -> None:
    """A server dies, and everything has to be well again."""
    crash(world, quiet)
    quiet.settle()


def stop_a_deaf_one(world: World, quiet: Quiet) -> None:
    """A server that ignores SIGTERM is stopped; its runner is not in its group, and deaf as well."""
    for knob in ("ignore-term", "runner-ignore-term", "runner-setsid"):
        world.ground.turn("cpu0", knob)
    world.asking.run("restart", "cpu0", "--timeout", "15s", want=UP, names=frozenset({"cpu0"}))
    world.wait(lambda: (found := world.runner(0)) is not None and found.instance == "cpu0", PATIENCE_S)
    world.asking.run("stop", "cpu0", "--timeout", "15s", want=DOWN, names=frozenset({"cpu0"}))
    gone = lambda: all(seen.instance != "cpu0" for seen in world.observer.marked)  # noqa: E731
    world.wait(lambda: gone() or world.violations, world.observer.bound_s + 4.0)


def restart_beside_strangers(world: World, quiet: Quiet) -> None:
    """A restart, beside others that only look like ours."""
    world.asking.run("restart", "--all", "--timeout", "15s", want=UP, names=frozenset(world.instances))
    world.wait(lambda: world.violations, 0.3)


def forged_state(world: World, quiet: Quiet) -> None:
    """The state file names a stranger's pid."""
    FAULTS["forge-state"](world, Step(0.0, "forge-state", 0, 0.0, 0.0))
    world.run_until(time.monotonic() + 0.1)
    world.asking.wait()
    world.wait(lambda: world.violations, 0.3)


def stop_and_die(world: World, quiet: Quiet) -> None:
    """An instance is stopped, and then the supervisor is killed."""
    world.asking.run("stop", "cpu0", "--timeout", "15s", want=DOWN, names=frozenset({"cpu0"}))
    world.kill_supervisor()
    world.up()
    quiet.settle()


def many_questions(world: World, quiet: Quiet) -> None:
    """The supervisor is asked a few things between two quiet moments."""
    quiet.settle()
    for _ in range(8):
        world.asking.status()
    quiet.settle()


def ask_for_a_restart(world: World, quiet: Quiet) -> None:
    """Somebody restarts an instance."""
    world.asking.run("restart", "cpu0", "--timeout", "15s", want=UP, names=frozenset({"cpu0"}))


PLANTED = (
    Planted("impatient", "I1", crash),
    Planted("no_sweep", "I2", stop_a_deaf_one),
    Planted("by_name", "I3", restart_beside_strangers),
    Planted("stale_pid", "I3", forged_state),
    Planted("forgetful", "I4", stop_and_die),
    Planted("no_respawn", "I5", crash_and_settle),
    Planted("leak", "I6", many_questions),
    Planted("broken_command", "I6", ask_for_a_restart),
)


def find_all(names: Sequence[str], *, verbose: bool) -> int:
    """Plant each and look for it, a few at a time, each in a process of its own; and tell all stories without a bug."""
    chosen = list(names) or [*(planted.name for planted in PLANTED), NO_BUG]
    if len(chosen) == 1:
        return _find(chosen[0], verbose=verbose)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(_find_apart, chosen))
    return int(any(ended))


def _find_apart(name: str) -> int:
    words = [sys.executable, "-m", "tests.chaos", "--planted", name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="", flush=True)
    return done.returncode


def _find(name: str, *, verbose: bool) -> int:
    began = time.monotonic()
    planted = next((planted for planted in PLANTED if planted.name == name), None)
    stories = [other.story for other in PLANTED] if planted is None else [planted.story]
    found, lines = _tell(None if planted is None else name, stories, verbose=verbose)
    expected = set() if planted is None else {planted.invariant}
    verdict = "as it has to be" if found == expected else f"BUT IT HAD TO BE {', '.join(expected) or 'nothing'}"
    seen = ", ".join(sorted(found)) or "nothing"
    print(f"{name:<16} found: {seen:<8} {verdict}, {time.monotonic() - began:.1f} s", flush=True)
    if found != expected:
        print("\n".join(f"    {line}" for line in lines), flush=True)
    return int(found != expected)


def _tell(plant: str | None, stories: Sequence[Story], *, verbose: bool) -> tuple[set[str], list[str]]:
    ground = Ground(plant=plant, disks=False)
    with open(ground.root / "run.log", "w", encoding="utf-8") as log:
        world = World(ground, log=log, verbose=verbose, instances={"cpu0": {}, "cpu1": {}})
        world.observer.bound_s = 4.0
        quiet = Quiet(world, bound_s=5.0 if plant else 20.0)
        try:
            world.begin()
            for story in stories:
                story(world, quiet)
                if plant is None:
                    quiet.settle()
        finally:
            world.end()
    ground.remove()
    return {violation.invariant for violation in world.violations}, [str(found)[:1500] for found in world.violations]
