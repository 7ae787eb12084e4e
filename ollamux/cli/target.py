"""Which supervisor a command means: the real one, or the simulation beside it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ollamux.domain.errors import NotRunningError, OllamuxError
from ollamux.protocol.client import connect
from ollamux.system.places import state_dir

if TYPE_CHECKING:
    import _socket


def reach(simulated: bool) -> tuple[_socket.socket, bool]:
    """Return a connection and whether it is to a simulation. Raises NotRunningError.

    Without `--simulated` a simulation is meant only where there is neither a configuration nor state of the real thing.
    """
    env = os.environ
    connection = connect(env, simulated=simulated)
    if connection is not None:
        return connection, simulated
    if simulated:
        raise NotRunningError("no simulation is running", hint="ollamux up --simulate 4 -d")
    other = connect(env, simulated=True)
    if other is not None and not _real_traces():
        return other, True
    if other is not None:
        other.close()
        raise NotRunningError("no supervisor is running", hint="a simulation is: add --simulated to the command")
    raise NotRunningError("no supervisor is running", hint="ollamux up -d")


def simulation_meant(simulated: bool) -> bool:
    """Say whether the files of the simulation are meant, by the same rule."""
    if simulated:
        return True
    return os.path.isdir(state_dir(os.environ, simulated=True)) and not _real_traces()


def _real_traces() -> bool:
    """Whether there is anything of a real set-up: a configuration that would be found, or state of a supervisor."""
    from pathlib import Path

    from ollamux.config.find import find_config

    if os.path.exists(f"{state_dir(os.environ, simulated=False)}/state.json"):
        return True
    try:
        return find_config(None, os.environ, Path.cwd()).path is not None
    except OllamuxError:
        return True
