"""The log a child appends to itself, and its rotation.

A child keeps its descriptor for life, so a log is rotated by copying it and cutting the original. That is sound only
because the descriptor was opened for appending: the child then goes on at the new end of the file.
"""

from __future__ import annotations

import os
import stat


def open_log(path: str) -> int:
    """Open a child's log for appending, 0600, never through a link. Raises OSError; close it after the spawn."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise OSError(22, "not a plain file", path)
    os.set_blocking(fd, True)
    return fd


def size(path: str) -> int:
    """Return the size in bytes, 0 where there is no file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def tail(path: str, most: int, *, since: int) -> bytes:
    """Return the last bytes of a log, at most so many, and none from before a position. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = os.fstat(fd).st_size
        return os.pread(fd, most, max(end - most, min(since, end)))
    finally:
        os.close(fd)


def rotate(path: str, *, keep: int) -> None:
    """Move path.1 to path.2 and so on, copy path to path.1, and cut path. Raises OSError when the disk is full.

    What the child writes between copy and cut is carried over, unless it writes faster than it can be copied.
    """
    if keep > 0:
        for number in range(keep, 1, -1):
            if os.path.exists(f"{path}.{number - 1}"):
                os.replace(f"{path}.{number - 1}", f"{path}.{number}")
        _copy(path, f"{path}.1")
    os.truncate(path, 0)


def _copy(source: str, target: str) -> None:
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            limit = 2 * os.fstat(read).st_size + 65536
            while limit > 0 and (sent := os.sendfile(write, read, None, 1 << 20)):
                limit -= sent
        finally:
            os.close(write)
    finally:
        os.close(read)


class Follower:
    """Reads what was appended to a file since the last look, across rotation by copy and cut."""

    def __init__(self, path: str, *, at: int = 0) -> None:
        self.path = path
        self.at = at

    def read(self, limit: int = 1 << 20) -> bytes:
        """Return at most `limit` new bytes; empty where there are none or the file cannot be read."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            rest = b""
            if os.fstat(fd).st_size < self.at:
                rest = self._rest_of_rotated(limit)
                self.at = 0
            data = os.pread(fd, limit, self.at)
            self.at += len(data)
            return rest + data
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _rest_of_rotated(self, limit: int) -> bytes:
        """Return what was written after the last look and before the file was copied away and cut."""
        try:
            fd = os.open(f"{self.path}.1", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, limit, self.at)
        finally:
            os.close(fd)
