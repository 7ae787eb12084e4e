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

PROTOCOL = 1
TEXT_HEAD = b"ollamux-text "
LONGEST_LINE = 64 * 1024
CONNECT_WITHIN_S = 5
"""Connecting takes no time, but for a supervisor that hangs: once 33 clients wait for it, the 34th waits to connect."""
_AF_UNIX = 1
_SOCK_STREAM = 1


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

    from ollamux.domain.errors import Exit, NotRunningError, OllamuxError, TimedOutError

    connection.settimeout(timeout_s)
    try:
        answer = exchange(connection, json.dumps({"v": PROTOCOL, **request}).encode() + b"\n")
    except TimeoutError:
        raise TimedOutError(f"the supervisor did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise NotRunningError(f"the supervisor went away while it was asked: {os.strerror(error.errno or 0)}") from None
    if not answer:
        raise NotRunningError("the supervisor ended before it answered", hint="ollamux status")
    try:
        reply: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise OllamuxError(
            "the supervisor's answer is not understood", hint="is it another version? ollamux down"
        ) from None
    if not reply.get("ok"):
        raise OllamuxError(
            str(reply.get("message", "the supervisor refused")),
            hint=reply.get("hint"),
            exit_code=Exit(int(reply.get("exit", 1))),
        )
    return reply
