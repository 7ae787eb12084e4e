"""`models load|unload|pin|unpin` and `pull`: ask the supervisor, show how far it is, and say what became of it."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ollamux.cli import screen
from ollamux.cli.block import Block
from ollamux.cli.lifecycle import GRACE_S, tell
from ollamux.cli.target import question, reach
from ollamux.cli.words import seconds
from ollamux.config import words as rules
from ollamux.config.rules import Wrong
from ollamux.domain.errors import NotRunningError, OllamuxError, TimedOutError, UsageError
from ollamux.domain.text import safe_text, same_model
from ollamux.protocol.client import PROTOCOL, ask, understood
from ollamux.render.models import load_line, pull_line
from ollamux.render.pen import Pen
from ollamux.system.clock import monotonic

if TYPE_CHECKING:
    import _socket

REDRAW_S = 0.2
_FOR_EVER = -1
Draw = Callable[[dict[str, Any], Pen, int], list[str]]


def load(
    model: str,
    *,
    on: str | None,
    ctx: int | None,
    keep_alive: str | None,
    wait: bool,
    timeout: str,
    simulated: bool,
    quiet: bool,
) -> int:
    """Load a model."""
    keep_s = None if keep_alive is None else _keep_alive(keep_alive)
    request = {"cmd": "load", "model": model_name(model), "num_ctx": ctx, "keep_alive_s": keep_s}
    return _change(request, "the load is given up", on=on, wait=wait, timeout=timeout, simulated=simulated, quiet=quiet)


def unload(model: str, *, on: str | None, wait: bool, timeout: str, simulated: bool, quiet: bool) -> int:
    """Unload a model."""
    request = {"cmd": "unload", "model": model_name(model)}
    left = "it goes once its requests are done"
    return _change(request, left, on=on, wait=wait, timeout=timeout, simulated=simulated, quiet=quiet)


def pin(model: str, *, on: str | None, ctx: int | None, wait: bool, timeout: str, simulated: bool, quiet: bool) -> int:
    """Load a model and keep it."""
    request = {"cmd": "pin", "model": model_name(model), "num_ctx": ctx}
    left = f"{safe_text(model)} stays pinned and goes on loading; ollamux models unpin ends that"
    return _change(request, left, on=on, wait=wait, timeout=timeout, simulated=simulated, quiet=quiet)


def unpin(model: str, *, on: str | None, simulated: bool, quiet: bool) -> int:
    """Keep a model no longer."""
    reply, _ = question({"cmd": "unpin", "model": model_name(model), "on": on}, simulated=simulated)
    tell(reply["outcomes"], quiet=quiet)
    return int(reply["exit"])


def pull(models: list[str], *, on: str | None, simulated: bool, quiet: bool) -> int:
    """Fetch models."""
    names = [model_name(model) for model in models]
    speeds = _Speeds()

    def draw(view: dict[str, Any], pen: Pen, frame: int) -> list[str]:
        ours = [each for each in view["pulls"] if any(same_model(each["name"], name) for name in names)]
        return [
            pull_line(each["name"], each, pen=pen, frame=frame, speed=speeds.of(each))
            for each in ours
            if each["through"] is not None
        ]

    left = "the pull is stopped; what has come stays, and the next pull goes on from there"
    request = {"cmd": "pull", "models": names, "on": on}
    reply = _ask_showing(request, draw, left, timeout_s=None, simulated=simulated, quiet=quiet)
    tell(reply["outcomes"], quiet=quiet)
    return int(reply["exit"])


def _change(
    request: dict[str, Any], left: str, *, on: str | None, wait: bool, timeout: str, simulated: bool, quiet: bool
) -> int:
    timeout_s = seconds(timeout, "--timeout")
    name = request["model"]

    def draw(view: dict[str, Any], pen: Pen, frame: int) -> list[str]:
        return [
            load_line(each["name"], one["name"], each["seconds"], pen=pen, frame=frame)
            for one in view["instances"]
            for each in one["loading"]
            if same_model(each["name"], name)
        ]

    request = {**request, "on": on, "wait": wait, "timeout": timeout_s}
    reply = _ask_showing(request, draw, left, timeout_s=timeout_s + GRACE_S, simulated=simulated, quiet=quiet)
    tell(reply["outcomes"], quiet=quiet)
    return int(reply["exit"])


def _ask_showing(
    request: dict[str, Any], draw: Draw, left: str, *, timeout_s: float | None, simulated: bool, quiet: bool
) -> dict[str, Any]:
    """Ask, and while the answer is awaited draw on a terminal how far it is; say after Ctrl-C what is left."""
    connection, which = reach(simulated)
    block = Block(quiet=quiet)
    try:
        if not block.live:
            return ask(connection, request, timeout_s=timeout_s)
        return _answer_drawn(connection, request, lambda: _draw(block, draw, which), timeout_s)
    except KeyboardInterrupt:
        block.clear()
        screen.say(f"\ninterrupted; {left}\n", fd=2)
        raise
    finally:
        block.clear()


def _answer_drawn(
    connection: _socket.socket, request: dict[str, Any], draw: Callable[[], None], timeout_s: float | None
) -> dict[str, Any]:
    until = None if timeout_s is None else monotonic() + timeout_s
    parts: list[bytes] = []
    try:
        connection.sendall(json.dumps({"v": PROTOCOL, **request}).encode() + b"\n")
        while True:
            if not select.select([connection], [], [], REDRAW_S)[0]:
                if until is not None and monotonic() > until:
                    raise TimedOutError(f"the supervisor did not answer within {timeout_s:g} s")
                draw()
                continue
            part = connection.recv(65536)
            if not part:
                break
            parts.append(part)
    except OSError as error:
        raise NotRunningError(f"the supervisor went away while it was asked: {os.strerror(error.errno or 0)}") from None
    finally:
        connection.close()
    if not parts:
        raise NotRunningError("the supervisor ended before it answered", hint="ollamux status")
    return understood(b"".join(parts))


def _draw(block: Block, lines_of: Draw, simulated: bool) -> None:
    try:
        view = question({"cmd": "models"}, simulated=simulated)[0]["models"]
    except OllamuxError:
        return  # whoever waits for the answer hears of it
    env = os.environ
    pen = Pen(width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env))
    block.draw(lines_of(view, pen, block.frame))


class _Speeds:
    """How fast each pull is, over the last seconds."""

    OVER_S = 5.0

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], list[tuple[float, int]]] = {}

    def of(self, pull: dict[str, Any]) -> float | None:
        """Return bytes per second, None as long as it is not known."""
        done, now = pull["completed_bytes"], monotonic()
        if done is None:
            return None
        seen = self._seen.setdefault((pull["store"], pull["name"]), [])
        if seen and done < seen[-1][1]:
            seen.clear()  # begun anew, through another instance
        seen.append((now, done))
        while len(seen) > 2 and now - seen[0][0] > self.OVER_S:
            seen.pop(0)
        (then, before), span = seen[0], now - seen[0][0]
        return None if span < 1.0 or then == now else (done - before) / span


def model_name(model: str) -> str:
    """Return the name of a model as it was written. Raises UsageError."""
    try:
        found: str = rules.MODEL.check(model)
    except Wrong as error:
        raise UsageError(f"{safe_text(model)!r} {error.message}", hint=error.hint) from None
    return found


def _keep_alive(text: str) -> float:
    return float(_FOR_EVER) if text == str(_FOR_EVER) else seconds(text, "--keep-alive")
