"""The log a child appends to itself: opening it, its rotation, and how much room all logs take.

A child keeps its descriptor for life, so a log is rotated by copying it and cutting the original. That is sound only
because the descriptor was opened for appending: the child then goes on at the new end of the file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from ollamux.system.files import open_plain

BEING_COPIED = ".new"
"""What the copy is called until it is whole; one that is found later was left by a rotation that was cut short."""
DROPPED = b"[ollamux: "
"""A copy that lacks the beginning of its log begins with this."""
_SAMPLE = 256
_PUNCH_HOLE = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE, of fallocate(2)."""


def open_log(path: str) -> int:
    """Open a child's log for appending, 0600, never through a link. Raises OSError; close it after the spawn."""
    return open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def size_and_inode(path: str) -> tuple[int, int]:
    """Return how large a log is, and what tells its file from another one; zeros where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_ino


def size(path: str) -> int:
    """Return the size in bytes, 0 where there is no file."""
    return size_and_inode(path)[0]


def tail(path: str, most: int, *, since: int) -> bytes:
    """Return the last bytes of a log, at most so many, and none from before a position. Raises OSError."""
    fd = open_plain(path, os.O_RDONLY)
    try:
        end = os.fstat(fd).st_size
        return os.pread(fd, most, max(end - most, min(since, end)))
    finally:
        os.close(fd)


def rotate(path: str, *, keep: int, most: int | None = None) -> None:
    """Move path.1 to path.2 and so on, copy path to path.1, and cut path. Raises OSError when the disk is full.

    What the child writes meanwhile is carried over, unless it writes faster than it can be copied. Of a log that has
    grown beyond `most` bytes the newest are kept, behind a line that says so. On a full disk the oldest copy makes
    room for the newest, or what is not kept of the log; where there is neither nothing is changed. Copies beyond
    `keep` go: more were kept once.
    """
    source = open_plain(path, os.O_RDWR)
    try:
        if keep <= 0:
            os.ftruncate(source, 0)
        else:
            _rotate(source, path, keep=keep, most=most)
    finally:
        os.close(source)
    for number in rotated(path):
        if number > keep:
            with suppress(OSError):
                os.unlink(f"{path}.{number}")


def _rotate(source: int, path: str, *, keep: int, most: int | None) -> None:
    whole = True
    while True:
        try:
            _move(source, path, keep=keep, most=most)
            return
        except OSError as error:
            with suppress(FileNotFoundError):
                os.unlink(path + BEING_COPIED)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            if not _drop_oldest(path):
                if not (whole and _drop_beginning(source, most)):
                    raise
                whole = False


def _move(source: int, path: str, *, keep: int, most: int | None) -> None:
    fresh = path + BEING_COPIED
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(fresh, flags, 0o600)
    try:
        total = os.fstat(source).st_size
        dropped = total - most if most is not None and total > most else 0
        if dropped:
            os.write(target, DROPPED + f"{dropped} bytes were dropped here; the log grew too fast]\n".encode())
        os.lseek(source, dropped, os.SEEK_SET)
        _carry_over(source, target, total - dropped)
        if not is_unfinished(source, f"{path}.1"):  # else this very log was copied before, by one who was killed then
            for number in range(keep, 1, -1):
                with suppress(FileNotFoundError):
                    os.replace(f"{path}.{number - 1}", f"{path}.{number}")
        os.replace(fresh, f"{path}.1")
        # The very last, so that nearly nothing can come between it and the cut.
        _carry_over(source, target, max(total - dropped, 1 << 20))
        os.ftruncate(source, 0)
    finally:
        os.close(target)


def _carry_over(source: int, target: int, limit: int) -> None:
    while limit > 0 and (sent := os.sendfile(target, source, None, 1 << 20)):
        limit -= sent


class Stray(NamedTuple):
    """A log that is not where it should be: its owner writes on into it all the same. `moved_to`: None if deleted."""

    moved_to: str | None
    size: int


def stray(pid: int, path: str) -> Stray | None:
    """Return where a process writes its log where that is not the file at the path; None where it is, or is unknown."""
    link = f"/proc/{pid}/fd/1"
    try:
        writes = os.stat(link)
        now_at = os.readlink(link)
    except OSError:
        return None
    with suppress(OSError):
        found = os.stat(path)
        if (found.st_dev, found.st_ino) == (writes.st_dev, writes.st_ino):
            return None
    if not stat.S_ISREG(writes.st_mode):
        return None
    return Stray(moved_to=now_at if writes.st_nlink else None, size=writes.st_size)


def cut_deleted(pid: int) -> None:
    """Empty a log that was deleted, which takes room on the disk as long as it is written. Raises OSError."""
    fd = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def is_unfinished(live: int, copy: str) -> bool:
    """Whether a copy was made of a log that is not cut yet: the log then begins with all that is in the copy."""
    try:
        fd = open_plain(copy, os.O_RDONLY)
    except OSError:
        return False
    try:
        length = os.fstat(fd).st_size
        if not 0 < length <= os.fstat(live).st_size:
            return False
        return all(os.pread(fd, _SAMPLE, at) == os.pread(live, min(_SAMPLE, length - at), at) for at in _ends(length))
    except OSError:
        return False
    finally:
        os.close(fd)


def _ends(length: int) -> tuple[int, int]:
    return 0, max(0, length - _SAMPLE)


def rotated(path: str) -> list[int]:
    """Return the numbers of the copies that there are, the newest first."""
    folder, _, base = path.rpartition("/")
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return []
    numbers = (name.removeprefix(base + ".") for name in names if name.startswith(base + "."))
    return sorted(int(number) for number in numbers if number.isascii() and number.isdigit())


def drop_unfinished(folder: str) -> None:
    """Remove copies that were being made when the supervisor was killed. To be called while nobody rotates."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".log" + BEING_COPIED) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


def _drop_oldest(path: str) -> bool:
    numbers = rotated(path)
    if numbers:
        os.unlink(f"{path}.{numbers[-1]}")
    return bool(numbers)


def _drop_beginning(source: int, most: int | None) -> bool:
    """Give back the room of what a copy would leave out anyway; True where that has made room."""
    import ctypes  # hardly ever

    found = os.fstat(source)
    dropped = 0 if most is None else found.st_size - most
    if dropped <= 0:
        return False
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    fallocate(source, _PUNCH_HOLE, 0, dropped)  # which not every file system can
    return os.fstat(source).st_blocks < found.st_blocks


class _Copy(NamedTuple):
    modified_ns: int
    path: str
    size: int


def keep_below(folder: str, most: int) -> list[str]:
    """Remove the oldest copies, of whatever log, until all files of a folder take no more than so many bytes.

    Returns what was removed. The logs themselves stay, however large they are.
    """
    total, copies = 0, []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    continue
                total += found.st_size
                name, _, number = entry.name.rpartition(".")
                if name.endswith(".log") and number.isascii() and number.isdigit():
                    copies.append((_Copy(found.st_mtime_ns, entry.path, found.st_size), name, int(number)))
    except OSError:
        return []
    removed = []
    # Of one log the higher number is the older, whatever a clock that was set says.
    for copy, _, _ in sorted(copies, key=lambda one: (one[0].modified_ns, one[1], -one[2])):
        if total <= most:
            break
        with suppress(OSError):
            os.unlink(copy.path)
            removed.append(copy.path)
            total -= copy.size
    return removed
