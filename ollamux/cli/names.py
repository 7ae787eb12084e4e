"""The names of the instances, for completion in a shell: quick, silent, and never wrong enough to matter."""

from __future__ import annotations

import os

from ollamux.domain.errors import OllamuxError
from ollamux.protocol.client import ask, connect


def known_names() -> list[str]:
    """Return the instances of the running supervisor, else those of the configuration."""
    for simulated in (False, True):
        connection = connect(os.environ, simulated=simulated)
        if connection is not None:
            try:
                status = ask(connection, {"cmd": "status"}, timeout_s=2.0)["status"]
            except OllamuxError:
                continue
            return [instance["name"] for instance in status["instances"]]
    from ollamux.cli.words import load

    try:
        return [spec.name for spec in load(None)[2].instances]
    except OllamuxError:
        return []
