"""Programs of the user that run beside the supervisor: few at a time, none for long, none waited for.

Each leads a session of its own. Until it is collected its number is its own and its group's, so that the whole group
can be ended. What leaves the group is nobody's: it carries no mark of an instance and falls to us when it ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from ollamux.supervisor.family import GENERATION, INSTANCE, SUPERVISOR, SUPERVISOR_ID
from ollamux.system import procs
from ollamux.system.child import Child
from ollamux.system.clock import monotonic
from ollamux.system.loop import Loop, Timer

MOST = 4
DEADLINE_S = 30.0
YOUNG_S = 5.0
"""Whoever is younger when the supervisor ends is left to finish."""
_NOT_PASSED_ON = frozenset({
    *(INSTANCE, GENERATION, SUPERVISOR, SUPERVISOR_ID, "OLLAMUX_SIMULATION"),
    *("NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID", "SYSTEMD_EXEC_PID"),
})  # fmt: skip
_PREFIXES_NOT_PASSED_ON = ("WATCHDOG_", "LISTEN_", "FDSTORE", "CREDENTIALS_DIRECTORY")


class _Errand:
    def __init__(self, child: Child) -> None:
        self.child = child
        self.began = monotonic()
        self.deadline: Timer | None = None
        self.killed = False


class Errands:
    """Those that run. `ended` is told how each one ended, in words, or None where it was well."""

    def __init__(
        self,
        loop: Loop,
        env: Mapping[str, str],
        ended: Callable[[str | None], None],
        *,
        deadline_s: float | None = None,
    ) -> None:
        self._loop = loop
        self._deadline_s = DEADLINE_S if deadline_s is None else deadline_s
        self._env = clean(env)
        self._ended = ended
        self._running: dict[int, _Errand] = {}

    @property
    def pids(self) -> frozenset[int]:
        """Our own children that are collected here and nowhere else."""
        return frozenset(self._running)

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self._running) >= MOST

    def run(self, argv: Sequence[str], data: bytes) -> None:
        """Start a program with something to read. Raises OSError."""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.write(write, data)  # what is more than a pipe holds is cut, and nothing blocks
            os.set_blocking(read, True)
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                self._env,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, read, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGHUP),
            )
        finally:
            os.close(read)
            os.close(write)
        try:
            errand = self._running[pid] = _Errand(Child(pid, ours=True))
        except OSError:  # no descriptor left for the handle: it is collected with the orphans, and has no deadline
            return
        errand.deadline = self._loop.call_later(self._deadline_s, lambda: self._too_late(errand))
        self._loop.watch(errand.child.pidfd, read=lambda: self._leader_ended(errand))

    def _leader_ended(self, errand: _Errand) -> None:
        """Collect it, unless others of its group are left: they have the rest of its time."""
        status = errand.child.exit_status()
        if status is None:
            return
        self._loop.unwatch(errand.child.pidfd)
        if not errand.killed:
            code, by = status
            well = code == 0
            self._ended(None if well else f"was killed by {by}" if by is not None else f"exited with status {code}")
        if errand.killed or not self._group_left(errand):
            self._collect(errand)

    def _group_left(self, errand: _Errand) -> bool:
        seen = (procs.stat(pid) for pid in procs.children(os.getpid()) or () if pid != errand.child.pid)
        return any(one is not None and one.pgid == errand.child.pid and one.state not in ("Z", "X") for one in seen)

    def _too_late(self, errand: _Errand) -> None:
        over = errand.child.exit_status() is not None
        errand.killed = True
        _kill_group(errand)
        if over:
            self._collect(errand)
        else:
            self._ended(f"was killed with its group: it ran for more than {self._deadline_s:g} s")

    def _collect(self, errand: _Errand) -> None:
        if errand.deadline is not None:
            errand.deadline.cancel()
        del self._running[errand.child.pid]
        errand.child.reap()

    def close(self) -> None:
        """End with the supervisor, without waiting: what hangs is killed, what has only begun may finish."""
        for errand in self._running.values():
            if monotonic() - errand.began >= YOUNG_S:
                _kill_group(errand)


def _kill_group(errand: _Errand) -> None:
    try:
        os.killpg(errand.child.pid, signal.SIGKILL)  # not collected yet, so the number is still its own
    except (ProcessLookupError, PermissionError):
        pass


def clean(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what speaks to the service manager, and without any mark of ours."""
    return {
        name: value
        for name, value in env.items()
        if name not in _NOT_PASSED_ON and not name.startswith(_PREFIXES_NOT_PASSED_ON)
    }
