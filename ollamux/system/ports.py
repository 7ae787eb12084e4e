"""Is a TCP port free for a server, and if not, who holds it? Touches nothing of the holder."""

from __future__ import annotations

import errno
import os
import socket
from typing import NamedTuple

from ollamux.system import procs

_LISTEN = b"0A"


class Holder(NamedTuple):
    """Who listens on a port. `pid` and `name` are None where the kernel shows us only the user."""

    pid: int | None
    name: str | None
    user: str

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of user {self.user}"
        return f"pid {self.pid} ({self.name}, user {self.user})"


def obstacle(host: str, port: int) -> OSError | None:
    """Return why a server could not listen there now, or None where it could.

    Binds with SO_REUSEADDR as the server itself does: without it a port that was just left counts as taken.
    """
    wildcard = host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    family = socket.AF_INET6 if ":" in host or wildcard else socket.AF_INET
    try:
        probe = socket.SocketType(family, socket.SOCK_STREAM)  # every restart waits for this: no layer above it
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if wildcard:
                # ollama listens on both families for 0.0.0.0 too (seen on 0.24.0 and 0.32.15).
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::" if wildcard else host, port))
            return None
        finally:
            probe.close()
    except OSError as error:
        if wildcard and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return obstacle("127.0.0.1", port)  # a machine without IPv6
        return error


def listeners(host: str, port: int) -> list[tuple[int, int]]:
    """Return (inode, uid) of every socket listening there, wildcards that cover the address included."""
    found: list[tuple[int, int]] = []
    ends_with = b":%04X" % port
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, "rb") as table:
                for line in table:
                    fields = line.split()
                    if len(fields) < 10 or fields[3] != _LISTEN or not fields[1].endswith(ends_with):
                        continue
                    if _covers(fields[1].split(b":")[0], host):
                        found.append((int(fields[9]), int(fields[7])))
        except OSError:
            continue
    return found


def _covers(encoded: bytes, host: str) -> bool:
    raw = bytes.fromhex(encoded.decode())
    address = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    if not any(address) or host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return True
    if address[:12] == b"\0" * 10 + b"\xff\xff":
        address = address[12:]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return address == socket.inet_pton(family, host)


def owns(pids: list[int], sockets: list[tuple[int, int]]) -> bool:
    """Whether one of the processes holds one of the listening sockets."""
    wanted = {f"socket:[{inode}]" for inode, _ in sockets}
    return any(_holds(pid, wanted) for pid in pids)


def holder(host: str, port: int) -> Holder | None:
    """Return who listens there, as far as the kernel shows it to us."""
    sockets = listeners(host, port)
    if not sockets:
        return None
    wanted = {f"socket:[{inode}]" for inode, _ in sockets}
    user = procs.user_name(sockets[0][1])
    for pid in procs.pids():
        if _holds(pid, wanted):
            seen = procs.stat(pid)
            return Holder(pid=pid, name=seen.comm if seen else None, user=user)
    return Holder(pid=None, name=None, user=user)


def _holds(pid: int, wanted: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}") in wanted:
                return True
        except OSError:
            continue
    return False
