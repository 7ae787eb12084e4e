"""Looking at several things side by side, each with a time limit and each failing on its own. Knows none of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ollamux.doctor.findings import Unknown
from ollamux.domain.errors import OllamuxError
from ollamux.domain.text import safe_text
from ollamux.system.clock import monotonic

T = TypeVar("T")


class Look(Generic[T]):
    """One look that is under way, on a thread of its own: a dead disk or driver may hold it for ever."""

    def __init__(self, what: str, ask: Callable[[], T], patience_s: float) -> None:
        self.what = what
        self.why: str | None = None
        self._ask = ask
        self._patience_s = patience_s
        self._until = monotonic() + patience_s
        self._answer: T | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except OllamuxError as error:
            self.why = error.message
        except Exception as error:  # noqa: BLE001 - one thing that cannot be looked at must not hide the others
            self.why = f"{type(error).__name__}: {error}"

    def answer(self) -> T | None:
        """Return what was seen, None where nothing was; waits no longer than it was given at the start."""
        self._thread.join(max(0.0, self._until - monotonic()))
        if self._thread.is_alive():
            self.why = f"no answer within {self._patience_s:g} s"
            return None
        return self._answer


class Looks:
    """All looks, and of each one that failed a word."""

    def __init__(self) -> None:
        self._begun: list[Look[object]] = []

    def begin(self, what: str, ask: Callable[[], T], *, patience_s: float) -> Look[T]:
        """Begin a look; its answer is fetched later."""
        look = Look(what, ask, patience_s)
        self._begun.append(look)  # type: ignore[arg-type]
        return look

    @property
    def unknown(self) -> tuple[Unknown, ...]:
        """What could not be looked at, once all answers were fetched."""
        return tuple(Unknown(what=look.what, why=safe_text(look.why, limit=300)) for look in self._begun if look.why)
