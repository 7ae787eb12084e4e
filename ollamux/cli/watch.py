"""`ollamux status --watch`: the same screen again and again, until Ctrl-C or until nobody reads it any more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from ollamux.cli import screen
from ollamux.domain.errors import Exit, OllamuxError
from ollamux.render.errors import error_text

_ENTER = "\x1b[?1049h\x1b[?25l"
"""To the terminal's second screen, so that what was on the first is there again afterwards; without a cursor."""
_LEAVE = "\x1b[?25h\x1b[?1049l"


class Frame(NamedTuple):
    """A screen, the exit code that it stands for, and what belongs on standard error beside it."""

    code: int
    text: str
    aside: str = ""


class Watch:
    """Draws frames. A supervisor that ends, hangs or comes back while it is watched is something to show, too."""

    def __init__(self, frame: Callable[[], Frame], pause_s: float, *, drawable: bool) -> None:
        self._frame = frame
        self._pause_s = pause_s
        self._drawable = drawable
        self._shown = Frame(int(Exit.OK), "")

    def run(self) -> int:
        """Draw until interrupted; the last frame stays on the screen. Returns its exit code."""
        signal.signal(signal.SIGTERM, _interrupt)
        if self._drawable:
            screen.write(_ENTER)
        try:
            while screen.is_read():
                self._look()
                self._draw()
                time.sleep(self._pause_s)
        except KeyboardInterrupt:
            pass  # the usual way to end it
        finally:
            if self._drawable:
                screen.say(_LEAVE + self._shown.aside + self._shown.text)
        return self._shown.code

    def _look(self) -> None:
        try:
            self._shown = self._frame()
        except OllamuxError as error:
            self._shown = Frame(int(error.exit_code), "", error_text(error))

    def _draw(self) -> None:
        if not self._drawable:
            screen.say(self._shown.aside, fd=2)
            screen.say(self._shown.text)
            return
        lines = (self._shown.aside + self._shown.text).splitlines()
        shown = "".join(f"{line}\x1b[K\n" for line in lines[: _height()])
        screen.say(f"\x1b[H{shown}\x1b[J")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _height() -> int:
    try:
        return os.get_terminal_size(1).lines - 1 or 1000
    except OSError:
        return 1000
