"""Reading a configuration file from disk, with every way that can go wrong in plain words. Judges no content."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ollamux.domain.errors import ConfigError, DeniedError, NotFoundError
from ollamux.domain.text import safe_text

LARGEST_FILE = 1024 * 1024


def read_source(path: Path) -> bytes:
    """Return the bytes of a configuration file; as root, only of one that nobody else could have written."""
    shown = safe_text(str(path))
    try:
        # Not blocking: a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is a link to nothing" if path.is_symlink() else "is not there"
        raise NotFoundError(f"{shown} {what}", hint="ollamux config path shows where files are looked for") from error
    except PermissionError as error:
        raise DeniedError(f"{shown} may not be read by this user", hint=f"chmod or chown it: ls -l {shown}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise NotFoundError(f"{shown} cannot be opened: {reason}") from error
    try:
        return _read(descriptor, path, shown)
    finally:
        os.close(descriptor)


def _read(descriptor: int, path: Path, shown: str) -> bytes:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{shown} is a folder, not a file", hint="name the file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{shown} is not an ordinary file", hint="a reload has to read it again: use a file")
    if os.geteuid() == 0:
        _refuse_foreign_writers(status, path, shown)
    chunks: list[bytes] = []
    size = 0
    try:
        while size <= LARGEST_FILE and (chunk := os.read(descriptor, 1 << 16)):
            chunks.append(chunk)
            size += len(chunk)
    except OSError as error:
        raise DeniedError(f"{shown} cannot be read: {error.strerror}") from error
    if size > LARGEST_FILE:
        raise ConfigError(f"{shown} is larger than 1 MiB; that is no ollamux configuration")
    return b"".join(chunks)


def _refuse_foreign_writers(status: os.stat_result, path: Path, shown: str) -> None:
    """Whoever writes the file decides what root runs, and whoever writes a folder above may swap the file."""
    who = foreign_writer(status)
    if who is not None:
        raise DeniedError(
            f"{shown} can be written by {who}; running as root, ollamux will not use it",
            hint=f"chown root {shown} && chmod go-w {shown}, or run ollamux as an ordinary user",
        )
    for folder in Path(os.path.realpath(path)).parents:
        who = foreign_writer(os.stat(folder))
        if who is not None:
            raise DeniedError(
                f"the folder {safe_text(str(folder))} can be written by {who}, who could swap {shown}; "
                "running as root, ollamux will not use it",
                hint="move the file to /etc/ollamux/config.toml, or run ollamux as an ordinary user",
            )


def foreign_writer(status: os.stat_result) -> str | None:
    """Say who besides root may change this file or folder, or None."""
    if status.st_uid != 0:
        return f"its owner, user {status.st_uid}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return None  # sticky, as /tmp: others cannot rename what is root's
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid != 0:
        return f"group {status.st_gid}"
    return None


def first_open_port() -> int:
    """Return the lowest port that this process may listen on."""
    if os.geteuid() == 0:
        return 1
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "rb") as file:
            return max(int(file.read(16)), 1)
    except (OSError, ValueError):
        return 1024
