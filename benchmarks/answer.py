"""Ask whether a port answers: plain HTTP on a bare socket, for the harness must be cheaper than what it times."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable

from benchmarks.errors import BenchError

POLL_S = 0.0001
_LOOK_EVERY = 500
_REQUEST = b"GET /api/version HTTP/1.1\r\nHost: bench\r\n\r\n"
_PID = b"\r\nX-Bench-Pid: "


def answering(port: int) -> int | None:
    """Return the pid of the server that answers there with 200; None where nobody does."""
    try:
        with socket.socket() as connection:
            connection.settimeout(2.0)
            connection.connect(("127.0.0.1", port))
            connection.sendall(_REQUEST)
            head = connection.recv(4096)
    except OSError:
        return None
    if not head.startswith(b"HTTP/1.1 200 "):
        return None
    return int(head.partition(_PID)[2].partition(b"\r\n")[0])


def wait_for(port: int, *, check: Callable[[], None], other_than: int = 0, within_s: float = 60.0) -> int:
    """Wait until a port is answered by another process than a known one; return its pid.

    `check` is called now and then while nobody answers, to raise where waiting has become pointless.
    """
    deadline = time.perf_counter() + within_s
    tries = 0
    while (pid := answering(port)) is None or pid == other_than:
        tries += 1
        if tries % _LOOK_EVERY == 0:
            check()
            if time.perf_counter() > deadline:
                raise BenchError(f"port {port} did not answer within {within_s:.0f} s")
        time.sleep(POLL_S)
    return pid


def wait_for_all(ports: Iterable[int], *, check: Callable[[], None], within_s: float = 60.0) -> None:
    """Wait until every port has answered once."""
    for port in ports:
        wait_for(port, check=check, within_s=within_s)
