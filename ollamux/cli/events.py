"""`ollamux events`: the record of what happened, read from its file, with or without a supervisor."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from ollamux.cli import screen
from ollamux.cli.names import require_known
from ollamux.cli.target import simulation_meant, way_to_records
from ollamux.domain.errors import Exit, NotFoundError, UsageError
from ollamux.render.lines import event_line
from ollamux.supervisor.journal import FILE_NAME
from ollamux.system.follow import Follower
from ollamux.system.places import state_dir

_POLL_S = 0.25
_TRIES = 5


def events(names: list[str] | None, *, follow: bool, lines: int, output: str, simulated: bool) -> int:
    """Show the last events, and with `follow` those that come."""
    if output not in ("table", "json"):
        raise UsageError(f"-o: there is no form {output!r}", hint="there are: table, json")
    path = f"{state_dir(os.environ, simulated=simulation_meant(simulated))}/{FILE_NAME}"
    if not os.path.exists(path) and not follow:
        raise NotFoundError("nothing has been recorded yet", hint=way_to_records(simulated))
    found, follower = recorded(path)
    seen = {str(event["instance"]) for event in found if event.get("instance") is not None}
    if seen:
        require_known(names, sorted(seen), "no event")
    wanted = [event for event in found if _wanted(event, names)]
    width = max(map(len, seen), default=0)
    try:
        _show(wanted[-lines:] if lines else [], output, width)
        while follow and screen.is_read():
            time.sleep(_POLL_S)
            _show([event for event in decoded(follower) if _wanted(event, names)], output, width)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return int(Exit.OK)


def recorded(path: str) -> tuple[list[dict[str, Any]], Follower]:
    """Return everything that is recorded, and what follows it. A record that is rotated meanwhile is read again."""
    found: list[dict[str, Any]] = []
    follower = Follower(path)
    for _ in range(_TRIES):
        follower = Follower(path)
        follower.begin()
        found = [*decoded(Follower(path + ".1")), *decoded(follower)]
        if follower.stays():
            break
    return found, follower


def decoded(follower: Follower) -> Iterator[dict[str, Any]]:
    """Read the events that were recorded since the last look; half a line is left for the next."""
    while lines := follower.lines():
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line that a full disk cut short
            if isinstance(event, dict):
                yield event


def _wanted(event: dict[str, Any], names: list[str] | None) -> bool:
    return not names or any(fnmatchcase(str(event.get("instance")), name) for name in names)


def _show(found: list[dict[str, Any]], output: str, width: int) -> None:
    env = os.environ
    color, unicode = screen.color(env), screen.unicode(env)
    for event in found:
        if output == "json":
            screen.write(json.dumps(event, ensure_ascii=False) + "\n")
        else:
            line = event_line(event, color=color, width=None, unicode=unicode, name_width=width, date=True)
            screen.write(line + "\n")
