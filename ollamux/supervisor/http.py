"""Ask one server one thing over HTTP, on the loop, within a deadline. h11 parses; nothing here trusts an answer.

No proxies, no redirects, no keep-alive, a bounded body.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

import h11

from ollamux.system.clock import monotonic
from ollamux.system.loop import Loop

LARGEST_BODY = 4 << 20


class Answer(NamedTuple):
    """What came back. `status` is None where no answer came, and `error` then says why, in plain words.

    `silent`: the port is open, but nothing at all came within the time.
    """

    status: int | None
    body: bytes
    error: str | None
    seconds: float
    silent: bool


Done = Callable[[Answer], None]


class Request:
    """One request under way. `done` is called exactly once, unless it is cancelled before.

    With `piece` a good answer is not kept but handed on as it comes, and the time starts anew with each piece of it.
    """

    def __init__(
        self,
        loop: Loop,
        address: tuple[str, int],
        target: str,
        *,
        timeout_s: float,
        done: Callable[[Answer], None],
        body: bytes | None = None,
        piece: Callable[[bytes], None] | None = None,
    ) -> None:
        self._loop = loop
        self._piece = piece
        self._done: Callable[[Answer], None] | None = done
        self._began = monotonic()
        self._connected = False
        self._silent = False
        self._status: int | None = None
        self._body = bytearray()
        host, port = address
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=65536)
        self._out = self._encode(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", target, body)
        self._timer = loop.call_later(timeout_s, self._too_late)
        self._timeout_s = timeout_s
        result = self._socket.connect_ex((host, port))
        if result in (0, errno.EINPROGRESS):
            loop.watch(self._socket.fileno(), write=self._writable)
        else:
            loop.call_soon(lambda: self._finish(error=_plain(result)))

    def _encode(self, host: str, target: str, body: bytes | None) -> bytes:
        headers = [("Host", host), ("User-Agent", "ollamux"), ("Accept", "application/json"), ("Connection", "close")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        method = "GET" if body is None else "POST"
        data = self._peer.send(h11.Request(method=method, target=target, headers=headers)) or b""
        if body is not None:
            data += self._peer.send(h11.Data(data=body)) or b""
        return data + (self._peer.send(h11.EndOfMessage()) or b"")

    def cancel(self) -> None:
        """Give up without an answer."""
        self._done = None
        self._close()

    def _writable(self) -> None:
        if not self._connected:
            failed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                self._finish(error=_plain(failed))
                return
            self._connected = True
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(error=_plain(error.errno or 0))
            return
        self._out = self._out[sent:]
        if not self._out:
            self._loop.watch(self._socket.fileno(), read=self._readable)

    def _readable(self) -> None:
        try:
            self._peer.receive_data(self._socket.recv(65536))
            while True:
                event = self._peer.next_event()
                if event is h11.NEED_DATA:
                    return
                if isinstance(event, h11.Response):
                    self._status = event.status_code
                elif isinstance(event, h11.Data) and self._piece is not None and self._status == 200:
                    self._hand_on(self._piece, bytes(event.data))
                    if self._done is None:
                        return
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > LARGEST_BODY:
                        self._finish(error="the answer is endless")
                        return
                elif isinstance(event, h11.EndOfMessage):
                    self._finish()
                    return
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    self._finish(error="the connection was closed without an answer")
                    return
        except BlockingIOError:
            return
        except h11.RemoteProtocolError:
            self._finish(error="the answer is not HTTP" if self._status is None else "the answer broke off")
        except OSError as error:
            self._finish(error=_plain(error.errno or 0))

    def _hand_on(self, piece: Callable[[bytes], None], data: bytes) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(self._timeout_s, self._too_late)
        piece(data)

    def _too_late(self) -> None:
        waited = f"{self._timeout_s:g} s"
        if self._status is not None:
            self._finish(error=f"the answer was not complete after {waited}")
        elif self._connected:
            self._silent = True
            self._finish(error=f"connected, but no answer within {waited}")
        else:
            self._finish(error=f"no connection within {waited}")

    def _finish(self, *, error: str | None = None) -> None:
        done, self._done = self._done, None
        self._close()
        if done is not None:
            status = self._status if error is None else None
            done(Answer(status, bytes(self._body), error, monotonic() - self._began, self._silent))

    def _close(self) -> None:
        self._timer.cancel()
        if self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()


def _plain(number: int) -> str:
    if number == errno.ECONNREFUSED:
        return "nothing listens on the port"
    if number == errno.ECONNRESET:
        return "the connection was reset"
    return os.strerror(number).lower()


def probe_host(host: str) -> str:
    """Return the address at which a server bound to `host` is asked: wildcards are asked on loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
