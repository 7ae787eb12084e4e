"""One thread's event loop: file descriptors, timers and signals. No policy, and nothing that blocks.

asyncio would do, but its import costs five times a bare interpreter's start, and with it every cold start.
"""

from __future__ import annotations

import heapq
import selectors
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from ollamux.system.clock import monotonic

Callback = Callable[[], None]
_TIDY_FROM = 128


class Timer:
    """A call planned for later, unless cancelled."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callback) -> None:
        self.at = at
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Make sure the call does not happen. Harmless when it already has."""
        self.callback = None


class Loop:
    """Runs callbacks one after the other. A callback that raises is reported and does not stop the loop."""

    def __init__(self, *, on_error: Callable[[BaseException], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, tuple[Callback | None, Callback | None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._soon: list[Callback] = []
        self._count = 0
        self._tidy_at = _TIDY_FROM
        self._stopped = False
        self._on_error = on_error
        self._signals: dict[int, Callback] = {}
        self._wakeup: socket.socket | None = None

    def call_at(self, at: float, callback: Callback) -> Timer:
        """Plan a call for a moment of the monotonic clock."""
        timer = Timer(at, callback)
        self._count += 1
        heapq.heappush(self._timers, (at, self._count, timer))
        if len(self._timers) >= self._tidy_at:
            self._tidy()
        return timer

    def _tidy(self) -> None:
        """Let go of what was cancelled, each time the number of timers has doubled: else it stays until it is due."""
        self._timers = [entry for entry in self._timers if entry[2].callback is not None]
        heapq.heapify(self._timers)
        self._tidy_at = max(_TIDY_FROM, 2 * len(self._timers))

    def call_later(self, delay_s: float, callback: Callback) -> Timer:
        """Plan a call."""
        return self.call_at(monotonic() + delay_s, callback)

    def call_soon(self, callback: Callback) -> None:
        """Call after the present callback has returned."""
        self._soon.append(callback)

    def watch(self, fd: int, *, read: Callback | None = None, write: Callback | None = None) -> None:
        """Call `read` while the descriptor is readable and `write` while it is writable; replaces what was watched."""
        mask = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        if not mask:
            self.unwatch(fd)
            return
        callbacks = (read, write)
        change = self._selector.modify if fd in self._watched else self._selector.register
        change(fd, mask, callbacks)
        self._watched[fd] = callbacks

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; to be called before it is closed. Harmless when it is not watched."""
        if self._watched.pop(fd, None) is not None:
            self._selector.unregister(fd)

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call when the signal came: in the loop, never inside the handler. Main thread only."""
        if self._wakeup is None:
            self._wakeup, writer = socket.socketpair()
            self._wakeup.setblocking(False)
            writer.setblocking(False)
            self._writer = writer
            signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            self.watch(self._wakeup.fileno(), read=self.read_signals)
        self._signals[number] = callback
        signal.signal(number, _remembered)

    def read_signals(self) -> None:
        """Call what was planned for the signals that have come so far, now."""
        assert self._wakeup is not None  # noqa: S101 - watched only once it exists
        numbers: set[int] = set()
        with suppress(BlockingIOError):
            while data := self._wakeup.recv(4096):
                numbers.update(data)
        for number in sorted(numbers):
            if number in self._signals:
                self._run(self._signals[number])

    def stop(self) -> None:
        """Return from `run` once the present round is done."""
        self._stopped = True

    def run(self) -> None:
        """Run until stopped."""
        while not self._stopped:
            for key, mask in self._selector.select(self._timeout()):
                read, write = key.data
                if mask & selectors.EVENT_READ and read is not None and self._still(key):
                    self._run(read)
                if mask & selectors.EVENT_WRITE and write is not None and self._still(key):
                    self._run(write)
            self._run_timers()
            soon, self._soon = self._soon, []
            for callback in soon:
                self._run(callback)

    def _still(self, key: selectors.SelectorKey) -> bool:
        """Whether a descriptor is watched as it was when it was found ready; its number may mean another one by now."""
        return self._watched.get(key.fd) is key.data

    def _timeout(self) -> float | None:
        if self._soon:
            return 0.0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                self._run(callback)

    def _run(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - a bug in one callback must not end the watch over all instances
            self._on_error(error)

    def close(self) -> None:
        """Give everything back. Signals are ignored from here on: they must not cut an orderly end short.

        The interpreter's own end would put those at their default that still have a handler.
        """
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for number in self._signals.keys() - {signal.SIGCHLD}:
                signal.signal(number, signal.SIG_IGN)
            self._wakeup.close()
            self._writer.close()
        self._selector.close()


def _remembered(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up descriptor already holds the number."""
