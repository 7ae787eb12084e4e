"""What was asked of each instance, and so what may be wanted of it now. Knows commands and their ends, no processes.

The newest wish wins. Of commands that overlap nobody outside can say which came last, and one that did not end with 0
may have been heard or not: both wishes are then possible, and neither is a fault.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

UP, DOWN = "up", "down"


@dataclass(slots=True)
class Wish:
    """One command, or one event that may have changed what is wanted. `end` is None while it runs."""

    want: str
    names: frozenset[str]
    words: str
    begin: float
    end: float | None = None
    acknowledged: bool = False


@dataclass(slots=True)
class Intents:
    """The wishes of a run since things were last certain."""

    names: frozenset[str]
    wishes: list[Wish] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, wants: dict[str, str]) -> None:
        """Forget the past: this is wanted now, for certain."""
        now = time.monotonic()
        with self._lock:
            self.wishes = [
                Wish(want=want, names=frozenset({name}), words="settled", begin=now, end=now, acknowledged=True)
                for name, want in wants.items()
            ]

    def ask(self, want: str, names: frozenset[str], words: str) -> Wish:
        """Note that a command begins."""
        wish = Wish(want=want, names=names, words=words, begin=time.monotonic())
        with self._lock:
            self.wishes.append(wish)
        return wish

    def doubt(self, why: str, want: str = UP) -> None:
        """Note that earlier wishes may have been lost, rightly: the disk that held them was taken away."""
        now = time.monotonic()
        with self._lock:
            self.wishes.append(Wish(want=want, names=self.names, words=why, begin=now, end=now))

    def possible(self, name: str) -> frozenset[str]:
        """Return what may be wanted of an instance: one thing where it is certain, else both."""
        with self._lock:
            wishes = [wish for wish in self.wishes if name in wish.names]
        acknowledged = [wish for wish in wishes if wish.acknowledged]
        last = [
            wish
            for wish in wishes
            if not any(wish.end is not None and later.begin > wish.end for later in acknowledged if later is not wish)
        ]
        return frozenset(wish.want for wish in last)

    def story(self, name: str) -> str:
        """Return the wishes about an instance, for messages."""
        with self._lock:
            wishes = [wish for wish in self.wishes if name in wish.names]
        return "; ".join(
            f"{wish.words} [{wish.begin:.3f}–{'…' if wish.end is None else f'{wish.end:.3f}'}]"
            f"{' done' if wish.acknowledged else ''}"
            for wish in wishes
        )
