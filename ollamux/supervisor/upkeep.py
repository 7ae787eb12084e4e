"""What has to be looked at now and then: the control socket, the state file, the size of logs, the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from ollamux.domain.errors import OllamuxError, RefusedError
from ollamux.supervisor import family
from ollamux.supervisor.core import Core
from ollamux.supervisor.recovery import Memory
from ollamux.supervisor.server import Server
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.view import Observer
from ollamux.system import logfile
from ollamux.system.clock import monotonic
from ollamux.system.files import open_plain
from ollamux.system.patience import patiently

INTERVAL_S = 10.0
HURRY_S = 1.0
"""A log that grows fast is looked at again after this time."""
_COMPLAIN_AGAIN_S = 60.0
OWN_LOG = "supervisor.log"
"""What a supervisor in the background prints; written by `up`."""


class Upkeep:
    """Rare, cheap looks. Trouble with a disk is said at most once a minute and costs the instances nothing."""

    def __init__(
        self,
        core: Core,
        server: Server,
        observer: Observer,
        memory: Memory,
        *,
        config: str | None,
        source: bytes,
        folder: Callable[[], bool],
    ) -> None:
        self._core = core
        self._memory = memory
        self._server = server
        self._observer = observer
        self._config = config
        self._folder = folder
        self.source = source
        """The very bytes of the configuration in force."""
        self._seen = (-1, -1, -1)
        self._complained_at = -_COMPLAIN_AGAIN_S
        self._sizes: dict[str, int] = {}
        self._strays: dict[str, int] = {}
        self._in_place: dict[str, tuple[int, int]] = {}
        self._grown = core.fleet.supervisor.log_total_max_bytes  # who knows what was before us
        core.loop.call_later(INTERVAL_S, self._look)
        core.loop.call_later(INTERVAL_S, self._look_at_logs)

    def _look(self) -> None:
        self._core.loop.call_later(INTERVAL_S, self._look)
        if self._look_after_folder():
            try:
                self._server.look_after()
            except OllamuxError as error:
                self._complain(error.message)
            self._memory.look_after()
        self._compare_config()

    def _look_after_folder(self) -> bool:
        """Put back what is missing; False where the folder is another supervisor's by now, or cannot be used."""
        try:
            if self._folder():
                self._core.note(None, "the lock was removed from the folder of state, and was put back")
        except RefusedError as error:
            self._complain(f"{error.message}; {error.hint}")
            return False
        except OllamuxError as error:
            self._complain(error.message)
        except OSError as error:
            self._complain(f"the folder of state cannot be written: {error.strerror}")
        return True

    def _look_at_logs(self) -> None:
        """Rotate what has grown too large; of a log that grows faster than that, a part is dropped and this said."""
        supervisor = self._core.fleet.supervisor
        most = supervisor.log_max_bytes
        hurry = False
        paths = [(unit.log_path, unit) for unit in self._core.units.values()]
        for path, unit in (*paths, (f"{self._core.log_dir}/{OWN_LOG}", None)):
            size, inode = logfile.size_and_inode(path)
            grown, self._sizes[path] = size - self._sizes.get(path, size), size
            hurry = hurry or grown > most / 4
            self._grown += max(0, grown)
            if unit is not None:
                self._look_for(unit, most, inode)
            if size > most and self._rotate(path, supervisor.log_keep if unit is not None else 1, most):
                self._sizes[path] = 0
                if unit is not None:
                    unit.log_start = 0
        if self._grown >= supervisor.log_total_max_bytes / 100:
            self._grown = 0
            logfile.keep_below(self._core.log_dir, supervisor.log_total_max_bytes)
        delay_s = min(HURRY_S, INTERVAL_S) if hurry else INTERVAL_S
        self._core.loop.call_later(delay_s, self._look_at_logs)

    def _look_for(self, unit: Unit, most: int, inode: int) -> None:
        """Say once of a server that its log was deleted or moved; one that nobody can see any more is kept small.

        While the file at the path is the one that was seen to be this server's, nothing needs to be looked at.
        """
        child, seen = unit.child, (unit.state.gen, inode)
        if child is None or self._in_place.get(unit.name) == seen:
            return
        stray = logfile.stray(child.pid, unit.log_path)
        if stray is None and inode:
            self._in_place[unit.name] = seen
        if stray is None or family.mark_of(child.pid) != unit.mark:
            return
        if self._strays.get(unit.name) != unit.state.gen:
            self._strays[unit.name] = unit.state.gen
            what = "deleted" if stray.moved_to is None else f"moved to {stray.moved_to}, where it writes on"
            remedy = f"ollamux restart {unit.name} begins a new one"
            self._core.note(unit, f"its log was {what}; {remedy}")
        if stray.moved_to is None and stray.size > most:
            with suppress(OSError):
                logfile.cut_deleted(child.pid)

    def _rotate(self, path: str, keep: int, most: int) -> bool:
        try:
            logfile.rotate(path, keep=keep, most=2 * most)
        except OSError as error:
            self._complain(f"the log {path} cannot be rotated: {error.strerror}")
            return False
        return True

    def replace_source(self, source: bytes) -> None:
        """Compare with other bytes from now on: they are in force."""
        self.source = source
        self._seen = (-1, -1, -1)
        self._compare_config()

    def _compare_config(self) -> None:
        config, seen, source = self._config, self._seen, self.source
        if config is None:
            return
        try:
            self._seen, changed = patiently(f"the file {config}", lambda: _compared(config, seen, source))
        except TimeoutError:
            return
        self._observer.config_changed = self._observer.config_changed if changed is None else changed

    def _complain(self, reason: str) -> None:
        if monotonic() - self._complained_at >= _COMPLAIN_AGAIN_S:
            self._complained_at = monotonic()
            self._core.note(None, reason)


_Stamp = tuple[int, int, int]


def _compared(path: str, seen: _Stamp, source: bytes) -> tuple[_Stamp, bool | None]:
    """Return what a file is known by and whether it holds other bytes; None where it is as it was seen."""
    try:
        found = os.stat(path)
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if stamp == seen:
            return stamp, None
        with open(open_plain(path, os.O_RDONLY, follow=True), "rb") as file:
            return stamp, file.read(len(source) + 1) != source
    except OSError:
        return (0, 0, 0), True
