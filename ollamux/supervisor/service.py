"""Tell the service manager how the supervisor is: up, reloading, on its way down, and alive. Decides nothing.

"Ready" means that the supervisor listens and has asked for the first starts, not that a model answers: a boot does
not wait for gigabytes. The signs of life come from the one loop that does the work, so a loop that hangs gives none.
"""

from __future__ import annotations

import os
import time

from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.supervisor.core import Core
from ollamux.supervisor.unit import Unit
from ollamux.system.notify_socket import ManagerEnv, notify

_MOST_NAMES = 8
_TROUBLE = (Phase.FAILED, Phase.STUCK)


class ServiceManager:
    """The one that started us, if there is one; everything is said to nobody otherwise."""

    def __init__(self, core: Core, env: ManagerEnv) -> None:
        self._core = core
        self._address = env.address
        self._tick_s = env.watchdog_s / 2 if env.watchdog_s is not None else None
        self._told: str | None = None
        self._watched = False

    def ready(self) -> None:
        """Say that the supervisor is up, at first and after each reload."""
        if self._address is None:
            return
        self._told = summary(self._core)
        notify(self._address, "READY=1", f"MAINPID={os.getpid()}", f"STATUS={self._told}")
        if not self._watched:
            self._watched = True
            self._core.changed.append(self._on_change)
            self._tick()

    def reloading(self) -> None:
        """Say that a new configuration is being applied; `ready` ends it."""
        if self._address is not None:
            now_usec = time.monotonic_ns() // 1000
            self._told = None
            notify(self._address, "RELOADING=1", f"MONOTONIC_USEC={now_usec}", "STATUS=applies the configuration")

    def stopping(self, longest_s: float) -> None:
        """Say that the end has begun, and how long it may take at most, whatever the unit allows."""
        if self._address is not None:
            notify(
                self._address,
                "STOPPING=1",
                f"EXTEND_TIMEOUT_USEC={round(longest_s * 1e6)}",
                "STATUS=stops all instances",
            )

    def _on_change(self, unit: Unit, before: Instance) -> None:
        if unit.state.phase is before.phase or self._address is None or self._core.shutting_down:
            return
        text = summary(self._core)
        if text != self._told:
            self._told = text
            notify(self._address, f"STATUS={text}")

    def _tick(self) -> None:
        if self._tick_s is not None and self._address is not None:
            self._core.loop.call_later(self._tick_s, self._tick)
            notify(self._address, "WATCHDOG=1")


def summary(core: Core) -> str:
    """Return how many instances are READY of those that are to run, and which have failed."""
    units = [unit for unit in core.units.values() if unit.spec.enabled]
    up = sum(unit.state.phase is Phase.READY for unit in units)
    text = f"{up} of {len(units)} instance{'' if len(units) == 1 else 's'} READY"
    for phase in _TROUBLE:
        names = [unit.name for unit in units if unit.state.phase is phase]
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            text += f"; {', '.join(names[:_MOST_NAMES])}{more} {phase.value}"
    return text
