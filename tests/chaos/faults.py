"""The kinds of faults: each is one function that does it, says when it really took effect, and plans its undoing."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.observer import Violation, lives, stat_of
from tests.chaos.plan import Step
from tests.chaos.world import World
from tests.process.process_box import process_state

Fault = Callable[[World, Step], None]
FAULTS: dict[str, Fault] = {}
DISK_KINDS = frozenset({"disk-full-state", "disk-full-logs"})
_CLOCK_STEPS_S = (-30 * 86400.0, -3600.0, -61.0, 61.0, 3600.0, 30 * 86400.0)


def fault(*kinds: str) -> Callable[[Fault], Fault]:
    """Give a function its kinds."""

    def remember(function: Fault) -> Fault:
        FAULTS.update(dict.fromkeys(kinds, function))
        return function

    return remember


# -- processes


@fault("kill-serve", "stop-serve", "kill-runner", "stop-runner")
def signal_one(world: World, step: Step) -> None:
    """SIGKILL, or SIGSTOP and SIGCONT later, to a server or a runner."""
    seen = world.leader(step.instance) if step.kind.endswith("serve") else world.runner(step.instance)
    if seen is None:
        return
    what = f"{seen.instance} pid {seen.pid} generation {seen.gen}"
    if step.kind.startswith("kill"):
        if world.kill_leader(seen):
            world.hit(step.kind, what)
        return
    world.send(seen, signal.SIGSTOP)
    world.later(step.hold_s, lambda: world.send(seen, signal.SIGCONT) and None)
    if world.wait(lambda: process_state(seen.pid) == "T", 0.5):
        world.hit(step.kind, what)


@fault("kill-supervisor-up", "kill-supervisor-ensure")
def kill_supervisor(world: World, step: Step) -> None:
    """SIGKILL to the supervisor, and another one a while later."""
    words = () if step.kind.endswith("up") else ("--ensure", "-q", "--timeout", "20s")
    if world.kill_supervisor():
        world.hit(step.kind)
        world.later(step.hold_s / 2, lambda: world.asking.beside(lambda: world.up(*words)))


@fault("stop-supervisor")
def stop_supervisor(world: World, step: Step) -> None:
    """SIGSTOP, and SIGCONT later."""
    pid = world.supervisor()
    if pid is None:
        return
    start = (stat_of(pid) or ("X", 0))[1]
    os.kill(pid, signal.SIGSTOP)
    world.later(step.hold_s, lambda: os.kill(pid, signal.SIGCONT) if lives(pid, start) else None)
    if world.wait(lambda: process_state(pid) == "T", 0.5):
        world.hit(step.kind)


@fault("kill-helper", "stop-helper")
def disturb_helper(world: World, step: Step) -> None:
    """SIGKILL or SIGSTOP to the process that reads the cards; a stopped one is the supervisor's to end."""
    pid = world.helper()
    if pid is None:
        return
    start = (stat_of(pid) or ("X", 0))[1]
    kills = step.kind.startswith("kill")
    os.kill(pid, signal.SIGKILL if kills else signal.SIGSTOP)
    if world.wait(lambda: not lives(pid, start) or (not kills and process_state(pid) == "T"), 0.5):
        world.hit(step.kind, f"pid {pid}")


@fault("hang-driver")
def hang_driver(world: World, step: Step) -> None:
    """The driver hangs below the helper, which therefore answers nothing."""
    gate, proof = world.ground.root / "nvml-hang", world.ground.root / "nvml-hung"
    proof.unlink(missing_ok=True)
    gate.touch()

    def over() -> None:
        gate.unlink(missing_ok=True)
        if proof.exists():
            world.hit(step.kind)

    world.later(max(1.0, step.hold_s), over)


# -- ports


@fault("port-taken")
def take_port(world: World, step: Step) -> None:
    """A stranger takes the port of a server that has just died, and answers on it as an ollama would."""
    seen, supervisor = world.leader(step.instance), world.supervisor()
    if seen is None:
        return
    if supervisor is not None:
        os.kill(supervisor, signal.SIGSTOP)  # else it is quicker than anybody
    try:
        if not world.kill_leader(seen):
            return
        address = (world.ground.host, world.ground.ports[seen.instance])
        try:
            thief = world.strangers.add(f"who took the port of {seen.instance}", address=address)
        except OSError:
            return
    finally:
        if supervisor is not None and supervisor == world.supervisor():
            os.kill(supervisor, signal.SIGCONT)
    world.hit(step.kind, f"{seen.instance}, by pid {thief.process.pid}")

    def over() -> None:
        _not_ready_meanwhile(world, address[1])
        world.strangers.end(thief)

    world.later(max(1.0, step.hold_s), over)


def _not_ready_meanwhile(world: World, port: int) -> None:
    """Judge whoever has the port by now: a reload may have given it to another instance."""
    for _ in range(2):
        status = world.asking.status() or {"instances": []}
        entry = next((entry for entry in status["instances"] if entry["port"] == port), None)
        if entry is None or entry["phase"] != "READY":
            return
        time.sleep(0.3)
    world.report(Violation("I5", f"{entry['name']} is called READY while a stranger holds its port: {entry}"))


# -- disks and files


@fault("disk-full-state", "disk-full-logs")
def fill_disk(world: World, step: Step) -> None:
    """Fill the small disk of the state or of the logs to the brim, and free it later."""
    folder = world.ground.state if step.kind.endswith("state") else world.ground.logs
    ballast = folder / "ballast"
    if step.kind.endswith("state"):
        world.tamper("the disk of the state was filled")
    _fill(ballast)
    world.later(step.hold_s, lambda: ballast.unlink(missing_ok=True))
    if os.statvfs(folder).f_bavail == 0:
        world.hit(step.kind)


