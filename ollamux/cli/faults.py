"""`ollamux sim`: make faults happen on a simulation."""

from __future__ import annotations

from ollamux.cli import screen
from ollamux.cli.target import question
from ollamux.domain.errors import Exit, NotRunningError


def sim(fault: str | None, target: str | None, *, simulated: bool) -> int:
    """Make a fault happen, clear the faults, or list those that there are and those that are active.

    The simulation is meant where one runs, whatever else there is: on a real supervisor faults are refused.
    """
    clear = fault == "clear"
    request = {"cmd": "sim", "fault": None if clear else fault, "target": target, "clear": clear}
    try:
        reply, _ = question(request, simulated=True)
    except NotRunningError:
        if simulated:
            raise
        reply, _ = question(request, simulated=False)
    listed = _known() if fault is None else ""
    screen.say(f"{listed}{reply['words']}\n")
    return int(Exit.OK)


def _known() -> str:
    from ollamux.simulation.faults import FAULTS

    width = max(map(len, FAULTS))
    lines = [f"{fault.name:<{width}}  {fault.description}\n" for fault in FAULTS.values()]
    return "".join(lines) + f"{'clear':<{width}}  end them all, or those of one instance or card\n\n"
