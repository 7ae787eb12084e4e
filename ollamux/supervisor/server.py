"""The control socket: private, bounded, and served on the loop. What a request means is decided elsewhere."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ollamux.domain.errors import OllamuxError, RefusedError
from ollamux.protocol.client import LONGEST_LINE, PROTOCOL
from ollamux.system.files import folder_error, private_dir
from ollamux.system.loop import Loop, Timer
from ollamux.system.places import LONGEST_SOCKET_PATH, SOCKET_NAME

if TYPE_CHECKING:
    from ollamux.supervisor.carried import CarriedClient, Listener

MOST_CLIENTS = 32
MOST_WAITING = 256
SEND_WITHIN_S = 5.0
ACCEPT_AGAIN_S = 1.0
_MOST_UNSENT = 8 << 20


class Client:
    """One connection. `answer` may be called once, at any later time; `gone` says that nobody waits any more."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._in = bytearray()
        self._out = b""
        self.asked = False
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.waits: dict[str, Any] | None = None
        """What it waits for, for the program that takes our place; see `requests`."""
        self._timer: Timer = server.loop.call_later(SEND_WITHIN_S, self._too_slow)
        server.loop.watch(connection.fileno(), read=self._readable)

    @property
    def answered(self) -> bool:
        """Whether an answer is on its way, if it is not gone already."""
        return bool(self._out)

    def carried(self) -> CarriedClient:
        """Return what the program that takes our place needs in order to go on."""
        from ollamux.supervisor.carried import CarriedClient

        received, unsent = self._in.decode("latin-1"), self._out.decode("latin-1")
        fd = self._socket.fileno()
        return CarriedClient(fd=fd, asked=self.asked, received=received, unsent=unsent, waits=self.waits)

    def go_on(self, carried: CarriedClient) -> None:
        """Go on from where the program before this one was."""
        self.asked, self.waits = carried.asked, carried.waits
        self._in, self._out = bytearray(carried.received, "latin-1"), carried.unsent.encode("latin-1")
        if self._out:
            self._timer.cancel()
            self._timer = self._server.loop.call_later(SEND_WITHIN_S, self.close)
            self._writable()

    def answer(self, reply: dict[str, Any]) -> None:
        """Send an object and close."""
        self.answer_bytes(json.dumps(reply, ensure_ascii=False).encode() + b"\n")

    def answer_bytes(self, data: bytes) -> None:
        """Send finished bytes and close."""
        self.waits = None
        if self.gone or len(data) > _MOST_UNSENT:
            self.close()
            return
        self._out = data
        self._timer = self._server.loop.call_later(SEND_WITHIN_S, self.close)
        self._writable()

    def refuse(self, error: OllamuxError) -> None:
        """Send an error and close."""
        self.answer(
            {"v": PROTOCOL, "ok": False, "exit": int(error.exit_code), "message": error.message, "hint": error.hint}
        )

    def _too_slow(self) -> None:
        if not self.asked:
            self.close()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self.asked:
            if not data and self._hung_up():
                self.close()
            elif not data:  # it will say no more, but still waits for the answer
                self._server.loop.unwatch(self._socket.fileno())
            return  # one request a connection; what follows it is not read
        if not data:
            self.close()
            return
        self._in += data
        line, newline, _ = self._in.partition(b"\n")
        if newline:
            self.asked = True
            self._timer.cancel()
            self._server.requested(self, bytes(line))
        elif len(self._in) > LONGEST_LINE:
            self.close()

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._socket.fileno(), 0)
        return any(found & select.POLLHUP for _, found in poll.poll(0))

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._out = self._out[sent:]
        if self._out:
            self._server.loop.watch(self._socket.fileno(), write=self._writable)
        else:
            self.close()

    def close(self) -> None:
        """Hang up."""
        if self.gone:
            return
        self.gone = True
        self._timer.cancel()
        self._server.loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._server.forget(self)
        if self.on_gone is not None:
            self.on_gone()


