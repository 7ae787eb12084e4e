"""What has to be looked at now and then: the control socket, the size of the logs, the configuration file."""

from __future__ import annotations

import os

from ollamux.domain.errors import OllamuxError
from ollamux.supervisor.core import Core
from ollamux.supervisor.server import Server
from ollamux.supervisor.view import Observer
from ollamux.system import logfile
from ollamux.system.clock import monotonic

INTERVAL_S = 10.0
_COMPLAIN_AGAIN_S = 60.0


class Upkeep:
    """Rare, cheap looks. Trouble with a disk is said at most once a minute and costs the instances nothing."""

    def __init__(self, core: Core, server: Server, observer: Observer, *, config: str | None, source: bytes) -> None:
        self._core = core
        self._server = server
        self._observer = observer
        self._config = config
        self.source = source
        """The very bytes of the configuration in force."""
        self._seen: tuple[int, int, int] | None = (-1, -1, -1)
        self._complained_at = -_COMPLAIN_AGAIN_S
        core.loop.call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        self._core.loop.call_later(INTERVAL_S, self._look)
        try:
            self._server.look_after()
        except OllamuxError as error:
            self._complain(error.message)
        self._rotate()
        self._compare_config()

    def _rotate(self) -> None:
        supervisor = self._core.fleet.supervisor
        for unit in self._core.units.values():
            if logfile.size(unit.log_path) <= supervisor.log_max_bytes:
                continue
            try:
                logfile.rotate(unit.log_path, keep=supervisor.log_keep)
                unit.log_start = 0
            except OSError as error:
                self._complain(f"the log {unit.log_path} cannot be rotated: {error.strerror}")

    def replace_source(self, source: bytes) -> None:
        """Compare with other bytes from now on: they are in force."""
        self.source = source
        self._seen = (-1, -1, -1)
        self._compare_config()

    def _compare_config(self) -> None:
        stamp = _stamp(self._config)
        if stamp == self._seen or self._config is None:
            return
        self._seen = stamp
        try:
            with open(self._config, "rb") as file:
                self._observer.config_changed = file.read(len(self.source) + 1) != self.source
        except OSError:
            self._observer.config_changed = True

    def _complain(self, reason: str) -> None:
        if monotonic() - self._complained_at >= _COMPLAIN_AGAIN_S:
            self._complained_at = monotonic()
            self._core.note(None, reason)


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
