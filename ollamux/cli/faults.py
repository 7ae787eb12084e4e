"""`ollamux sim`: make faults happen on a simulation."""

from __future__ import annotations

from ollamux.cli import screen
from ollamux.cli.target import reach
from ollamux.domain.errors import Exit, NotRunningError
from ollamux.protocol.client import ask


def sim(fault: str | None, target: str | None, *, simulated: bool) -> int:
    """Make a fault happen, clear the faults, or list those that are active.

    The simulation is meant where one runs, whatever else there is: on a real supervisor faults are refused.
    """
    try:
        connection, _ = reach(True)
    except NotRunningError:
        if simulated:
            raise
        connection, _ = reach(False)
    clear = fault == "clear"
    reply = ask(connection, {"cmd": "sim", "fault": None if clear else fault, "target": target, "clear": clear})
    screen.write(str(reply["words"]) + "\n")
    return int(Exit.OK)
