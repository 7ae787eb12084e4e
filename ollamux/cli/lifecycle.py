"""`start`, `stop`, `restart` and `down`: ask the supervisor, wait, and say what became of each instance."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ollamux.cli import screen
from ollamux.cli.target import question, reach
from ollamux.cli.words import seconds
from ollamux.domain.errors import Exit, NotRunningError, UsageError
from ollamux.domain.text import safe_text
from ollamux.protocol.client import ask, peer_pid
from ollamux.system.clock import monotonic
from ollamux.system.files import is_locked
from ollamux.system.places import state_dir

GRACE_S = 5.0
"""The supervisor keeps the time; the client waits this much longer for its answer."""
_GOES_ON = "what was asked goes on by itself"
_GOES_ON_ROLLING = "the instance that is being restarted goes on, those after it are left as they are"


@contextmanager
def going_on(what: str, *, simulated: bool) -> Iterator[None]:
    """While something is waited for: say after Ctrl-C what goes on without us."""
    try:
        yield
    except KeyboardInterrupt:
        flag = " --simulated" if simulated else ""
        screen.say(f"\ninterrupted; {what}\n  ollamux status{flag} shows how far it is\n", fd=2)
        raise


def change(
    command: str,
    names: list[str] | None,
    *,
    every: bool,
    wait: bool,
    timeout: str,
    simulated: bool,
    quiet: bool,
    rolling: bool = False,
    if_unhealthy: bool = False,
    if_running: bool = False,
) -> int:
    """Carry out one command on the named instances; the exit code tells the worst of their outcomes."""
    timeout_s = seconds(timeout, "--timeout")
    if names and every:
        raise UsageError("names and --all exclude each other")
    every = every or (rolling and not names and not if_unhealthy)  # one at a time is no fleet restart by accident
    try:
        status, which = question({"cmd": "status"}, simulated=simulated)
    except NotRunningError:
        if if_running:
            return int(Exit.OK)
        raise
    request: dict[str, Any] = {
        "cmd": command,
        "names": names or [],
        "all": every,
        "wait": wait,
        "timeout": timeout_s,
        "rolling": rolling,
        "if_unhealthy": if_unhealthy,
        "if_running": if_running,
    }
    if not names and not every and not if_unhealthy:
        request["names"] = [_only_instance(command, status)]
    connection, _ = reach(which)
    with going_on(_GOES_ON_ROLLING if rolling else _GOES_ON, simulated=which):
        reply = ask(connection, request, timeout_s=None if rolling else timeout_s + GRACE_S)
    tell(reply["outcomes"], quiet=quiet)
    if not reply["outcomes"] and not quiet:
        screen.write(f"nothing to {command}\n")
    return int(reply["exit"])


def _only_instance(command: str, reply: dict[str, Any]) -> str:
    """Return the one instance there is; with several, a bare command would hit the whole fleet by accident."""
    names = [instance["name"] for instance in reply["status"]["instances"]]
    if len(names) != 1:
        there = ", ".join(names)
        raise UsageError(f"{command} which instance? There are {there}", hint=f"name them, or: ollamux {command} --all")
    return str(names[0])


def tell(outcomes: list[dict[str, Any]], *, quiet: bool) -> None:
    """Say what became of each instance; of those that did well only where it is wanted."""
    width = max((len(outcome["name"]) for outcome in outcomes), default=0)
    for outcome in outcomes:
        well = outcome["exit"] == Exit.OK
        if well and quiet:
            continue
        screen.say_beside(f"{outcome['name']:<{width}}  ", safe_text(outcome["words"]), fd=1 if well else 2)


def down(*, simulated: bool, now: bool, quiet: bool) -> int:
    """Stop all instances and the supervisor; return once it is gone."""
    _, which = question({"cmd": "status"}, simulated=simulated)
    connection, _ = reach(which)
    pid = peer_pid(connection)
    with going_on("the supervisor goes on stopping what it runs, and then itself", simulated=which):
        reply = ask(connection, {"cmd": "down", "hurry": now})
        _wait_for_end(pid, f"{state_dir(os.environ, simulated=which)}/lock")
    stuck = reply.get("stuck") or []
    if stuck:
        pids = ", ".join(map(str, stuck))
        screen.say(f"ollamux: pid {pids} could not be ended: it hangs in the kernel\n  a reboot ends it\n", fd=2)
    elif not quiet:
        stopped = len(reply.get("stopped") or [])
        screen.write(f"stopped {stopped} instance{'' if stopped == 1 else 's'} and the supervisor\n")
    return int(reply["exit"])


def _wait_for_end(pid: int | None, lock: str, patience_s: float = 10.0) -> None:
    """Return once the process is gone, so that the next command finds nothing of it.

    One that cannot be seen from here, as from inside a container, is gone when it has let go of its lock.
    """
    until = monotonic() + patience_s
    while pid is None and is_locked(lock) and monotonic() < until:
        select.select([], [], [], 0.02)
    try:
        handle = os.pidfd_open(pid or 0)
    except OSError:
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll(patience_s * 1000)
    os.close(handle)
