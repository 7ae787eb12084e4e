"""Speak HTTP/1.1 over plain sockets: requests in, answers and streams out, one thread a connection. No routes here."""

from __future__ import annotations

import ipaddress
import select
import socket
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from urllib.parse import unquote

WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104 the user of the simulation asks for them
_REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    301: "Moved Permanently",
    307: "Temporary Redirect",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    499: "",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
# Go announces no length for a longer answer written in one go, but sends it in chunks.
_CHUNKED_ABOVE = 2048
_LINE_LIMIT = 1 << 20


class ClientGoneError(Exception):
    """The client closed its connection."""


class Request:
    """One request and the way to answer it."""

    def __init__(self, sock: socket.socket, method: str, target: str, headers: dict[str, str], client: str) -> None:
        self.method = method
        self.target = target
        path, _, self.query = target.partition("?")
        self.path = unquote(path)
        self.headers = headers
        self.body = b""
        self.client = client
        self.status = 0
        self.parameter = ""
        self._sock = sock
        self._streaming = False

    def gone(self) -> bool:
        """Say whether the client has hung up."""
        try:
            if not select.select([self._sock], [], [], 0)[0]:
                return False
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True

    @property
    def started(self) -> bool:
        """Say whether the answer has begun."""
        return self.status != 0

    def answer(self, status: int, body: bytes, content_type: str | None, **extra: str) -> None:
        """Send a whole answer."""
        self.status = status
        chunked = len(body) > _CHUNKED_ABOVE and content_type is not None and content_type.startswith("application")
        head = self._head(status, content_type, None if chunked else len(body), extra)
        if self.method == "HEAD":
            self._send(head)
        elif chunked:
            self._send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            self._send(head + body)

    def stream(self, content_type: str) -> None:
        """Begin an answer in chunks."""
        self.status = 200
        self._streaming = True
        self._send(self._head(200, content_type, None, {}))

    def chunk(self, data: bytes) -> None:
        """Send one chunk."""
        self._send(b"%x\r\n%s\r\n" % (len(data), data))

    def finish(self) -> None:
        """End a stream, if there is one."""
        if self._streaming:
            self._streaming = False
            self._send(b"0\r\n\r\n")

    def _head(self, status: int, content_type: str | None, length: int | None, extra: dict[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}".rstrip() + ("" if status != 499 else " ")]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in extra.items() if name == "Allow"]
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in extra.items() if name != "Allow"]
        lines.append(f"Date: {formatdate(usegmt=True)}")
        lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise ClientGoneError from error


Handle = Callable[[Request], None]


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen as a Go server does: SO_REUSEADDR, and both families for a wildcard."""
    wildcard = host in WILDCARDS
    family = socket.AF_INET6 if wildcard or ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if wildcard else 1)
        sock.bind(("::" if wildcard else host, port))
        sock.listen(4096)
    except BaseException:
        sock.close()
        raise
    return sock


class Server:
    """Serve a listening socket until closed. `handle` runs once for each request."""

    def __init__(self, sock: socket.socket, handle: Handle) -> None:
        self.sock = sock
        self.handle = handle
        self.open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Accept connections until the socket is closed."""
        while True:
            try:
                sock, peer = self.sock.accept()
            except OSError:
                return
            with self._lock:
                self.open.add(sock)
            threading.Thread(target=self._connection, args=(sock, _client(peer)), daemon=True).start()

    def close(self) -> None:
        """Refuse new connections and cut the open ones, all at once."""
        _shut(self.sock)
        with self._lock:
            for sock in self.open:
                _shut(sock)

    def stop_listening(self) -> None:
        """Free the port; open connections stay."""
        _shut(self.sock)
        self.sock.close()

    def _connection(self, sock: socket.socket, client: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for request in _requests(sock, client):
                self.handle(request)
                request.finish()
        except (ClientGoneError, OSError):
            pass
        finally:
            with self._lock:
                self.open.discard(sock)
            sock.close()


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _client(peer: tuple[object, ...]) -> str:
    host = str(peer[0])
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _requests(sock: socket.socket, client: str) -> Iterator[Request]:
    with sock.makefile("rb") as reader:
        while True:
            line = reader.readline(_LINE_LIMIT)
            if not line.strip():
                if not line:
                    return
                continue
            parts = line.decode("latin-1").split()
            if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")
                return
            headers = _headers(reader.readline)
            request = Request(sock, parts[0], parts[1], headers, client)
            if headers.get("expect", "").lower() == "100-continue":
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.body = read_body(reader.readline, reader.read, headers)
            yield request
            if headers.get("connection", "").lower() == "close" or parts[2] == "HTTP/1.0":
                return


def _headers(readline: Callable[[int], bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    while (line := readline(_LINE_LIMIT)).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def read_body(readline: Callable[[int], bytes], read: Callable[[int], bytes], headers: dict[str, str]) -> bytes:
    """Read a body of known length, or one in chunks."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return read(int(headers.get("content-length") or 0))
    return b"".join(chunks(readline, read))


def chunks(readline: Callable[[int], bytes], read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Read chunk after chunk; EOFError where the stream breaks off."""
    while True:
        line = readline(_LINE_LIMIT)
        if not line:
            raise EOFError
        size = int(line.split(b";")[0] or b"0", 16)
        data = read(size)
        if len(data) < size or not readline(_LINE_LIMIT):
            raise EOFError
        if size == 0:
            return
        yield data


class Reply:
    """What a server answered to our own small client."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")
        line = self._reader.readline(_LINE_LIMIT)
        if not line:
            raise EOFError
        self.status = int(line.split()[1])
        self.headers = _headers(self._reader.readline)

    def read(self) -> bytes:
        """Read the whole body."""
        return read_body(self._reader.readline, self._reader.read, self.headers)

    def lines(self) -> Iterator[bytes]:
        """Read a body in chunks of whole lines."""
        for data in chunks(self._reader.readline, self._reader.read):
            yield from data.splitlines(keepends=False)

    def close(self) -> None:
        """Hang up."""
        _shut(self._sock)
        self._reader.close()
        self._sock.close()


def ask(
    address: tuple[str, int], method: str, path: str, body: bytes = b"", *, timeout_s: float | None = None
) -> Reply:
    """Send a request and return the answer as soon as its head is there."""
    sock = socket.create_connection(address, timeout=timeout_s)
    try:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{address[1]}\r\nContent-Length: {len(body)}\r\n"
        sock.sendall(head.encode() + b"Content-Type: application/json\r\nConnection: close\r\n\r\n" + body)
        return Reply(sock)
    except BaseException:
        sock.close()
        raise
