"""Write what the server says: log lines on stderr, access lines on stdout, in the recorded formats.

A Go program dies of SIGPIPE when it writes to a broken stdout or stderr, and so does this one.
"""

from __future__ import annotations

import os
import select
import signal
import threading

from ollamux.simulation.eras import Era
from ollamux.simulation.golang import SECOND, duration_text, log_time, log_value, now_ns, quote, rfc3339

DEBUG, INFO, WARN, ERROR = -4, 0, 4, 8
_LEVELS = {-8: "TRACE", DEBUG: "DEBUG", INFO: "INFO", WARN: "WARN", ERROR: "ERROR"}


def write_all(fd: int, data: bytes) -> None:
    """Write all of it; a broken pipe ends this program as it ends a Go one."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BrokenPipeError:
            die_of_broken_pipe()


def die_of_broken_pipe() -> None:
    """End by SIGPIPE, from whatever thread."""
    # signal.signal works in the main thread only, and Python ignores SIGPIPE from the start on.
    import ctypes  # rarely needed, and it makes every start slower

    libc = ctypes.CDLL(None, use_errno=True)
    libc.signal(int(signal.SIGPIPE), 0)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(141)


class Log:
    """The log of one server."""

    def __init__(self, era: Era, level: int = INFO) -> None:
        self.era = era
        self.level = level
        self.disk_full = False
        self.failed = False
        self._lock = threading.Lock()
        self._access_lock = threading.Lock()

    def write(self, level: int, place: str, message: str, **values: object) -> None:
        """Write one line; `place` names the line in ollama's source that says it."""
        if level < self.level:
            return
        source = self.era.sources.get(place, place)
        pairs = "".join(f" {_key(name)}={log_value(value)}" for name, value in values.items())
        when = log_time(now_ns())
        line = f"time={when} level={_LEVELS[level]} source={source} msg={log_value(message)}{pairs}\n"
        self.raw(line.encode("utf-8", "surrogateescape"))

    def info(self, place: str, message: str, **values: object) -> None:
        """Write an INFO line."""
        self.write(INFO, place, message, **values)

    def warning(self, place: str, message: str, **values: object) -> None:
        """Write a WARN line."""
        self.write(WARN, place, message, **values)

    def raw(self, data: bytes) -> None:
        """Copy bytes to stderr, as the output of a runner is. A full disk swallows them."""
        if self.disk_full:
            self.failed = True
            return
        with self._lock:
            try:
                write_all(2, data)
            except OSError:
                self.failed = True

    def access(self, status: int, took_ns: int, client: str, method: str, path: str, *, wait: bool = True) -> None:
        """Write an access line; without `wait` only where the reader of stdout takes it at once."""
        if took_ns > 60 * SECOND:
            took_ns -= took_ns % SECOND
        when = rfc3339(now_ns())
        day, clock = when[:10].replace("-", "/"), when[11:19]
        took = duration_text(took_ns)
        line = f"[GIN] {day} - {clock} | {status:3d} | {took:>13} | {client:>15} | {method:<7}  {quote(path)}\n"
        data = line.encode()
        if not wait:
            if not select.select([], [1], [], 0)[1] or not self._access_lock.acquire(blocking=False):
                return
            write_all(1, data)
            return
        with self._access_lock:
            try:
                write_all(1, data)
            except OSError:
                # Recorded: stdout on a full disk has no effect.
                pass


def _key(name: str) -> str:
    text = name.replace("__", " ")
    return quote(text) if " " in text else text
