"""Talk to the supervisor over its control socket: one request a connection, one JSON object a line.

`draw` is apart: its answer is finished text behind one line of head, so that `ollamux status` needs no JSON, no typer
and no table code of its own. Only what every interpreter has loaded anyway, or loads in a millisecond, is imported.
"""

from __future__ import annotations

import _socket
import os
import struct

from ollamux.system.places import socket_paths

TYPE_CHECKING = False  # so that `typing`, a fifth of what `status` takes, is not imported; mypy knows the name
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ollamux.domain.errors import OllamuxError

PROTOCOL = 1
TEXT_HEAD = b"ollamux-text "
LONGEST_LINE = 64 * 1024
CONNECT_WITHIN_S = 5
"""Connecting takes no time, but for a supervisor that hangs: once 33 clients wait for it, the 34th waits to connect."""
_AF_UNIX = 1
_SOCK_STREAM = 1
_SO_PEERCRED = 17


def connect(env: Mapping[str, str], *, simulated: bool) -> _socket.socket | None:
    """Return a connection to the supervisor, or None where none listens at any of the places it could be.

    Raises TimedOutError where one listens, but is too far behind to take another client.
    """
    for path in socket_paths(env, simulated=simulated):
        connection = _socket.socket(_AF_UNIX, _SOCK_STREAM)
        connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, struct.pack("ll", CONNECT_WITHIN_S, 0))
        try:
            connection.connect(path)
        except BlockingIOError:
            connection.close()
            from ollamux.domain.errors import TimedOutError

            raise TimedOutError(
                "the supervisor is there, but takes no more clients: it hangs or is stopped",
                hint="ollamux down ends it; if that hangs too, end its process",
            ) from None
        except OSError:
            connection.close()
            continue
        return connection
    return None


def peer_pid(connection: _socket.socket) -> int | None:
    """Return the process that listens, as we see it: its own number may be that of another namespace. None: unseen."""
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid or None


def draw_request(*, view: str | None, form: str, width: int, color: bool, unicode: bool) -> bytes:
    """Return the line that asks for a finished screen."""
    flags = f'"color":{str(color).lower()},"unicode":{str(unicode).lower()}'
    shown = "null" if view is None else f'"{view}"'
    return f'{{"v":{PROTOCOL},"cmd":"draw","view":{shown},"format":"{form}","width":{width},{flags}}}\n'.encode()


def exchange(connection: _socket.socket, request: bytes) -> bytes:
    """Send one line and return all that comes back until the other side closes. Raises OSError."""
    connection.sendall(request)
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    connection.close()
    return b"".join(parts)


def drawn(answer: bytes) -> tuple[int, str] | None:
    """Return (exit code, text) of an answer to `draw`, or None where it is no such answer."""
    head, newline, text = answer.partition(b"\n")
    code = head.removeprefix(TEXT_HEAD)
    if not newline or not head.startswith(TEXT_HEAD) or not code.isdigit():
        return None
    return int(code), text.decode(errors="replace")


def ask(connection: _socket.socket, request: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
    """Send a request and return the answer's object.

    Raises NotRunningError where the supervisor went away, TimedOutError, and OllamuxError where it reports an error.
    """
    import json

    from ollamux.domain.errors import NotRunningError, TimedOutError

    connection.settimeout(timeout_s)
    try:
        answer = exchange(connection, json.dumps({"v": PROTOCOL, **request}).encode() + b"\n")
    except TimeoutError:
        raise TimedOutError(f"the supervisor did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NotRunningError(f"the supervisor went away while it was asked: {os.strerror(error.errno or 0)}") from None
    if not answer:
        raise NotRunningError("the supervisor ended before it answered", hint="ollamux status")
    return understood(answer)


def understood(answer: bytes) -> dict[str, Any]:
    """Return the object of an answer. Raises OllamuxError where it reports an error, or is of another version."""
    import json

    from ollamux.domain.errors import Exit, OllamuxError

    try:
        reply: Any = json.loads(answer)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or "ok" not in reply:
        raise not_understood()
    if reply["ok"]:
        return reply
    code = reply.get("exit")
    hint = reply.get("hint")
    raise OllamuxError(
        str(reply.get("message", "the supervisor refused")),
        hint=None if hint is None else str(hint),
        exit_code=Exit(code) if isinstance(code, int) and code in list(Exit) else Exit.INTERNAL,
    )


def not_understood() -> OllamuxError:
    """Return the error for an answer that only another version can have given."""
    from ollamux.domain.errors import RefusedError

    return RefusedError(
        "the supervisor's answer is not understood: it is of another version than this command",
        hint="use the command it was started with, or end it with SIGTERM, as ollamux down does; then: ollamux up",
    )
