"""The kinds that are commands, and those that are more than one thing: forged state, a changed configuration."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.chaos.asking import EXTRA
from tests.chaos.faults import FAULTS, fault
from tests.chaos.ground import COMMAND, Ground
from tests.chaos.intents import DOWN, UP
from tests.chaos.observer import stat_of
from tests.chaos.plan import Step
from tests.chaos.world import World

PATIENCE = ("--timeout", "15s")
COMMANDS = (
    *("restart", "restart-all", "restart-rolling", "restart-if-unhealthy", "stop", "start", "status-json"),
    *("up-ensure", "upgrade", "down-up"),
)


@fault(*COMMANDS)
def command(world: World, step: Step) -> None:
    """Run a command in the background."""
    world.asking.beside(lambda: _run(world, step.kind, step))


@fault("stop-and-kill")
def stop_and_kill(world: World, step: Step) -> None:
    """An instance is stopped; as soon as that is acknowledged the supervisor is killed, and has to know it later."""

    def both() -> None:
        one = frozenset({world.name(step.instance)})
        code = world.asking.run("stop", *one, *PATIENCE, want=DOWN, names=one)
        if code == 0 and world.kill_supervisor():
            world.hit(step.kind, *one)
            world.up()

    world.asking.beside(both)


@fault("burst")
def burst(world: World, step: Step) -> None:
    """Run some commands at the same time."""
    count = 3 + int(step.spice * 3)
    kinds = [COMMANDS[(step.instance // 7**number) % len(COMMANDS)] for number in range(count)]
    for number, kind in enumerate(kinds):
        beside = Step(step.at, kind, step.instance + number, step.spice, step.hold_s)
        world.tries[kind] += 1
        world.asking.beside(lambda kind=kind, beside=beside: _run(world, kind, beside))
    world.hit(step.kind, ", ".join(kinds))


def _run(world: World, kind: str, step: Step) -> None:
    every = frozenset(world.instances)
    name = world.name(step.instance)
    one = frozenset({name})
    ask = world.asking.run
    if kind == "restart":
        code = ask("restart", name, *PATIENCE, want=UP, names=one)
    elif kind == "restart-all":
        if step.spice < 0.3:
            code = ask("restart", "--all", *PATIENCE, want=UP, names=every)
        else:
            code = ask("restart", "--all", "--if-running", *PATIENCE)
    elif kind == "restart-rolling":
        code = ask("restart", "--all", "--rolling", "--if-running", *PATIENCE)
    elif kind == "restart-if-unhealthy":
        code = ask("restart", "--if-unhealthy", "-q", *PATIENCE)
    elif kind == "stop":
        code = ask("stop", name, *PATIENCE, want=DOWN, names=one)
    elif kind == "start":
        code = ask("start", name, *PATIENCE, want=UP, names=one)
    elif kind == "status-json":
        code = ask("status", "-o", "json")
        code = 0 if code == 6 else code
    elif kind == "up-ensure":
        code = world.up("--ensure", "-q", *PATIENCE)
    elif kind == "upgrade":
        code = ask("upgrade", "-q", *PATIENCE)
    else:
        code = _down_up(world, step)
    if code == 0:
        world.hit(kind)


def _down_up(world: World, step: Step) -> int:
    words = ("down", "--now") if step.spice < 0.3 else ("down",)
    code = world.asking.run(*words, want=UP, names=frozenset(world.instances))
    if world.tampered:
        world.intents.doubt("down could perhaps not be written down", DOWN)
    world.up()
    return code


@fault("forge-state")
def forge_state(world: World, step: Step) -> None:
    """The supervisor dies, and the state file that the next one finds names the pids of strangers."""
    path = world.ground.state / "state.json"
    if not world.kill_supervisor():
        return
    stranger = world.strangers.add("whose pid stands in a forged state file", "serve", argv0="ollama")
    start = (stat_of(stranger.process.pid) or ("X", 0))[1]
    try:
        plain: dict[str, Any] = json.loads(path.read_text())
        for unit in plain["units"].values():
            unit |= {"pid": stranger.process.pid, "start_ticks": start}
        draft = path.with_suffix(".forged")
        draft.write_text(json.dumps(plain))
        draft.rename(path)
    except (OSError, ValueError):
        world.tamper("the state file could not be forged")
    else:
        world.hit(step.kind, f"pid {stranger.process.pid}")
    world.later(step.hold_s / 2, lambda: world.asking.beside(lambda: world.up()))


@fault("reload")
def reload(world: World, step: Step) -> None:
    """Change the configuration and apply it: swap two ports, change a key, add an instance or take one away."""
    world.asking.beside(lambda: _reload(world, step))


def _reload(world: World, step: Step) -> None:
    before = dict(world.instances)
    what = ("swap-ports", "change-key", "add", "remove")[int(step.spice * 4)]
    wanted = dict(before)
    if what == "swap-ports":
        first, second = world.name(step.instance), world.name(step.instance + 1)
        ports = world.ground.ports
        ports[first], ports[second] = ports[second], ports[first]
    elif what == "change-key":
        name = world.name(step.instance)
        wanted[name] = wanted[name] | {"context_length": 2048 + step.instance}
    elif what == "add" or EXTRA not in wanted:
        wanted[EXTRA] = {}
    else:
        del wanted[EXTRA]
    world.reconfigure(wanted)
    if world.asking.run("reload", *PATIENCE) == 0:
        world.hit(step.kind, what)
    else:
        world.reload_owed = True


def has_reload(ground: Ground) -> bool:
    """Whether the installed command knows `reload`."""
    words = [COMMAND, "reload", "--help"]
    return subprocess.run(words, env=ground.env, capture_output=True, check=False).returncode == 0


def kinds(ground: Ground, *, without: frozenset[str] = frozenset()) -> list[str]:
    """Return every kind that can be had here."""
    missing = without if has_reload(ground) else without | {"reload"}
    return [kind for kind in FAULTS if kind not in missing]
