"""The time of a simulated card: requests that are at work on it together each get an equal part. No words here.

Those of this runner are known at once, those of other runners on the same card within a tenth of a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CPU_SHARE = 0.03
_TOO_SHORT_S = 0.001
_LOOK_S = 0.1

Until = Callable[[float], None]


class Sharing:
    """A clock that counts the seconds each request has been served: with three at work it goes a third as fast.

    `beside` tells how many requests others are at.
    """

    def __init__(self, beside: Callable[[], int]) -> None:
        self._beside = beside
        self._others = 0
        self._looked_at = float("-inf")
        self._change = threading.Condition()
        self._at_work = 0
        self._served_s = 0.0
        self._seen_at = time.monotonic()

    @contextmanager
    def turn(self) -> Iterator[Until]:
        """Be one of those at work; what is lent waits until so many seconds of service have been had."""
        with self._change:
            self._set(self._at_work + 1)
            begun_s = self._served_s
        try:
            yield lambda seconds: self._wait(begun_s + seconds)
        finally:
            with self._change:
                self._set(self._at_work - 1)

    def _set(self, count: int) -> None:
        self._look()
        self._at_work = count
        self._change.notify_all()

    def _look(self) -> None:
        now = time.monotonic()
        if self._at_work:
            self._served_s += (now - self._seen_at) / (self._at_work + self._others)
            if now - self._looked_at > _LOOK_S:
                self._others, self._looked_at = self._beside(), now
        self._seen_at = now

    def _left_s(self, until_s: float) -> float:
        self._look()
        return (until_s - self._served_s) * (self._at_work + self._others)

    def _wait(self, until_s: float) -> None:
        """Wait, and use a little of the CPU as a runner that computes does: it must not look as if it hung."""
        with self._change:
            left_s = self._left_s(until_s)
        if left_s <= _TOO_SHORT_S:
            return
        begun = time.monotonic()
        while time.monotonic() - begun < left_s * _CPU_SHARE:
            pass
        with self._change:
            while (left_s := self._left_s(until_s)) > 0:
                self._change.wait(min(left_s, _LOOK_S))