class Server:
    """Listens at the first usable place. `handle` gets a client and its decoded request."""

    def __init__(
        self,
        loop: Loop,
        places: Callable[[], tuple[str, ...]],
        *,
        handle: Callable[[Client, dict[str, Any]], None],
        bound: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self._bound = bound
        self._places = places
        self._handle = handle
        self._socket: socket.socket | None = None
        self._inode = 0
        self._clients: list[Client] = []
        self.path = ""

    def listen(self) -> None:
        """Bind the socket at the first usable place, 0600 in a 0700 folder, so that nobody else can ever connect.

        Raises OllamuxError, with what is wrong with the first place, where none is usable.
        """
        refused: OllamuxError | None = None
        for folder in self._places():
            try:
                self._listen_at(folder)
            except OllamuxError as error:
                refused = refused or error
                continue
            return
        if refused is not None:
            raise refused

    def carried(self) -> tuple[Listener | None, tuple[CarriedClient, ...]]:
        """Return the listening socket and all connections, for the program that takes our place."""
        from ollamux.supervisor.carried import Listener

        clients = tuple(client.carried() for client in self._clients)
        if self._socket is None:
            return None, clients
        return Listener(fd=self._socket.fileno(), path=self.path, inode=self._inode), clients

    def take_over(self, listener: Listener | None, clients: tuple[CarriedClient, ...]) -> list[Client]:
        """Go on with the sockets of the program before this one; return the connections."""
        if listener is None:
            self.listen()
        else:
            os.set_inheritable(listener.fd, False)
            self._socket = socket.socket(fileno=listener.fd)
            self.path, self._inode = listener.path, listener.inode
            self.loop.watch(listener.fd, read=self._accept)
        for carried in clients:
            os.set_inheritable(carried.fd, False)
            connection = socket.socket(fileno=carried.fd)
            connection.setblocking(False)
            self._clients.append(Client(self, connection))
            self._clients[-1].go_on(carried)
        return list(self._clients)

    def _listen_at(self, folder: str) -> None:
        private_dir(folder)
        path = f"{folder}/{SOCKET_NAME}"
        if len(os.fsencode(path)) + 5 > LONGEST_SOCKET_PATH:
            raise OllamuxError(
                f"the path of the control socket is longer than {LONGEST_SOCKET_PATH - 5} bytes: {path}",
                hint="set OLLAMUX_RUNTIME_DIR to a shorter path",
            )
        _refuse_other_kinds(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        temporary = f"{path}.new"
        before = os.umask(0o177)
        try:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            listener.bind(temporary)
            os.chmod(temporary, 0o600)
            listener.listen(MOST_CLIENTS)
            os.rename(temporary, path)
        except OSError as error:
            listener.close()
            raise folder_error(path, error) from None
        finally:
            os.umask(before)
        self._stop_listening()
        self._socket, self.path = listener, path
        self._inode = os.stat(path).st_ino
        self._bound(path)
        self.loop.watch(listener.fileno(), read=self._accept)

    def look_after(self) -> None:
        """Bind again where the socket's file was removed or replaced, at the place that is the first usable one now.

        A login's runtime folder goes with its last session. Raises OllamuxError; then the next look tries again.
        """
        try:
            present = os.lstat(self.path).st_ino
        except OSError:
            present = -1
        if present != self._inode and self._socket is not None:
            self.listen()

    def _stop_listening(self) -> None:
        if self._socket is not None:
            self.loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _accept(self) -> None:
        assert self._socket is not None  # noqa: S101 - watched only while it is open
        while True:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptors left. Whoever waits keeps the socket readable: look away for a while, do not spin.
                self.loop.unwatch(self._socket.fileno())
                self.loop.call_later(ACCEPT_AGAIN_S, self._look_again)
                return
            connection.setblocking(False)
            if not _may_ask(connection):
                connection.close()
                continue
            silent = [client for client in self._clients if not client.asked]
            if len(silent) >= MOST_CLIENTS:
                silent[0].close()
            if len(self._clients) >= MOST_WAITING:
                connection.close()
                continue
            self._clients.append(Client(self, connection))

    def _look_again(self) -> None:
        if self._socket is not None:
            self.loop.watch(self._socket.fileno(), read=self._accept)

    def requested(self, client: Client, line: bytes) -> None:
        """Decode a request and pass it on."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError):
            client.refuse(OllamuxError("the request is not a JSON object"))
            return
        if request.get("v") != PROTOCOL:
            error = RefusedError(
                f"the supervisor speaks protocol {PROTOCOL}, the command speaks {request.get('v')!r}",
                hint=f"they are of different versions: kill {os.getpid()} ends this one as ollamux down does; "
                "then: ollamux up",
            )
            client.refuse(error)
            return
        try:
            self._handle(client, request)
        except OllamuxError as error:
            client.refuse(error)
        except Exception:
            client.refuse(OllamuxError("internal error in the supervisor; ollamux events has it"))
            raise

    def forget(self, client: Client) -> None:
        """Drop a client that is gone."""
        if client in self._clients:
            self._clients.remove(client)

    def close(self) -> None:
        """Stop listening and remove the socket, if it is still ours."""
        if self._socket is None:
            return
        self._stop_listening()
        try:
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except OSError:
            pass  # somebody removed it before us


def _refuse_other_kinds(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise RefusedError(f"{path} is in the way: it is not a socket", hint="remove it and try again")


def _may_ask(connection: socket.socket) -> bool:
    """Only ourselves and root: permissions on a socket's path are not enforced everywhere."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, option, size))
    return uid in (0, os.getuid())
