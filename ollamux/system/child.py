"""Start, watch, signal and reap one process, by a handle that cannot come to mean another one.

Nothing here uses `subprocess`: its objects reap behind our back, and an unreaped leader is what keeps the group's
number ours. The descriptor of pidfd_open(2) refers to this process for ever, whatever happens to its number.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from _thread import get_native_id  # what threading gives, without its import
from collections.abc import Mapping, Sequence

from ollamux.system import procs
from ollamux.system.reserve import spare

_PR_SET_CHILD_SUBREAPER = 36
_HANDLED: set[int] = set()
_NAMES = {int(known): known.name for known in signal.Signals}
_DEFAULTED = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]


class Child:
    """A process that we started (`ours`), or adopted from an earlier supervisor."""

    __slots__ = ("_start_ticks", "ended", "ours", "pid", "pidfd")

    def __init__(self, pid: int, *, ours: bool, pidfd: int | None = None) -> None:
        self.pid = pid
        self.ours = ours
        self.ended = False
        """Whether it was seen to have ended: what was below it has then fallen to another."""
        self.pidfd = os.pidfd_open(pid) if pidfd is None else pidfd
        _HANDLED.add(pid)
        self._start_ticks: int | None = None

    @property
    def start_ticks(self) -> int:
        """When it was started, in clock ticks since boot; 0 where it is gone. Until it is reaped the number is its own.

        Read at the first use: the kernel makes us wait for it while the program is being loaded.
        """
        if self._start_ticks is None:
            seen = procs.stat(self.pid)
            self._start_ticks = seen.start_ticks if seen is not None else 0
        return self._start_ticks

    def signal(self, number: int) -> bool:
        """Send a signal to this very process; False where it is gone already."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def exit_status(self) -> tuple[int | None, str | None] | None:
        """Return (exit code, signal name) once it has ended, without reaping it; None while it lives.

        Of an adopted process neither is known.
        """
        if not self.ours:
            self.ended = not _alive(self.pidfd)
            return (None, None) if self.ended else None
        found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        self.ended = True
        if found.si_code == os.CLD_EXITED:
            return found.si_status, None
        return None, signal_name(found.si_status)

    def reap(self) -> None:
        """Collect it, after which its number may be anybody's. To be called once, after it has ended."""
        if self.ours:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        self.close()

    def close(self) -> None:
        """Forget it without collecting it."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
            _HANDLED.discard(self.pid)


def handled() -> frozenset[int]:
    """Return the processes of all open handles: whoever holds a handle collects the process, and nobody else may."""
    return frozenset(_HANDLED)


def take_over(pid: int, pidfd: int) -> Child:
    """Return a process whose descriptor the program before this one left open."""
    os.set_inheritable(pidfd, False)
    return Child(pid, ours=_fdinfo_pid(pidfd) == pid and is_ours(pid), pidfd=pidfd)


def is_ours(pid: int) -> bool:
    """Whether the kernel calls it our own child: a zombie of ours is, and a process that was given to init is not.

    What a program has started stays its child when another program takes its place by exec.
    """
    seen = procs.stat(pid)
    return seen is not None and seen.ppid == os.getpid()


@spare()
def _alive(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie that its own parent has not collected yet is as good as gone.
    fields = _fdinfo_pid(pidfd)
    seen = procs.stat(fields) if fields > 0 else None
    return seen is not None and seen.state not in ("Z", "X")


def _fdinfo_pid(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return -1


def signal_name(number: int) -> str:
    """Return "SIGKILL" for 9, and "signal 64" where it has no name."""
    return _NAMES.get(number) or f"signal {number}"


def spawn(argv: Sequence[str], env: Mapping[str, str], *, log_fd: int) -> Child:
    """Start a program in a session of its own, its output appended to an open file, its input empty.

    All signals are at their defaults in it and none is blocked; it inherits no other descriptor. Raises OSError with
    the reason why the program could not be started. For the main thread only: a parent-death signal (setpriv in front
    of the program) is that of the thread, and would come when the thread ends.
    """
    if sys.platform == "linux" and get_native_id() != os.getpid():
        raise RuntimeError("a child may be started from the main thread only")
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log_fd, 1),
            (os.POSIX_SPAWN_DUP2, log_fd, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=_DEFAULTED,
    )
    try:
        return Child(pid, ours=True)
    except OSError:  # no descriptor left for the handle: what cannot be watched must not run
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def become_subreaper() -> bool:
    """Make orphaned descendants fall to this process instead of to init, so that none is lost (prctl(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def close_on_exec_from(lowest: int) -> None:
    """Keep descriptors that our own caller left open from reaching any child."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= lowest:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # the descriptor of the listing itself is closed by now


def reap_orphan(pid: int) -> bool:
    """Collect a child that fell to us through its parent's death; False while it lives or is not ours."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return False
