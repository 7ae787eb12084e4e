"""Requests to servers that are sent at the same moment, each in a thread, and timed. It knows of no supervisor."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ollamux.domain.bench import Request
from ollamux.ollama.api import LONGEST_BODY
from ollamux.ollama.loading import error_of
from ollamux.ollama.stream import GENERATE, GenerateStream
from ollamux.system.clock import monotonic

CONNECT_S = 10.0
_JOIN_S = 2.0
_HEADERS = {"Content-Type": "application/json", "User-Agent": "ollamux-bench"}


def exchange(url: str, method: str, path: str, body: Any = None, *, timeout_s: float) -> tuple[int, bytes]:
    """Ask a server something small; return the status and the body of its answer. Raises OSError."""
    connection = _connection(url, timeout_s)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), _HEADERS)
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST_BODY)
    except http.client.HTTPException as error:
        raise OSError(None, f"the answer is not HTTP: {type(error).__name__}") from None
    finally:
        connection.close()


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One request to be sent: to which instance, which server, with which number and body."""

    instance: str
    url: str
    number: int
    body: bytes


class Volley:
    """Requests that are sent together. Whoever waits for them calls `wait` again and again."""

    def __init__(self, shots: Sequence[Shot], *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._go = threading.Event()
        self._ended = threading.Semaphore(0)
        self._left = len(shots)
        self._calls = [_Call(shot, self._go, self._ended) for shot in shots]
        for call in self._calls:
            call.thread.start()
        self._began = monotonic()
        self._go.set()

    def wait(self, moment_s: float) -> bool:
        """Wait a moment; say whether all have ended. Requests whose time is up are cut."""
        if self._left and self._ended.acquire(timeout=moment_s):
            self._left -= 1
            while self._left and self._ended.acquire(blocking=False):
                self._left -= 1
        if self._left and monotonic() - self._began > self._timeout_s:
            self.cut(f"no answer within {self._timeout_s:g} s")
        return self._left == 0

    def cut(self, reason: str) -> None:
        """Hang up on all that go on: their servers stop generating."""
        for call in self._calls:
            call.cut(reason)
        for call in self._calls:
            call.thread.join(_JOIN_S)

    def requests(self) -> tuple[Request, ...]:
        """Return what came of each."""
        return tuple(call.outcome(self._began) for call in self._calls)


class _Call:
    """One request in its thread."""

    def __init__(self, shot: Shot, go: threading.Event, ended: threading.Semaphore) -> None:
        self._shot = shot
        self._go = go
        self._finished = ended
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut: str | None = None
        self._stream = GenerateStream()
        self._sent_at: float | None = None
        self._ended_at: float | None = None
        self._error: str | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def cut(self, reason: str) -> None:
        with self._lock:
            if self._ended_at is None and self._cut is None:
                self._cut = reason
                if self._socket is not None:
                    try:
                        self._socket.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass  # it has ended by itself

    def outcome(self, began: float) -> Request:
        sent_at = began if self._sent_at is None else self._sent_at
        ended_at = monotonic() if self._ended_at is None else self._ended_at
        first_at = self._stream.first_at
        error = self._cut or self._stream.error or self._error
        return Request(
            instance=self._shot.instance,
            number=self._shot.number,
            sent_s=round(sent_at - began, 6),
            first_token_s=None if first_at is None else round(first_at - began, 6),
            ended_s=round(ended_at - began, 6),
            error=error,
            **self._stream.told,
        )

    def _run(self) -> None:
        self._go.wait()
        self._sent_at = monotonic()
        connection = _connection(self._shot.url, CONNECT_S)
        try:
            self._ask(connection)
        except http.client.IncompleteRead:
            self._error = "the server broke off in the middle of its answer"
        except http.client.RemoteDisconnected:
            self._error = "the server went away without an answer"
        except http.client.HTTPException as error:
            self._error = f"the answer is not HTTP: {type(error).__name__}"
        except OSError as error:
            self._error = os.strerror(error.errno) if error.errno else str(error) or "it could not be asked"
        finally:
            with self._lock:
                self._ended_at = monotonic()
            connection.close()
            self._finished.release()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        connection.connect()
        with self._lock:
            self._socket = connection.sock
            if self._cut is not None:
                return
        connection.sock.settimeout(None)  # whoever waits for us counts the time
        connection.request("POST", GENERATE, self._shot.body, _HEADERS)
        answer = connection.getresponse()
        if answer.status != 200:
            self._error = error_of(answer.status, answer.read(LONGEST_BODY))
            return
        while data := answer.read1(65536):
            self._stream.feed(data, monotonic())
        self._stream.end(monotonic())
