"""Which supervisor a command means: the real one, or the simulation beside it; and asking it something."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

from ollamux.domain.errors import NotRunningError, OllamuxError, TimedOutError
from ollamux.domain.text import safe_text
from ollamux.protocol.client import ask, connect
from ollamux.system.clock import monotonic
from ollamux.system.places import state_dir

if TYPE_CHECKING:
    import _socket

NOBODY = "no supervisor is running"
ADD_SIMULATED = "add --simulated to the command"
ANSWER_WITHIN_S = 5.0
"""For what a supervisor answers from memory."""
BETWEEN_S = 1.5
"""A supervisor that begins has its lock before it listens, and one that ends keeps it until the very last."""


def reach(simulated: bool) -> tuple[_socket.socket, bool]:
    """Return a connection and whether it is to a simulation. Raises NotRunningError.

    Without `--simulated` a simulation is meant only where there is neither a configuration nor state of the real thing.
    """
    env = os.environ
    connection = connect(env, simulated=simulated) or _without_socket(simulated)
    if connection is not None:
        return connection, simulated
    if simulated:
        raise NotRunningError("no simulation is running", hint="ollamux up --simulate 4 -d starts one")
    other = connect(env, simulated=True)
    if other is not None and not _real_traces():
        return other, True
    if other is not None:
        other.close()
    raise _nobody(beside=other is not None)


def _nobody(*, beside: bool) -> NotRunningError:
    """Return the error for a supervisor that is not there, with what is there in its place."""
    left = _left_behind()
    if left:
        return NotRunningError(
            f"{NOBODY}, but what an earlier one started goes on: {', '.join(left)}",
            hint="ollamux up -d takes it over; after that ollamux down ends it",
        )
    return NotRunningError(NOBODY, hint=f"a simulation is: {ADD_SIMULATED}" if beside else "ollamux up -d starts it")


def _left_behind() -> list[str]:
    """Name the instances of which a supervisor that was killed left something, each with the first process of it."""
    from ollamux.supervisor import family
    from ollamux.supervisor.folder import identity_in

    folder = state_dir(os.environ, simulated=False)
    identity = identity_in(folder)
    if not identity:
        return []
    marks = family.marked(f"{folder} {identity}")
    first = {mark.instance: pid for pid, mark in sorted(marks.items(), reverse=True)}
    return [f"{safe_text(name)} (pid {pid})" for name, pid in sorted(first.items())]


def _without_socket(simulated: bool) -> _socket.socket | None:
    """Return a connection to a supervisor that is about to listen; None where there is none, or it has just ended.

    Raises TimedOutError where one runs and listens nowhere: somebody has removed its socket.
    """
    from ollamux.system.files import Lock, is_locked

    lock = f"{state_dir(os.environ, simulated=simulated)}/lock"
    until = monotonic() + BETWEEN_S
    while is_locked(lock):
        connection = connect(os.environ, simulated=simulated)
        if connection is not None:
            return connection
        if monotonic() > until:
            pid = Lock(lock).holder()
            raise TimedOutError(
                f"a supervisor runs{'' if pid is None else f' (pid {pid})'}, but its control socket is gone",
                hint="it looks after it every ten seconds and then listens again: ask once more in a moment",
            )
        select.select([], [], [], 0.02)
    return None


def question(request: dict[str, Any], *, simulated: bool) -> tuple[dict[str, Any], bool]:
    """Ask for what a supervisor knows; return its answer and whether it is a simulation.

    Raises NotRunningError, TimedOutError where it is there but silent, and what it reports itself.
    """
    connection, which = reach(simulated)
    try:
        return ask(connection, request, timeout_s=ANSWER_WITHIN_S), which
    except TimedOutError:
        raise silent(which) from None


def silent(simulated: bool) -> TimedOutError:
    """Return the error for a supervisor that does not answer, with what wakes it or ends it."""
    from ollamux.cli.hung import holder

    proven = holder(simulated)  # the number alone may mean another process here, as seen from outside a container
    if proven is None:
        return TimedOutError("the supervisor does not answer", hint="its instances may serve on; look for its process")
    pid = proven.pid
    if _is_stopped(pid):
        return TimedOutError(
            f"the supervisor (pid {pid}) does not answer: its process is stopped, as by Ctrl-Z",
            hint=f"kill -CONT {pid} lets it go on; its instances serve meanwhile",
        )
    return TimedOutError(
        f"the supervisor (pid {pid}) does not answer",
        hint=f"is the machine overloaded? else: kill -KILL {pid}, then ollamux up, which finds its instances again",
    )


def _is_stopped(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def simulation_meant(simulated: bool) -> bool:
    """Say whether the files of the simulation are meant, by the same rule."""
    if simulated:
        return True
    return os.path.isdir(state_dir(os.environ, simulated=True)) and not _real_traces()


def way_to_records(simulated: bool) -> str:
    """Say how logs and events come to be, where there are none; and where some others are."""
    if simulated:
        return "ollamux up --simulate 4 -d starts a simulation"
    if os.path.isdir(state_dir(os.environ, simulated=True)):
        return "of a simulation there are some: add --simulated"
    return "ollamux up -d starts the instances"


def _real_traces() -> bool:
    """Whether there is anything of a real set-up: a configuration that would be found, or state of a supervisor."""

    from ollamux.config.find import find_config, here

    if os.path.exists(f"{state_dir(os.environ, simulated=False)}/state.json"):
        return True
    try:
        return find_config(None, os.environ, here()).path is not None
    except OllamuxError:
        return True
