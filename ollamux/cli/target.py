"""Which supervisor a command means: the real one, or the simulation beside it; and asking it something."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ollamux.domain.errors import NotRunningError, OllamuxError, TimedOutError
from ollamux.protocol.client import ask, connect
from ollamux.system.places import state_dir

if TYPE_CHECKING:
    import _socket

ANSWER_WITHIN_S = 5.0
"""For what a supervisor answers from memory."""


def reach(simulated: bool) -> tuple[_socket.socket, bool]:
    """Return a connection and whether it is to a simulation. Raises NotRunningError.

    Without `--simulated` a simulation is meant only where there is neither a configuration nor state of the real thing.
    """
    env = os.environ
    connection = connect(env, simulated=simulated)
    if connection is not None:
        return connection, simulated
    if simulated:
        raise NotRunningError("no simulation is running", hint="ollamux up --simulate 4 -d starts one")
    other = connect(env, simulated=True)
    if other is not None and not _real_traces():
        return other, True
    if other is not None:
        other.close()
        raise NotRunningError("no supervisor is running", hint="a simulation is: add --simulated to the command")
    raise NotRunningError("no supervisor is running", hint="ollamux up -d starts it")


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
    from ollamux.system.files import Lock

    pid = Lock(f"{state_dir(os.environ, simulated=simulated)}/lock").holder()
    if pid is None:
        return TimedOutError("the supervisor does not answer", hint="its instances may serve on; look for its process")
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
