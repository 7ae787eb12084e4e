"""Private folders, atomic writes and the lock: what makes files on disk trustworthy."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

from ollamux.domain.errors import DeniedError, OllamuxError, RefusedError

_UNKNOWN_OWNER = 65534
"""What the kernel says of a file whose owner does not exist in this container (user_namespaces(7))."""
DRAFT = ".new"
"""What is being written has this at its end, behind the number of the writer."""


def private_dir(path: str) -> None:
    """Make a folder 0700 that is ours, or refuse: a folder others can write is no place for a control socket.

    Raises DeniedError where it is a link, somebody else's, or open to others; OllamuxError where it cannot be made.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        found = os.lstat(path)
    except OSError as error:
        raise folder_error(path, error) from None
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a folder"
        raise DeniedError(f"{path} is {kind}", hint="remove it, or name another place in the environment")
    if found.st_uid != os.getuid():
        raise DeniedError(
            f"{path} belongs to another user (uid {found.st_uid})", hint="remove it, or use another place"
        )
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise DeniedError(f"{path} can be written by others", hint=f"chmod go-w {path}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(path, 0o700)


def folder_error(path: str, error: OSError) -> OllamuxError:
    """Say in plain words why a folder or a file in it cannot be used."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DeniedError(f"cannot write {path}: {error.strerror}", hint="check who owns the folder")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OllamuxError(f"cannot write {path}: no space left", hint="free some space on that disk")
    above = _no_folder_above(path)
    if above is not None:
        return DeniedError(
            f"cannot make {path}: {above} is not a folder",
            hint="OLLAMUX_STATE_DIR, OLLAMUX_LOG_DIR and OLLAMUX_RUNTIME_DIR say where ollamux keeps its files",
        )
    return OllamuxError(f"cannot write {path}: {error.strerror}")


def replaceable_by(path: str) -> tuple[str, str] | None:
    """Return (place, who) where somebody besides root and ourselves could put another file at this path, or None."""
    real = os.path.realpath(path)
    places = [os.path.dirname(path), real]
    while real != "/":
        real = os.path.dirname(real)
        places.append(real)
    for place in dict.fromkeys(places):
        try:
            who = _foreign_writer(os.stat(place))
        except OSError:
            continue
        if who is not None:
            return place, who
    return None


def _foreign_writer(found: os.stat_result) -> str | None:
    if found.st_uid not in (0, os.geteuid(), _UNKNOWN_OWNER):
        return f"its owner, user {found.st_uid},"
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return None  # as /tmp: nobody can rename what belongs to another
    if found.st_mode & stat.S_IWOTH:
        return "everybody"
    if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
        return _group_of_others(found.st_gid)
    return None


def _group_of_others(gid: int) -> str | None:
    """Name a group that somebody else is in: many systems give each user, and staff, a group that nobody else joins."""
    import grp  # only where a group may write
    import pwd

    try:
        group = grp.getgrgid(gid)
        ourselves = {pwd.getpwuid(os.geteuid()).pw_name}
    except KeyError:
        return None
    return f"the group {group.gr_name}" if set(group.gr_mem) - ourselves else None


def _no_folder_above(path: str) -> str | None:
    """Return what stands in the way of a folder: the nearest thing above it that is there and is none."""
    above = os.path.dirname(path)
    while above not in ("", "/") and not os.path.lexists(above):
        above = os.path.dirname(above)
    return above if above and os.path.lexists(above) and not os.path.isdir(above) else None


def open_plain(path: str, flags: int, mode: int = 0o600, *, follow: bool = False) -> int:
    """Open a plain file and nothing else. Raises OSError.

    A FIFO, say, would hold up whoever opens or reads it until somebody writes. A link is an error unless it is to be
    followed: our own files are none.
    """
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags, mode)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a FIFO that nobody reads
            raise
        raise OSError(errno.EINVAL, "not a plain file", path) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file", path)
    os.set_blocking(fd, True)
    return fd


def write_atomic(path: str, data: bytes, *, mode: int = 0o600, sync: bool = False) -> None:
    """Replace a file as a whole, so that a reader sees the old or the new content, never a part.

    With `sync` the content survives a power cut. Raises OSError.
    """
    temporary = f"{path}.{os.getpid()}{DRAFT}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    if sync:
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sweep_drafts(folder: str) -> None:
    """Remove what `write_atomic` left unfinished in a folder of ours: plain files whose writer is no more."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                writer = entry.name.removesuffix(DRAFT).rpartition(".")[2]
                if not entry.name.endswith(DRAFT) or not (writer.isascii() and writer.isdigit()):
                    continue
                ours = entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.getuid()
                if ours and not os.path.exists(f"/proc/{writer}"):
                    os.unlink(entry.path)
    except OSError:
        pass  # it is only untidy


def read_bounded(path: str, limit: int) -> bytes | None:
    """Return a small file's content, or None where it is missing, unreadable or larger than the limit in bytes."""
    try:
        fd = open_plain(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        data = bytearray()
        while chunk := os.read(fd, min(65536, limit + 1 - len(data))):
            data += chunk
            if len(data) > limit:
                return None
        return bytes(data)
    except OSError:
        return None
    finally:
        os.close(fd)


def is_locked(path: str) -> bool:
    """Whether somebody holds a lock.

    Looks through a shared lock of its own, so that ten who look at once do not take each other for the holder.
    """
    try:
        fd = open_plain(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks; the supervisor will say so
    finally:
        os.close(fd)
    return False


class Lock:
    """The lock that says who is *the* supervisor. Held for life; its file is never removed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def take(self) -> bool:
        """Take the lock if nobody holds it. Raises RefusedError or DeniedError where the file is not usable."""
        try:
            fd = open_plain(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.EINVAL):
                raise RefusedError(f"{self.path} is not a plain file", hint="remove it and try again") from None
            raise folder_error(self.path, error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        with suppress(OSError):  # a full disk: the number is for display only, the lock is held all the same
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return True

    def inherit(self, fd: int) -> None:
        """Go on with a descriptor that the program before this one had locked. Raises RefusedError."""
        held, self._fd = self._fd, fd
        if not self.is_in_place():
            self._fd = held
            raise RefusedError(f"{self.path} is not the file that was locked any more")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.set_inheritable(fd, False)

    def is_in_place(self) -> bool:
        """Whether the file that was locked is still the one at the path, where others look for it."""
        try:
            held, there = os.fstat(self._fd), os.lstat(self.path)
        except OSError:
            return False
        return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)

    def put_back(self) -> bool:
        """Lock the file that is at the path by now, made anew where there is none; False where another holds it."""
        before = self._fd
        if not self.take():
            return False
        os.close(before)
        return True

    def fileno(self) -> int:
        """Return the locked descriptor."""
        return self._fd

    def holder(self) -> int | None:
        """Return the pid that the holder wrote, for display only."""
        text = (read_bounded(self.path, 64) or b"").decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
