"""Which programs a configuration needs, and whether they are there. Starts nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ollamux.domain.errors import Exit, OllamuxError, TimedOutError
from ollamux.domain.spec import FleetSpec, OnDeath
from ollamux.domain.text import safe_text
from ollamux.ollama.binary import find_ollama
from ollamux.system.patience import patiently

SILENT = "does not answer; is it on a file system over the network?"
_found: dict[str, str] = {}
"""Where each program was last."""


def check_programs(fleet: FleetSpec, env: Mapping[str, str]) -> dict[str, str]:
    """Return the program of every enabled instance, or refuse to start anything without one of them."""
    found: dict[str, str] = {}
    for spec in fleet.instances:
        if spec.enabled and spec.ollama not in found:
            try:
                found[spec.ollama] = find_program(spec.ollama, env)
            except OllamuxError as error:
                message = f"instance {spec.name}: {error.message}"
                code = Exit.TIMEOUT if isinstance(error, TimedOutError) else Exit.NOT_FOUND
                raise OllamuxError(message, hint=error.hint, exit_code=code) from None
    launcher_for(fleet.supervisor.on_death, env)
    return found


def find_program(name: str, env: Mapping[str, str]) -> str:
    """Return the path of a program. Raises OllamuxError; TimedOutError where whatever it lies on does not answer."""
    folders = () if os.path.isabs(name) else tuple(filter(None, env.get("PATH", "").split(os.pathsep)))
    at = (*folders, _found[name]) if name in _found else ()
    try:
        _found[name] = patiently(f"the program {name}", lambda: find_ollama(name, env), at=at)
    except TimeoutError:
        raise TimedOutError(f"the program {safe_text(name)} {SILENT}") from None
    return _found[name]


def launcher_for(on_death: OnDeath, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return what stands before `ollama serve` so that it ends with the supervisor, where that is wanted.

    Raises NotFoundError where setpriv(1), of util-linux, is missing.
    """
    if on_death is OnDeath.KEEP:
        return ()
    # SIGTERM, not SIGKILL: only then does the server take its runners with it.
    return (find_ollama("setpriv", env), "--pdeathsig", "TERM", "--")
