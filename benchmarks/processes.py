"""Start, look at, wait for and end processes of the benchmark, by pid alone. Knows nothing of what they are."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.errors import BenchError

Argv = Sequence[str]


def spawn(argv: Argv, env: Mapping[str, str], *, stderr: str = os.devnull) -> int:
    """Start a program in a session of its own, so that Ctrl-C reaches the harness alone; return its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, stderr, flags, 0o600),
        ],
        setsid=True,
        setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE],
    )


def timed(argv: Argv, env: Mapping[str, str], *, codes: Iterable[int] = (0,)) -> float:
    """Run a program to its end; return the seconds from before its start until after its end."""
    began = time.perf_counter()
    pid = spawn(argv, env)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    if code not in codes:
        raise BenchError(f"{' '.join(argv)} ended with {code}")
    return took


def ended(pid: int) -> bool:
    """Say whether a child of ours has ended, without collecting it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def ends(pid: int, *, within_s: float) -> bool:
    """Wait for a process to end, without collecting it; False where it does not in time."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process, which may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def children(pid: int) -> list[int]:
    """Return the live children of a process, oldest first."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += _read(f"/proc/{pid}/task/{thread}/children").split()
    except FileNotFoundError:
        return []
    return [int(child) for child in found]


def below(pid: int) -> list[int]:
    """Return all descendants of a process."""
    direct = children(pid)
    return direct + [deeper for child in direct for deeper in below(child)]


def program(pid: int) -> str | None:
    """Return the path of what a process runs; None where it is gone, a zombie or not ours to see."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def variable(pid: int, name: str) -> str | None:
    """Return a variable that a process was started with."""
    for pair in _read(f"/proc/{pid}/environ").split("\0"):
        key, _, value = pair.partition("=")
        if key == name:
            return value
    return None


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and all its threads, ended ones too, to the nanosecond.

    A process's CPU clock is an ordinary clock of clock_gettime(2), whose number is made of the pid
    (clock_getcpuclockid(3)); /proc/PID/stat has steps of 10 ms.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        raise BenchError(f"pid {pid} has gone while it was watched") from None


def collected_s(pid: int) -> float:
    """Return the CPU seconds of the children that a process has collected, in steps of 10 ms (proc(5))."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, its share of what it shares with others counted in proportion."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"this kernel does not tell the memory of pid {pid}")


def all_gone(descriptors: Sequence[int], *, within_s: float) -> bool:
    """Wait until every process, given as pidfds, has ended; False where one has not in time."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left, deadline = len(descriptors), time.perf_counter() + within_s
    while left:
        rest_s = deadline - time.perf_counter()
        if rest_s <= 0:
            return False
        for descriptor, _ in poll.poll(rest_s * 1000):
            poll.unregister(descriptor)
            left -= 1
    return True


def sweep(folder: str) -> int:
    """Kill every process whose program or home lies in a folder that only this run uses; return how many there were."""
    killed = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        pid = int(name)
        # A zombie has neither, so only what lives is found.
        if _lies_in(program(pid), folder) or _lies_in(variable(pid, "HOME"), folder):
            kill(pid)
            killed += 1
    return killed


def _lies_in(path: str | None, folder: str) -> bool:
    return path is not None and path.startswith(folder + "/")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
