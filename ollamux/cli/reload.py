"""`reload`: judge the changed configuration here, then have the supervisor put it in force."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from ollamux.cli import screen
from ollamux.cli.lifecycle import GRACE_S, going_on, tell
from ollamux.cli.target import question, reach
from ollamux.cli.words import seconds
from ollamux.config.cache import cache_path, load_fleet
from ollamux.config.source import read_source
from ollamux.domain.errors import Exit
from ollamux.domain.text import safe_text
from ollamux.protocol.client import ask
from ollamux.system.places import state_dir


def reload(*, dry_run: bool, wait: bool, timeout: str, simulated: bool, quiet: bool) -> int:
    """Apply what has changed in the file the supervisor runs from. An invalid file changes nothing."""
    timeout_s = seconds(timeout, "--timeout")
    status, which = question({"cmd": "status"}, simulated=simulated)
    path = Path(status["status"]["supervisor"]["config"])
    state = Path(state_dir(os.environ, simulated=which))
    source = _rehearsed(state, path, dry_run=dry_run) if which else read_source(path)
    load_fleet(source, str(path), cache_path(str(state)), for_supervisor=True)
    request: dict[str, Any] = {"cmd": "reload", "digest": hashlib.sha256(source).hexdigest()}
    plan, _ = question({**request, "dry_run": True}, simulated=which)
    if not quiet:
        _show(plan, dry_run=dry_run)
    if dry_run:
        return int(Exit.OK)
    connection, _ = reach(which)
    request |= {"wait": wait, "timeout": timeout_s}
    with going_on("the change goes on by itself", simulated=which):
        reply = ask(connection, request, timeout_s=timeout_s + GRACE_S)
    tell(reply["outcomes"], quiet=quiet)
    return int(reply["exit"])


def _rehearsed(state: Path, path: Path, *, dry_run: bool) -> bytes:
    """Return the configuration of a simulation, made anew where it rehearses a file of the user's."""
    from ollamux.simulation.prepare import prepare_again
    from ollamux.system.files import write_atomic

    source = prepare_again(state)
    if source is None:
        return read_source(path)
    if not dry_run:
        write_atomic(str(path), source)
    return source


def _show(plan: dict[str, Any], *, dry_run: bool) -> None:
    rows = plan["plan"]
    if not rows:
        screen.write("no changes\n")
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        screen.say_beside(f"{row['name']:<{width}}  {row['action']:<8}  ", safe_text(row["words"]))
    count = plan["unchanged"]
    if count:
        screen.say(f"{count} instance{'' if count == 1 else 's'} unchanged\n")
    if dry_run:
        screen.say("nothing was done: this is what ollamux reload would do\n")
