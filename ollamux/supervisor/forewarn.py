"""What a person is told before a fleet is started: what its configuration risks, and what this machine does."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ollamux.config.warn import start_warnings
from ollamux.domain.errors import OllamuxError
from ollamux.domain.spec import FleetSpec
from ollamux.domain.text import safe_text
from ollamux.ollama.binary import find_ollama
from ollamux.system.files import replaceable_by


def forewarnings(fleet: FleetSpec, env: Mapping[str, str], *, simulated: bool) -> tuple[str, ...]:
    """Return what to tell, one sentence each. A simulation runs nothing but our own program."""
    told = start_warnings(fleet, root=os.geteuid() == 0 and not simulated)
    return told if simulated else (*told, *program_warnings(fleet, env))


def program_warnings(fleet: FleetSpec, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return which programs somebody else could replace; an ollama that is missing is told as an error elsewhere."""
    told = []
    notify = fleet.supervisor.notify[:1]
    if notify and not (os.path.isfile(notify[0]) and os.access(notify[0], os.X_OK)):
        told.append(f"notify: {safe_text(notify[0])} is no program that this user may run, so nobody would be told")
    for name in dict.fromkeys(spec.ollama for spec in fleet.instances if spec.enabled):
        try:
            program = find_ollama(name, env)
        except OllamuxError:
            continue
        found = replaceable_by(program)
        if found is not None:
            place, who = found
            told.append(
                f"{safe_text(program)} runs as this user, but {who} could replace it: look at ls -ld {safe_text(place)}"
            )
    return tuple(told)
