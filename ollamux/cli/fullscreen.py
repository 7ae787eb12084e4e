"""A terminal as a full screen that answers to single keys, and that is as it was afterwards, whatever happens.

Signals come in order with the keys, through a pipe. No meaning of keys here.
"""

from __future__ import annotations

import os
import select
import signal
import termios
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from ollamux.cli.keys import keys

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""To the terminal's second screen, without a cursor, and without wrapping: what is too long must not scroll it."""
_LEAVE = "\x1b[H\x1b[2J\x1b[?7h\x1b[?25h\x1b[?1049l"
"""Emptied first: a terminal without a second screen is left clean, and tmux mixes both where it was resized."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WATCHED = (*_ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_ESCAPE_S = 0.05
"""A terminal sends the rest of a longer key at once: what comes later than that is another key."""


class Fullscreen:
    """The screen while it is entered. `ended` is set by a signal that ends us, or a terminal that is gone."""

    def __init__(self) -> None:
        self.ended = False
        self._before: list[Any] | None = None
        self._shown: list[str] = []
        self._size = (0, 0)
        self._rest = b""
        self._signals, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Fullscreen:
        for number in _WATCHED:
            signal.signal(number, _noted)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        signal.set_wakeup_fd(-1)
        for number in _WATCHED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self._signals)
        os.close(self._wake)

    def size(self) -> tuple[int, int]:
        """Return columns and lines."""
        try:
            found = os.get_terminal_size(1)
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def draw(self, lines: Iterable[str]) -> None:
        """Show the lines; only those that differ from what is there are written."""
        new = list(lines)
        if self.size() != self._size:
            self._size, self._shown = self.size(), []
        old = self._shown
        text = "" if old else "\x1b[2J"
        for place, line in enumerate(new):
            if place >= len(old) or old[place] != line:
                # Erased before, for at its end the cursor stands on the last column of a full line.
                text += f"\x1b[{place + 1};1H\x1b[2K{line}"
        if len(new) < len(old):
            text += f"\x1b[{len(new) + 1};1H\x1b[J"
        self._shown = new
        self._write(text)

    def wait(self, timeout_s: float, watched: Iterable[int]) -> tuple[list[str], set[int]]:
        """Wait for keys, signals and descriptors to read from; return the keys and the descriptors."""
        poll = select.poll()
        for fd in (0, self._signals, *watched):
            poll.register(fd, select.POLLIN)
        timeout_s = min(timeout_s, _ESCAPE_S) if self._rest else timeout_s
        ready = {fd for fd, _ in poll.poll(max(timeout_s, 0.0) * 1000)}
        if self._signals in ready:
            self._signalled()
        pressed: list[str] = []
        if 0 in ready:
            pressed, self._rest = keys(self._rest + self._read())
        elif self._rest:
            pressed, self._rest = keys(self._rest, whole=True)
        return pressed, ready - {0, self._signals}

    def _read(self) -> bytes:
        data = b""
        with suppress(OSError):
            data = os.read(0, 4096)
        self.ended = self.ended or not data
        return data

    def _signalled(self) -> None:
        for number in os.read(self._signals, 256):
            if number in _ENDING:
                self.ended = True
            elif number == signal.SIGTSTP:
                self._suspend()
            else:
                # Continued after whatever stop, or resized: nothing of what was drawn can be relied on.
                self._take()

    def _suspend(self) -> None:
        """Stop as any program does, with the terminal as it was; go on here when continued."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _noted)
        self._take()

    def _take(self) -> None:
        entered = self._before is not None
        try:
            if not entered:
                self._before = termios.tcgetattr(0)
            changed = termios.tcgetattr(0)
            changed[3] &= ~(termios.ICANON | termios.ECHO)
            changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
            termios.tcsetattr(0, termios.TCSADRAIN, changed)
        except termios.error:
            self.ended = True
        self._shown = []
        if not entered:  # once only: a terminal keeps the place of its cursor each time
            self._write(_ENTER)

    def _give_back(self) -> None:
        self._write(_LEAVE)
        if self._before is not None:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._before)
            self._before = None

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError:
            self.ended = True  # the terminal is gone


def _noted(number: int, frame: FrameType | None) -> None:
    """Do nothing here: the number is in the pipe."""