def _fill(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    size = 1 << 16
    try:
        while size:
            try:
                os.write(fd, bytes(size))
            except OSError:
                size //= 2
    finally:
        os.close(fd)


@fault("delete-log", "truncate-log")
def spoil_log(world: World, step: Step) -> None:
    """Delete or cut the log of a server, or the record of events."""
    name = world.name(step.instance)
    path = world.ground.logs / f"{name}.log" if step.spice < 0.7 else world.ground.state / "events.jsonl"
    if not path.exists() or path.stat().st_size == 0:
        return
    if step.kind == "delete-log":
        path.unlink()
    else:
        os.truncate(path, int(path.stat().st_size * step.spice / 2))
    world.hit(step.kind, path.name)


@fault("delete-socket")
def delete_socket(world: World, step: Step) -> None:
    """Delete the control socket."""
    path = world.ground.runtime / "ollamux.sock"
    if path.exists():
        path.unlink(missing_ok=True)
        world.hit(step.kind)


@fault("delete-state", "truncate-state")
def spoil_state(world: World, step: Step) -> None:
    """Delete or cut the state file."""
    path = world.ground.state / "state.json"
    if not path.exists():
        return
    world.tamper(f"{step.kind}")
    try:
        if step.kind == "delete-state":
            path.unlink()
        else:
            os.truncate(path, int(path.stat().st_size * step.spice))
    except FileNotFoundError:
        return
    world.hit(step.kind)


@fault("few-descriptors")
def few_descriptors(world: World, step: Step) -> None:
    """Leave the supervisor no descriptor beyond those it has, and give them back later.

    One without its loop is left alone: an interpreter that cannot import ends before a line of the supervisor runs.
    """
    pid = world.supervisor()
    if pid is None:
        return
    start = (stat_of(pid) or ("X", 0))[1]
    try:
        opened = {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        if "anon_inode:[eventpoll]" not in opened.values():
            return
        highest = max(opened)
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(highest + 1, hard), hard))
        world.observer.excused = True
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:
        return
    world.later(step.hold_s, lambda: world.raise_limit(pid) if lives(pid, start) else None)
    if soft == highest + 1:
        world.hit(step.kind, f"at {soft}")


@fault("clock-step")
def step_clock(world: World, step: Step) -> None:
    """Step the wall clock as every Python of the run sees it; the kernel's own is everybody's."""
    seconds = _CLOCK_STEPS_S[int(step.spice * len(_CLOCK_STEPS_S))]
    world.ground.step_clock(seconds)
    if world.supervisor() is not None:
        world.hit(step.kind, f"by {seconds:g} s")


# -- servers that misbehave


@fault("hang-api", "hang-ps")
def hang(world: World, step: Step) -> None:
    """A server accepts and never answers."""
    seen = world.leader(step.instance)
    if seen is None:
        return
    world.ground.turn(seen.instance, step.kind)
    world.later(step.hold_s, lambda: world.ground.turn_back(seen.instance, step.kind))
    if _hangs(world, seen.instance, "/api/ps" if step.kind == "hang-ps" else "/api/version"):
        world.hit(step.kind, seen.instance)


def _hangs(world: World, name: str, path: str) -> bool:
    try:
        with socket.create_connection((world.ground.host, world.ground.ports[name]), timeout=0.2) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connection.recv(1)
    except TimeoutError:
        return True
    except OSError:
        pass
    return False


@fault("slow-start", "exit-at-start", "deaf", "loose-runner")
def start_badly(world: World, step: Step) -> None:
    """A server dies, and the next one is slow, ends at once, is deaf to SIGTERM, or lets its runner leave the group."""
    seen = world.leader(step.instance)
    if seen is None:
        return
    name = seen.instance
    gate = world.ground.root / f"gate-{name}"
    knobs = {
        "slow-start": {"ready-gate": gate},
        "exit-at-start": {"exit": 3, "words": "Error: something is missing"},
        "deaf": {"ignore-term": 1, "runner-ignore-term": 1},
        "loose-runner": {"runner-setsid": 1},
    }[step.kind]
    gate.unlink(missing_ok=True)
    for knob, value in knobs.items():
        world.ground.turn(name, knob, value)
    before = len(world.ground.starts(name))
    world.kill_leader(seen)

    def over() -> None:
        if len(world.ground.starts(name)) > before:
            world.hit(step.kind, name)
        for knob in knobs:
            world.ground.turn_back(name, knob)
        gate.touch()

    world.later(max(step.hold_s, 0.8), over)


@fault("exit-code")
def exit_with(world: World, step: Step) -> None:
    """A server ends by itself, with a code, and leaves its runner behind."""
    seen = world.leader(step.instance)
    if seen is None:
        return
    world.ground.turn(seen.instance, "exit-now", 1 + int(step.spice * 200))
    if world.wait(lambda: not lives(seen.pid, seen.start), 1.0):
        world.hit(step.kind, seen.instance)
    world.later(0.0 if step.spice < 0.5 else 0.5, lambda: world.ground.turn_back(seen.instance, "exit-now"))


@fault("log-flood")
def flood_log(world: World, step: Step) -> None:
    """A server writes hundreds of lines for every answer, so that its log is rotated again and again."""
    seen = world.leader(step.instance)
    if seen is None:
        return
    path = world.ground.logs / f"{seen.instance}.log"
    before = path.stat().st_size if path.exists() else 0
    world.ground.turn(seen.instance, "flood-lines", 2000)
    world.answers(seen.instance)

    def over() -> None:
        world.ground.turn_back(seen.instance, "flood-lines")
        after = path.stat().st_size if path.exists() else 0
        if after > before + 20_000 or path.with_name(path.name + ".1").exists():
            world.hit(step.kind, seen.instance)

    world.later(step.hold_s, over)
