"""Wait until the instances have settled, showing how far they are, and say at the end what became of each."""

from __future__ import annotations

import os
import time
from typing import Any

from ollamux.cli import screen
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
    block = _Block(live=screen.is_drawable(os.environ) and not quiet)
    reply: dict[str, Any] | None = None
    try:
        while reply is None:
            left = timeout_s - (time.monotonic() - began)
            reply = _wait_a_moment(simulated, max(left, 0.0), REDRAW_S if block.live and left > REDRAW_S else left)
            block.draw(simulated, time.monotonic() - began)
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


class _Block:
    """Lines on a terminal that are drawn over again."""

    def __init__(self, *, live: bool) -> None:
        self.live = live
        self._height = 0
        self._count = 0

    def draw(self, simulated: bool, elapsed_s: float) -> None:
        if not self.live:
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
            spinner=self._count,
        )
        self._count += 1
        self.clear()
        screen.write("".join(line + "\n" for line in lines))
        self._height = len(lines)

    def clear(self) -> None:
        if self._height:
            screen.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0


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
