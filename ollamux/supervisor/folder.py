"""The folder of state: who may use it, its identity, and putting back what was removed from it under us.

Whoever tidies up a home removes it whole. What keeps a second supervisor away is a file in it, and by another one the
processes of the instances are known: so both are looked after for as long as a supervisor runs.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping

from ollamux.domain.errors import RefusedError
from ollamux.protocol.client import peer_pid
from ollamux.system.clock import monotonic
from ollamux.system.files import Lock, private_dir, read_bounded, write_atomic
from ollamux.system.places import SOCKET_RECORD, socket_paths

_IDENTITY = "id"
_CONFIG_PATH = "config-path"
_LOCK_PATIENCE_S = 0.2


class Folder:
    """The folder of one supervisor, which holds the lock in it for life."""

    def __init__(self, path: str, *, logs: str) -> None:
        self.path = path
        self.lock = Lock(f"{path}/lock")
        self._logs = logs
        self._identity = ""
        self._kept: dict[str, str] = {}

    def claim(self, env: Mapping[str, str], *, simulated: bool) -> None:
        """Take the lock. Raises RefusedError where a supervisor runs, also one whose lock was removed."""
        if not self._take():
            raise _running_already(self.lock.holder())
        found, pid = _listener(socket_paths(env, simulated=simulated))
        if found:
            self.lock.release()
            raise _running_already(pid)

    def _take(self) -> bool:
        """Take the lock; somebody who only looks whether it is held holds it for a moment himself."""
        until = monotonic() + _LOCK_PATIENCE_S
        while not self.lock.take():
            if monotonic() > until:
                return False
            select.select([], [], [], 0.02)
        return True

    def owner(self, handed: str | None) -> str:
        """Return what the processes of the instances are marked with: this folder and the random id kept in it.

        The id is made at the first use; `handed` is that of the program before this one.
        """
        self._identity = identity_in(self.path) if handed is None else handed.rpartition(" ")[2]
        if not self._identity:
            self._identity = os.urandom(8).hex()
            self._write_identity()
        return handed or f"{self.path} {self._identity}"

    def _write_identity(self) -> None:
        write_atomic(f"{self.path}/{_IDENTITY}", self._identity.encode() + b"\n")

    def keep_config(self, path: str) -> None:
        """Write down which configuration is in force, for `up --ensure`."""
        self._keep(_CONFIG_PATH, path)

    def keep_socket(self, path: str) -> None:
        """Write down where the supervisor listens."""
        self._keep(SOCKET_RECORD, path)

    def _keep(self, name: str, text: str) -> None:
        """Write down what other commands find convenient to know; not being able to is no reason not to run."""
        self._kept[name] = text
        try:
            write_atomic(f"{self.path}/{name}", text.encode() + b"\n")
        except OSError:
            pass

    def look_after(self) -> bool:
        """Put back what is missing, the lock first; return whether the lock was.

        Raises RefusedError where another supervisor has taken the place, OllamuxError or OSError where nothing can be
        written.
        """
        removed = not self.lock.is_in_place()
        if removed:
            private_dir(self.path)
            private_dir(self._logs)
            if not self.lock.put_back():
                raise RefusedError(
                    f"the lock of this supervisor (pid {os.getpid()}) was removed from {self.path}, and another one "
                    f"(pid {self.lock.holder()}) uses that folder now",
                    hint="end one of the two: kill -TERM ends it in good order",
                )
        if identity_in(self.path) != self._identity:
            self._write_identity()
        for name, text in self._kept.items():
            if not os.path.lexists(f"{self.path}/{name}"):
                self._keep(name, text)
        return removed


def identity_in(folder: str) -> str:
    """Return the random id that is kept in a folder of state, empty where there is none."""
    known = (read_bounded(f"{folder}/{_IDENTITY}", 64) or b"").decode("ascii", "replace").strip()
    return known if known.isalnum() else ""


def _running_already(pid: int | None) -> RefusedError:
    who = f" (pid {pid})" if pid is not None else ""
    return RefusedError(f"a supervisor is running already{who}", hint="ollamux status shows it; ollamux down ends it")


def _listener(paths: tuple[str, ...]) -> tuple[bool, int | None]:
    """Return whether anybody listens at one of these sockets, and who, where the kernel tells."""
    for path in paths:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except BlockingIOError:
                return True, None  # so many wait to be let in that there is no room for one more
            except OSError:
                continue
            return True, peer_pid(probe)
    return False, None
