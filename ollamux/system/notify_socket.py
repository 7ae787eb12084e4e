"""Speak to the service manager that started us (sd_notify(3)). Knows no words of its own, and never waits.

A manager may be gone, busy or somebody else's: that nobody listens is no reason for a supervisor to stumble.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass, field

_PASSED_BY_MANAGER = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "FDSTORE"),
    *("INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MANAGERPID", "CREDENTIALS_DIRECTORY"),
    *("MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerEnv:
    """What a service manager told this process through its environment.

    `address` is where it listens. `watchdog_s` is how long it lets us be silent. `variables` are all that were
    taken out, for a program that takes this process over.
    """

    address: str | None = None
    watchdog_s: float | None = None
    variables: tuple[tuple[str, str], ...] = field(default=(), repr=False)


NO_MANAGER = ManagerEnv()


def take_manager_env(env: MutableMapping[str, str], *, pid: int) -> ManagerEnv:
    """Take out of an environment what is meant for this process alone, so that no child inherits it."""
    taken = {name: value for name in _PASSED_BY_MANAGER if (value := env.pop(name, None)) is not None}
    return ManagerEnv(
        address=taken.get("NOTIFY_SOCKET"), watchdog_s=_watchdog_s(taken, pid), variables=tuple(taken.items())
    )


def _watchdog_s(taken: MutableMapping[str, str], pid: int) -> float | None:
    if taken.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None  # somebody else is watched, and we have only inherited the word
    usec = taken.get("WATCHDOG_USEC", "")
    return int(usec) / 1e6 if usec.isascii() and usec.isdigit() and 0 < int(usec) < 1 << 63 else None


def notify(address: str, *words: str) -> bool:
    """Send assignments such as "READY=1" in one datagram; False where it did not arrive. Never raises, never blocks."""
    if address[:1] not in ("/", "@"):
        return False
    path = b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            data = "\n".join(words).encode("utf-8", "replace")
            out.sendto(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, path)
    except (OSError, ValueError):
        return False
    return True
