"""Reads what was appended to a file since the last look, across rotations: every byte once, as far as copies are kept.

A file may be rotated by copy and cut (the log of a child) or by renaming (the record of events), and more than once
between two looks. What lies between is found in the copies; where it no longer is there, that is said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ollamux.system.files import open_plain
from ollamux.system.logfile import DROPPED, is_unfinished

_MARK: Final = 64
"""So many bytes before our place tell whether a file is still the one we read."""
_HEAD: Final = 128
PATIENCE: Final = 1 << 20
"""The patience of one who only needs to know what is going on."""
LONGEST_LINE: Final = 256 * 1024

_Identity = tuple[int, bytes]


class Follower:
    """A place in a growing file.

    With `patience` whatever is farther behind than so many bytes is left out: for one who must keep up, not know all.
    """

    def __init__(self, path: str, *, at: int = 0, patience: int | None = None) -> None:
        self.path = path
        self.at = at
        self.behind = False
        """Whether the last look left something unread."""
        self._patience = patience
        self._begun = False
        self._inode = 0
        self._first: _Identity | None = None
        self._copied: _Identity | None = None
        self._mark = b""
        self._older: list[tuple[int, int]] = []
        self._rest = b""
        self._lost = self._gap = False

    def begin(self) -> None:
        """Take the place for that in the file as it is now; else the first look does."""
        try:
            with _opened(self.path) as fd:
                self._begin(fd, _identity(f"{self.path}.1"))
        except OSError:
            pass  # not there yet: whatever comes is new

    def stays(self) -> bool:
        """Whether the file is still the one in which the place is, neither cut nor replaced."""
        try:
            with _opened(self.path) as fd:
                first = _identity(f"{self.path}.1")
                return os.fstat(fd).st_ino == self._inode and first == self._first and self._is_ours(fd)
        except OSError:
            return not self._begun

    def take_lost(self) -> bool:
        """Whether since the last question something was gone before it could be read."""
        lost, self._lost = self._lost, False
        return lost

    def read(self, limit: int = 1 << 20) -> bytes:
        """Return at most `limit` new bytes; empty where there are none or the file cannot be read."""
        data = b""
        try:
            data = self._read_older(limit)
            while len(data) < limit:
                with _opened(self.path) as fd:
                    self._look(fd)
                    if not self._older:
                        data += self._read_on(fd, limit - len(data))
                        break
                data += self._read_older(limit - len(data))
        except OSError:
            pass  # not there, or not now: what was read so far counts
        self.behind = len(data) >= limit
        return data

    def lines(self) -> list[bytes]:
        """Return the lines that were completed since the last look, without their ends."""
        data = self.read()
        if self._gap:
            self._rest, self._gap = b"", False
        *found, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            found.append(self._rest)
            self._rest = b""
        return found

    def close(self) -> None:
        """Give back what is held open."""
        while self._older:
            os.close(self._older.pop()[0])

    def _read_older(self, limit: int) -> bytes:
        found = b""
        while self._older and len(found) < limit:
            fd, at = self._older[0]
            data = os.pread(fd, limit - len(found), at)
            if data:
                self._older[0] = (fd, at + len(data))
                found += data
            else:
                os.close(fd)
                del self._older[0]
        return found

    def _read_on(self, fd: int, limit: int) -> bytes:
        behind = os.fstat(fd).st_size - self.at
        if self._patience is not None and behind > self._patience:
            self.at += behind - limit
            self._mark = b""
            self._say_lost()
        data = os.pread(fd, limit, self.at)
        if os.fstat(fd).st_size < self.at + len(data):
            return b""  # cut while we read: the next look finds all of it in the copy
        self.at += len(data)
        self._mark = (self._mark + data)[-_MARK:]
        return data

    def _look(self, fd: int) -> None:
        """See whether the file is still the one we read; if not, open what has to be read before it."""
        inode, first = os.fstat(fd).st_ino, _identity(f"{self.path}.1")
        if not self._begun:
            self._begin(fd, first)
        elif first == self._first or first is None:  # none: copies are being renumbered, or somebody removed them
            if inode != self._inode or not self._is_ours(fd):
                if inode == self._inode:
                    self._say_lost()  # cut, and nothing was kept
                self._start(inode, first, at=0, mark=b"")
        elif inode == self._inode and is_unfinished(fd, f"{self.path}.1"):
            self._copied = first  # and about to be cut
        else:
            self._open_older()
            self._start(inode, first, at=0, mark=b"")

    def _begin(self, fd: int, first: _Identity | None) -> None:
        self._begun = True
        found = os.fstat(fd)
        if found.st_size < self.at:  # cut before we looked
            self._open_older(newest_only=True)
            self._start(found.st_ino, first, at=0, mark=b"")
        else:
            mark = os.pread(fd, min(_MARK, self.at), max(0, self.at - _MARK))
            self._start(found.st_ino, first, at=self.at, mark=mark)

    def _start(self, inode: int, first: _Identity | None, *, at: int, mark: bytes) -> None:
        self._inode, self._first, self.at, self._mark = inode, first, at, mark

    def _say_lost(self) -> None:
        self._lost = self._gap = True

    def _is_ours(self, fd: int) -> bool:
        return self._place_in(fd) == self.at

    def _place_in(self, fd: int) -> int | None:
        """Return where in a file we are, None where it is another one. One that lost its beginning says so itself."""
        ends = os.pread(fd, len(self._mark), self.at - len(self._mark))
        if os.fstat(fd).st_size >= self.at and ends == self._mark:
            return self.at
        if self._mark and os.pread(fd, len(DROPPED), 0) == DROPPED:
            import mmap  # hardly ever

            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as text:
                found = text.rfind(self._mark)
            return found + len(self._mark) if found >= 0 else None
        if self._copied is not None and _identity_of(fd) == self._copied:
            return os.fstat(fd).st_size  # what was written after the copy, and before the cut, only we have seen
        return None

    def _open_older(self, *, newest_only: bool = False) -> None:
        """Open the copies made since the last look, the oldest first; the oldest of all is what we were reading."""
        found: list[int] = []
        try:
            known = self._open_copies(found, newest_only=newest_only)
            certain = known or self._first is None or bool(self._mark)
            places = [self._place_in(fd) for fd in found] if certain else []
        except OSError:  # no descriptor left, say: the next look tries again
            _close(found)
            raise
        ours = next((number for number, place in enumerate(places) if place is not None), None)
        _close(found[: ours or 0])
        self._older = [(fd, 0) for fd in found[ours or 0 :]]
        if ours is None:
            self._say_lost()
        else:
            self._older[0] = (found[ours], places[ours] or 0)
        if self._patience is not None and sum(os.fstat(fd).st_size - at for fd, at in self._older) > self._patience:
            self.close()
            self._say_lost()

    def _open_copies(self, found: list[int], *, newest_only: bool) -> bool:
        """Put the copies that were not there at the last look into `found`; whether one that was is behind them."""
        while not (newest_only and found):
            try:
                fd = open_plain(f"{self.path}.{len(found) + 1}", os.O_RDONLY)
            except OSError:
                break
            found.insert(0, fd)
            if self._first is not None and _identity_of(fd) == self._first:
                os.close(found.pop(0))
                return True
        return False


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = open_plain(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _identity(path: str) -> _Identity | None:
    try:
        with _opened(path) as fd:
            return _identity_of(fd)
    except OSError:
        return None


def _identity_of(fd: int) -> _Identity:
    """Return what a copy is known by: numbers of files are given again, so its beginning counts too."""
    return os.fstat(fd).st_ino, os.pread(fd, _HEAD, 0)
