"""Run the user's command when an instance fails, degrades or recovers. Rate-limited, and never waited for."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.schemas import EVENT_SCHEMA
from ollamux.supervisor.core import Core
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.view import reason_of
from ollamux.system.clock import monotonic, rfc3339, wall

SPACING_S = 10.0
"""At most one call per instance in this time; of several changes the last is told."""


class Notifier:
    """Tells the outside world. What it tells is compared with what it told last, so that nothing is told twice."""

    def __init__(self, core: Core, argv: Sequence[str], *, env: Mapping[str, str]) -> None:
        self._core = core
        self.argv = list(argv)
        """What is run; nothing where it is empty."""
        self._env = dict(env)
        self.told: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._planned: set[str] = set()
        core.changed.append(self._on_change)

    def _on_change(self, unit: Unit, before: Instance) -> None:
        state = condition(unit) if self.argv else None
        if state is None or state == self.told.get(unit.name, "READY") or unit.name in self._planned:
            return
        wait = self._last.get(unit.name, -SPACING_S) + SPACING_S - monotonic()
        if wait <= 0:
            self._tell(unit)
        else:
            self._planned.add(unit.name)
            self._core.loop.call_later(wait, lambda: self._later(unit))

    def look(self, unit: Unit) -> None:
        """Look at an instance whose health changed without a change of phase."""
        self._on_change(unit, unit.state)

    def _later(self, unit: Unit) -> None:
        self._planned.discard(unit.name)
        state = condition(unit) if self.argv else None
        if state is not None and state != self.told.get(unit.name, "READY"):
            self._tell(unit)

    def _tell(self, unit: Unit) -> None:
        state = condition(unit)
        if state is None:
            return
        event: dict[str, Any] = {
            "schema": EVENT_SCHEMA,
            "time": rfc3339(wall()),
            "instance": unit.name,
            "from": self.told.get(unit.name, "READY"),
            "to": state,
            "reason": reason_of(unit),
        }
        self.told[unit.name] = state
        self._last[unit.name] = monotonic()
        self._run(unit, json.dumps(event, ensure_ascii=False).encode() + b"\n")

    def _run(self, unit: Unit, data: bytes) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.write(write, data)  # far less than a pipe holds, so it cannot block
            os.set_blocking(read, True)
            null = "/dev/null"
            os.posix_spawn(
                self.argv[0],
                self.argv,
                self._env,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, read, 0),
                    (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGCHLD),
            )  # collected with the orphans that fall to us
        except OSError as error:
            self._core.note(unit, f"notify: {self.argv[0]} could not be started: {error.strerror}")
        finally:
            os.close(read)
            os.close(write)


def condition(unit: Unit) -> str | None:
    """Return "READY", "DEGRADED" or "FAILED", or None while it is neither."""
    if unit.state.phase is Phase.READY:
        return "DEGRADED" if unit.degraded else "READY"
    if unit.state.phase in (Phase.FAILED, Phase.STUCK):
        return "FAILED"
    return None
