"""The names of the instances: for completion in a shell, and to tell a misspelt one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ollamux.domain.errors import NotFoundError, OllamuxError
from ollamux.protocol.client import ask, connect


def known_names() -> list[str]:
    """Return the instances of the running supervisor, else those of the configuration. Quick, silent, never wrong much.

    It is for completion: whatever goes wrong there is no names.
    """
    try:
        return _running_names() or _configured_names()
    except OllamuxError:
        return []


def _running_names() -> list[str]:
    for simulated in (False, True):
        connection = connect(os.environ, simulated=simulated)
        if connection is not None:
            status = ask(connection, {"cmd": "status"}, timeout_s=2.0)["status"]
            return [instance["name"] for instance in status["instances"]]
    return []


def _configured_names() -> list[str]:
    from ollamux.cli.words import load

    return [spec.name for spec in load(None)[2].instances]


def require_known(names: Sequence[str] | None, known: Sequence[str], what: str) -> None:
    """Raise NotFoundError for the first name or glob that nothing known matches; `what` is "no log", say."""
    for name in names or ():
        if any(fnmatchcase(one, name) for one in known):
            continue
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        there = f"there are some of: {', '.join(known) or 'none'}"
        raise NotFoundError(f"there is {what} of {name!r}", hint=f'did you mean "{near[0]}"?' if near else there)
