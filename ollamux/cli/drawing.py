"""A status that the supervisor draws: ask for it, and say so where no answer comes. Light: `status` waits for it."""

from __future__ import annotations

import os

from ollamux.cli import screen
from ollamux.protocol.client import draw_request, drawn, exchange

TYPE_CHECKING = False  # so that `typing`, a fifth of this command's time, is not imported; mypy knows the name
if TYPE_CHECKING:
    import _socket

PATIENCE_S = 5.0
"""A supervisor answers within milliseconds, since it waits for nothing: one that takes so long is stopped or hangs."""


def drawn_by(connection: _socket.socket, view: str | None, form: str, *, simulated: bool) -> tuple[int, str] | None:
    """Return the exit code and the text, or None where the supervisor went away. Raises OllamuxError."""
    env = os.environ
    request = draw_request(
        view=view, form=form, width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env)
    )
    connection.settimeout(PATIENCE_S)
    try:
        answer = exchange(connection, request)
    except TimeoutError:
        from ollamux.cli.target import silent

        raise silent(simulated) from None
    except OSError:
        return None
    found = drawn(answer)
    if found is None and answer:
        from ollamux.protocol.client import not_understood, understood

        understood(answer)
        raise not_understood()
    return found
