"""What /proc says about processes. Read-only; whoever is signalled is decided and proven elsewhere.

Everything here may race with a process that ends: a process that is gone reads as None or is left out.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

from ollamux.system.patience import patiently

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """The part of /proc/PID/stat that matters here; ticks are clock ticks, `start` since boot (proc(5))."""

    comm: str
    state: str
    ppid: int
    pgid: int
    session: int
    cpu_ticks: int
    start_ticks: int


def _read(path: str, limit: int = 65536) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, limit)
    except OSError:
        return None
    finally:
        os.close(fd)


def stat(pid: int) -> Stat | None:
    """Return what the kernel tells of a process, zombies included."""
    data = _read(f"/proc/{pid}/stat")
    if not data:
        return None
    name, _, rest = data.rpartition(b")")
    fields = rest.split()
    return Stat(
        comm=name.partition(b"(")[2].decode(errors="replace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        session=int(fields[3]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        start_ticks=int(fields[19]),
    )


def environment(pid: int) -> dict[str, str] | None:
    """Return the environment a process was started with, or None where it is gone or not ours to read."""
    data = _read(f"/proc/{pid}/environ", 1 << 20)
    if data is None:
        return None
    pairs = (item.partition(b"=") for item in data.split(b"\0") if item)
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}


def arguments(pid: int) -> list[str]:
    """Return a process's argument list, empty where it is gone."""
    data = _read(f"/proc/{pid}/cmdline") or b""
    return [part.decode(errors="replace") for part in data.rstrip(b"\0").split(b"\0")] if data else []


def rss_bytes(pid: int) -> int | None:
    """Return the resident memory of a process."""
    data = _read(f"/proc/{pid}/statm")
    return int(data.split()[1]) * PAGE_BYTES if data else None


def read_bytes(pid: int) -> int | None:
    """Return how much a process has read from storage, None where it is gone, not ours, or not counted."""
    for line in (_read(f"/proc/{pid}/io") or b"").splitlines():
        name, _, count = line.partition(b":")
        if name == b"read_bytes":
            return int(count)
    return None


def children(pid: int) -> list[int] | None:
    """Return the children of a process, or None where this kernel does not list them."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    for thread in threads:
        data = _read(f"/proc/{pid}/task/{thread}/children", 1 << 20)
        if data is None:
            if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
                return None
            continue
        found.extend(int(word) for word in data.split())
    return found


class OwnChildren:
    """The children of this very process: a file that is opened once, since a respawn waits for what it says.

    For a process whose first thread starts all children. What falls to us falls to that thread too, and nobody but us
    can take a child off the list, so that none is left out while it is read.
    """

    def __init__(self) -> None:
        self._fd = -1

    def list(self) -> list[int] | None:
        """Return the children, or None where this kernel does not list them."""
        try:
            if self._fd < 0:
                self._fd = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
            data = b""
            while piece := os.pread(self._fd, 65536, len(data)):
                data += piece
        except OSError:
            return None
        return [int(word) for word in data.split()]


def descendants(pid: int) -> list[int]:
    """Return all processes below one, nearest first."""
    direct = children(pid)
    if direct is None:
        direct = [other for other in pids() if (seen := stat(other)) is not None and seen.ppid == pid]
    found = list(direct)
    for child in direct:
        found.extend(descendants(child))
    return found


def pids() -> list[int]:
    """Return every process id that /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def same_namespace(pid: int) -> bool:
    """Whether a process lives in our own process-id namespace, and not in a container below it."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False


def holds_lock(pid: int, path: str) -> bool:
    """Whether a process holds an exclusive flock(2) on a file, as the kernel tells of its descriptors (proc(5))."""
    try:
        wanted = os.stat(path)
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            found = os.stat(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            lines = (_read(f"/proc/{pid}/fdinfo/{name}") or b"").splitlines()
            if any(line.startswith(b"lock:") and b" FLOCK " in line and b" WRITE " in line for line in lines):
                return True
    return False


def boot_id() -> str:
    """Return what tells one boot from another."""
    return (_read("/proc/sys/kernel/random/boot_id") or b"").decode().strip()


def owner(pid: int) -> str | None:
    """Return whose process it is: a name where /etc/passwd has one, else the number; None where it is not shown.

    Directory services are not asked: they may take minutes, and whoever asks here does not wait.
    """
    for line in (_read(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"Uid:"):
            return _local_name(int(line.split()[1]))
    return None


@lru_cache(maxsize=256)
def _local_name(uid: int) -> str:
    for line in (_read("/etc/passwd", 1 << 20) or b"").splitlines():
        fields = line.split(b":")
        if len(fields) > 2 and fields[2] == b"%d" % uid:
            return fields[0].decode(errors="replace")
    return str(uid)


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where it has none, or whoever knows the names does not answer."""
    import pwd

    try:
        return patiently("the names of users", lambda: pwd.getpwuid(uid).pw_name)
    except (KeyError, TimeoutError):
        return str(uid)
