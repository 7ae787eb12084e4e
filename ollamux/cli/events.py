"""`ollamux events`: the record of what happened, read from its file, with or without a supervisor."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from ollamux.cli import screen
from ollamux.cli.target import simulation_meant
from ollamux.domain.errors import Exit, NotFoundError, UsageError
from ollamux.render.lines import event_line
from ollamux.supervisor.journal import FILE_NAME
from ollamux.system.logfile import Follower
from ollamux.system.places import state_dir

_POLL_S = 0.25


def events(names: list[str] | None, *, follow: bool, lines: int, output: str, simulated: bool) -> int:
    """Show the last events, and with `follow` those that come."""
    if output not in ("table", "json"):
        raise UsageError(f"-o: there is no form {output!r}", hint="there are: table, json")
    path = f"{state_dir(os.environ, simulated=simulation_meant(simulated))}/{FILE_NAME}"
    if not os.path.exists(path) and not follow:
        raise NotFoundError("nothing has been recorded yet", hint="ollamux up")
    follower = Follower(path)
    found = [event for event in _read(path + ".1") if _wanted(event, names)]
    found += [event for event in decoded(follower) if _wanted(event, names)]
    _show(found[-lines:] if lines else [], output)
    try:
        while follow:
            time.sleep(_POLL_S)
            _show([event for event in decoded(follower) if _wanted(event, names)], output)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return int(Exit.OK)


def _read(path: str) -> Iterator[dict[str, Any]]:
    return decoded(Follower(path)) if os.path.exists(path) else iter(())


def decoded(follower: Follower) -> Iterator[dict[str, Any]]:
    """Read the events that were recorded since the last look; half a line is left for the next."""
    rest = b""
    while data := follower.read():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line that a full disk cut short
            if isinstance(event, dict):
                yield event
    follower.at -= len(rest)


def _wanted(event: dict[str, Any], names: list[str] | None) -> bool:
    return not names or any(fnmatchcase(str(event.get("instance")), name) for name in names)


def _show(found: list[dict[str, Any]], output: str) -> None:
    env = os.environ
    width = max((len(str(event.get("instance") or "")) for event in found), default=0)
    for event in found:
        if output == "json":
            screen.write(json.dumps(event, ensure_ascii=False) + "\n")
        else:
            line = event_line(
                event, color=screen.color(env), width=None, unicode=screen.unicode(env), name_width=width, date=True
            )
            screen.write(line + "\n")
