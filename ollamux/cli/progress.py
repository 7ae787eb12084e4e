"""Wait until the instances have settled, showing how far they are, and say at the end what became of each."""

from __future__ import annotations

import os
import time
from typing import Any

from ollamux.cli import screen
from ollamux.cli.block import Block
from ollamux.cli.target import reach
from ollamux.domain.errors import Exit, NotRunningError
from ollamux.domain.snapshot import from_json
from ollamux.domain.text import format_duration, safe_text
from ollamux.protocol.client import ask
from ollamux.render.lines import progress_block
from ollamux.system.places import log_dir

REDRAW_S = 0.15


def wait_until_ready(*, simulated: bool, timeout_s: float, quiet: bool) -> int:
    """Return once every wanted instance is ready, or cannot get ready by itself soon."""
    began = time.monotonic()
    block = Block(quiet=quiet)
    reply: dict[str, Any] | None = None
    try:
        while reply is None:
            left = timeout_s - (time.monotonic() - began)
            reply = _wait_a_moment(simulated, max(left, 0.0), REDRAW_S if block.live and left > REDRAW_S else left)
            _draw(block, simulated, time.monotonic() - began)
    except NotRunningError:
        log = f"{log_dir(os.environ, simulated=simulated)}/supervisor.log"
        raise NotRunningError(
            "the supervisor ended before its instances were ready", hint=f"ollamux events says more, or {log}"
        ) from None
    block.clear()
    _tell(reply, simulated=simulated, seconds=time.monotonic() - began, quiet=quiet)
    return int(reply["exit"])


def _wait_a_moment(simulated: bool, left: float, moment: float) -> dict[str, Any] | None:
    """Return the outcome, or None where a moment passed and there is time left."""
    connection, _ = reach(simulated)
    reply = ask(connection, {"cmd": "wait", "timeout": max(moment, 0.05)})
    pending = [outcome for outcome in reply["outcomes"] if outcome["exit"] == Exit.TIMEOUT]
    return None if pending and left > moment else reply


def _draw(block: Block, simulated: bool, elapsed_s: float) -> None:
    if not block.live:
        return
    try:
        connection, _ = reach(simulated)
        status = from_json(ask(connection, {"cmd": "status"}, timeout_s=5.0)["status"])
    except NotRunningError:
        return
    env = os.environ
    lines = progress_block(
        status,
        width=screen.width(env),
        color=screen.color(env),
        unicode=screen.unicode(env),
        elapsed_s=elapsed_s,
        spinner=block.frame,
    )
    block.draw(lines)


def _tell(reply: dict[str, Any], *, simulated: bool, seconds: float, quiet: bool) -> None:
    outcomes = reply["outcomes"]
    width = max((len(outcome["name"]) for outcome in outcomes), default=0)
    for outcome in outcomes:
        well = outcome["exit"] == Exit.OK
        if not (well and quiet):
            screen.say(f"{outcome['name']:<{width}}  {safe_text(outcome['words'])}\n", fd=1 if well else 2)
    if quiet:
        return
    ready = sum(outcome["exit"] == Exit.OK for outcome in outcomes)
    what = "SIMULATED: " if simulated else ""
    flag = " --simulated" if simulated else ""
    noun = "instance" if len(outcomes) == 1 else "instances"
    after = f"{what}{ready} of {len(outcomes)} {noun} READY after {format_duration(seconds)}"
    screen.say(f"{after}.  ollamux status{flag}  shows them\n")
