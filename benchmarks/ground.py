"""The ground a run stands on: a folder and an environment of its own, free ports, and the end of all it started."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from benchmarks import processes
from benchmarks.build import Programs, build
from benchmarks.errors import BenchError

# Below the range from which the kernel takes the local ports of outgoing connections (ip_local_port_range): a poll of a
# port in that range may connect to itself, and a child's port may be taken by a poll of another one.
_FIRST_PORT, _LAST_PORT = 24000, 32000
_END_WITHIN_S = 5.0


class Ground:
    """Entered once for a run; left, nothing remains of it."""

    def __init__(self) -> None:
        self._started: list[int] = []
        self._next_port = _FIRST_PORT
        self._fleets = 0
        self.command = str(Path(sys.executable).with_name("ollamux"))
        if not os.access(self.command, os.X_OK):
            raise BenchError(f"{self.command} is missing: install ollamux for this interpreter (pip install -e .)")
        self.folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="ollamux-bench-")))
        self.programs: Programs

    def __enter__(self) -> Ground:
        try:
            self.programs = build(self.folder)
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave processes behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for pid in list(self._started):
                processes.kill(pid)
                self.collect(pid, within_s=_END_WITHIN_S)
            deadline = time.perf_counter() + _END_WITHIN_S
            while processes.sweep(str(self.folder)) and time.perf_counter() < deadline:
                time.sleep(0.01)
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            signal.signal(signal.SIGINT, before)

    def home(self) -> Path:
        """Make the folder of one fleet."""
        self._fleets += 1
        home = self.folder / f"fleet{self._fleets}"
        home.mkdir(mode=0o700)
        return home

    def ports(self, count: int) -> list[int]:
        """Return ports on which nobody listens, different ones at every call."""
        found: list[int] = []
        while len(found) < count:
            if self._next_port > _LAST_PORT:
                raise BenchError(f"there are no {count} free ports between {_FIRST_PORT} and {_LAST_PORT}")
            if _is_free(self._next_port):
                found.append(self._next_port)
            self._next_port += 1
        return found

    def spawn(self, argv: processes.Argv, env: dict[str, str], *, stderr: str) -> int:
        """Start a process that is ended with the run at the latest."""
        pid = processes.spawn(argv, env, stderr=stderr)
        self._started.append(pid)
        return pid

    def collect(self, pid: int, *, within_s: float) -> bool:
        """Wait for the end of a process that was started here; False where it did not end in time."""
        if not processes.ends(pid, within_s=within_s):
            return False
        # In this order: once it is collected, its number may be another's, which must not be killed in its place.
        self._started.remove(pid)
        os.waitpid(pid, 0)
        return True


def environment(home: Path) -> dict[str, str]:
    """Return all that the programs of one fleet see: nothing of the user's own."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OLLAMUX_STATE_DIR": str(home / "state"),
        "OLLAMUX_RUNTIME_DIR": str(home / "run"),
        "OLLAMUX_LOG_DIR": str(home / "log"),
    }


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
