"""`ollamux top`: the box live on a full screen. What keys and answers mean is decided in `ollamux.domain.top`."""

from __future__ import annotations

import os
import time

from ollamux.cli import screen
from ollamux.cli.asking import Question
from ollamux.cli.fullscreen import Fullscreen
from ollamux.cli.target import silent
from ollamux.domain.errors import Exit, OllamuxError, RefusedError, UsageError
from ollamux.domain.snapshot import from_json
from ollamux.domain.text import parse_duration
from ollamux.domain.top import Answered, Event, Key, Quit, Restart, Told, Top, Untold, step
from ollamux.render.top import draw_top

_PATIENCE_S = 2.0
"""A supervisor that has not answered for so long is said to be silent; it is still waited for."""
_RESTART_WITHIN_S = 300.0
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 60.0


def top(*, interval: str, simulated: bool) -> int:
    """Show the box until somebody quits."""
    found = parse_duration(interval)
    try:
        pause_s = float(interval) if found is None else found
    except ValueError:
        pause_s = 0.0
    if not _SHORTEST_PAUSE_S <= pause_s <= _LONGEST_PAUSE_S:
        raise UsageError(f"--interval: {interval!r} is no pause", hint="write seconds from 0.2 to 60, as 1 or 0.5")
    if not (screen.is_drawable(os.environ) and screen.is_terminal(0)):
        raise RefusedError(
            "top needs a terminal on which lines can be drawn over, for what it shows and for its keys",
            hint="ollamux status --watch works everywhere",
        )
    with Fullscreen() as shown:
        live = _Live(shown, pause_s, simulated=simulated)
        try:
            live.run()
        finally:
            live.close()
    return int(Exit.OK)


class _Live:
    """Asks, hears keys, draws."""

    def __init__(self, shown: Fullscreen, pause_s: float, *, simulated: bool) -> None:
        self._screen = shown
        self._pause_s = pause_s
        self._simulated = simulated
        self._known = Top()
        self._look: Question | None = None
        self._next_look = time.monotonic()
        self._restarts: dict[str, Question] = {}
        self._quit = False

    def run(self) -> None:
        """Go on until somebody quits, or the terminal or we are ended."""
        while not (self._quit or self._screen.ended):
            now = time.monotonic()
            if now >= self._next_look:
                self._ask(now)
            self._draw()
            watched = [question.fileno() for question in self._questions()]
            pressed, ready = self._screen.wait(self._next_look - time.monotonic(), watched)
            self._press(pressed)
            self._answers(ready)

    def _press(self, pressed: list[str]) -> None:
        for key in pressed:
            self._happened(Key(name=key))
            if self._known.mode == "confirm":
                return  # what came with the key that asks, as in a text that was pasted, answers a question nobody saw

    def _questions(self) -> list[Question]:
        return [*self._restarts.values(), *([] if self._look is None else [self._look])]

    def close(self) -> None:
        """Wait for nothing any more."""
        for question in self._questions():
            question.close()

    def _draw(self) -> None:
        columns, lines = self._screen.size()
        env = os.environ
        drawn = draw_top(
            self._known,
            width=columns,
            height=lines,
            color=screen.color(env),
            unicode=screen.unicode(env),
            now=time.monotonic(),
        )
        self._screen.draw(drawn)

    def _happened(self, event: Event) -> None:
        self._known, command = step(self._known, event)
        match command:
            case Quit():
                self._quit = True
            case Restart():
                self._restart(command.name)
            case None:
                pass

    def _ask(self, now: float) -> None:
        """Ask how the box is; where an answer is still awaited, go on waiting: a stopped supervisor may go on."""
        self._next_look = now + self._pause_s
        if self._look is not None:
            if now - self._look.asked_at >= _PATIENCE_S:
                self._happened(Untold(trouble=str(silent(self._look.simulated)), at=now))
            return
        try:
            self._look = Question({"cmd": "status"}, simulated=self._simulated)
        except OllamuxError as error:
            self._untold(error)

    def _untold(self, error: OllamuxError) -> None:
        hint = f"; {error.hint}" if error.hint else ""
        self._happened(Untold(trouble=f"{error.message}{hint}", at=time.monotonic()))

    def _answers(self, ready: set[int]) -> None:
        look = self._look
        if look is not None and look.fileno() in ready:
            try:
                reply = look.take()
                if reply is not None:
                    self._look = None
                    self._happened(Told(status=from_json(reply["status"]), at=time.monotonic()))
            except OllamuxError as error:
                self._look = None
                self._untold(error)
        for name, question in list(self._restarts.items()):
            if question.fileno() in ready:
                self._restarted(name, question)

    def _restart(self, name: str) -> None:
        if name in self._restarts:
            return  # the one under way is what everybody gets
        request = {"cmd": "restart", "names": [name], "wait": True, "timeout": _RESTART_WITHIN_S}
        try:
            self._restarts[name] = Question(request, simulated=self._simulated)
        except OllamuxError as error:
            self._happened(Answered(words=f"{name}: {error.message}", well=False))

    def _restarted(self, name: str, question: Question) -> None:
        try:
            reply = question.take()
        except OllamuxError as error:
            del self._restarts[name]
            self._happened(Answered(words=f"{name}: {error.message}", well=False))
            return
        if reply is None:
            return
        del self._restarts[name]
        for outcome in reply["outcomes"]:
            words, well = f"{outcome['name']}: {outcome['words']}", outcome["exit"] == Exit.OK
            self._happened(Answered(words=words, well=well))
