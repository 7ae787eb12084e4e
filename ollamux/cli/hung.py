"""Is the supervisor that holds the lock alive, or does it hang? One that hangs is ended, so that another can adopt.

Ending a supervisor costs no instance anything, but it must never be one that is only busy: it is hung when it has
reacted to nothing for a long while, though the machine let it run, and everything about it was the same all the time.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import NamedTuple

from ollamux.cli import screen
from ollamux.domain.errors import OllamuxError, TimedOutError
from ollamux.domain.text import format_duration
from ollamux.protocol.client import PROTOCOL
from ollamux.supervisor.journal import Journal
from ollamux.system import procs
from ollamux.system.files import Lock
from ollamux.system.places import socket_paths, state_dir

HUNG_AFTER_S = 25.0
FIRST_PATIENCE_S = 1.0
ASK_AGAIN_S = 5.0
LOOK_S = 0.1
END_WITHIN_S = 10.0
STARVED_S = 1.0
"""A process that always wants to run and got less than this of the processor was not let run: no proof of anything."""
_REQUEST = b'{"v":%d,"cmd":"status"}\n' % PROTOCOL


class Identity(NamedTuple):
    """Which process it is, for certain: a number may be given to another, but not with the same start."""

    pid: int
    start_ticks: int


def holder(simulated: bool) -> Identity | None:
    """Return the process that holds the supervisor's lock, proven through the kernel's own list; None where none is."""
    path = f"{state_dir(os.environ, simulated=simulated)}/lock"
    pid = Lock(path).holder()
    seen = None if pid is None else procs.stat(pid)
    if pid is None or seen is None or not procs.holds_lock(pid, path):
        return None
    return Identity(pid, seen.start_ticks)


def reacts(simulated: bool, who: Identity | None, *, patience_s: float) -> bool:
    """Whether the supervisor reacts to a connection within the time, or is gone, or is another one by then.

    Several are tried, and the first is kept to the end: an answer that comes late is an answer. One that listens
    nowhere cannot be asked, which says nothing about how it is.
    """
    tries, listens = 0, False
    asked: list[socket.socket] = []
    poll = select.poll()
    began = time.monotonic()
    try:
        while (waited := time.monotonic() - began) < patience_s:
            if waited >= tries * ASK_AGAIN_S:
                tries += 1
                listens = _ask(simulated, asked) or listens
                for connection in asked[-1:]:
                    poll.register(connection.fileno(), select.POLLIN)
            if poll.poll(LOOK_S * 1000):
                return True  # an answer, or a refusal: both need somebody who is awake
            if holder(simulated) != who:
                return True
        return not listens
    finally:
        for connection in asked:
            connection.close()


def _ask(simulated: bool, asked: list[socket.socket]) -> bool:
    """Send one question and keep the connection; False where nobody listens."""
    for path in socket_paths(os.environ, simulated=simulated):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(path)
            connection.send(_REQUEST)
        except BlockingIOError:
            connection.close()
            return True  # it listens, and so many wait to be let in that there is no room for one more
        except OSError:
            connection.close()
            continue
        asked.append(connection)
        return True
    return False


def end_if_hung(simulated: bool) -> None:
    """End the supervisor if it hangs, and tell and record it; otherwise do nothing.

    Raises TimedOutError where it does not answer, and may or can not be ended.
    """
    who = holder(simulated)
    if reacts(simulated, who, patience_s=FIRST_PATIENCE_S):
        return
    guard = Lock(f"{state_dir(os.environ, simulated=simulated)}/replacing")
    if not guard.take():
        return  # somebody else is at it, and will tell what came of it
    try:
        _end_if_hung(simulated, who)
    finally:
        guard.release()


def _end_if_hung(simulated: bool, who: Identity | None) -> None:
    before = None if who is None else procs.stat(who.pid)
    if reacts(simulated, who, patience_s=HUNG_AFTER_S):
        return
    waited = format_duration(HUNG_AFTER_S)
    if who is None or before is None:
        raise TimedOutError(
            f"a supervisor has not answered for {waited}, and which process it is cannot be told from here",
            hint="does it run in a container, or is the lock in its folder of state held by something else?",
        )
    handle = os.pidfd_open(who.pid)
    try:
        after = procs.stat(who.pid)
        if holder(simulated) != who or after is None:  # looked at with the handle open: it cannot mean another one
            return
        what = _what_it_does(before, after)
        if what is None:
            raise TimedOutError(
                f"the supervisor (pid {who.pid}) did not answer for {waited}, but others hold it up; it was left alone",
                hint="is the machine overloaded, or a debugger attached? ollamux status shows when it answers again",
            )
        _end(handle, who)
    except ProcessLookupError:
        return  # it has ended by itself
    finally:
        os.close(handle)
    told = f"the supervisor (pid {who.pid}) did not answer for {waited} ({what}) and was ended"
    Journal(state_dir(os.environ, simulated=simulated)).add(None, old=None, new=None, reason=told)
    screen.say(f"ollamux: {told}; a new one takes its instances over\n", fd=2)


def _what_it_does(before: procs.Stat, after: procs.Stat) -> str | None:
    """Say in what way it hangs, or None where others hold it up."""
    used_s = (after.cpu_ticks - before.cpu_ticks) / procs.CLOCK_TICKS
    if after.state == "t":
        return None  # traced: a person is looking at it
    if after.state == "R" and used_s < STARVED_S:
        return None
    if after.state == "T":
        return "it is stopped, as by Ctrl-Z"
    return {"R": "it computes without end", "D": "it hangs in the kernel"}.get(after.state, "it waits for something")


def _end(handle: int, who: Identity) -> None:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except PermissionError:
        raise OllamuxError(f"the supervisor (pid {who.pid}) hangs, and is not ours to end") from None
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    if not poll.poll(END_WITHIN_S * 1000):
        raise TimedOutError(
            f"the supervisor (pid {who.pid}) hangs in the kernel and cannot be ended",
            hint="its instances may serve on; only what it waits for, or a reboot, ends it",
        )
