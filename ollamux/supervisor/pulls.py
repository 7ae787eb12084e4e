"""Fetch models into the stores: for each store one at a time, through one of the instances that share it.

Two servers that fetch one model write into the same file, and one of them fails (seen on 0.24.0 and 0.32.15). Closing
the connection ends a pull; what has come stays, and the next one goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.text import format_duration, format_size, safe_text, same_model
from ollamux.ollama import loading, pulling
from ollamux.ollama.pulling import PullStream
from ollamux.ollama.store import store_path
from ollamux.supervisor.core import Core
from ollamux.supervisor.http import Answer, Request, probe_host
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic
from ollamux.system.patience import patiently

SILENCE_S = 600.0
"""A server tells of a pull several times a second, but reads tens of GB to verify them without a word."""
AGAIN_S = 1.0
MOST_BREAKS = 5
"""Connections in a row that break without a byte having come."""


class Fetched(NamedTuple):
    """What came of a pull. `why` is None where it went well, else plain words, with the way out in `hint`."""

    why: str | None
    hint: str | None
    through: str | None
    seconds: float
    total_bytes: int | None


class Pull:
    """One model on its way into one store."""

    def __init__(self, store: str, name: str) -> None:
        self.store = store
        self.name = name
        self.began = monotonic()
        self.stream = PullStream()
        self.through: Unit | None = None
        self.request: Request | None = None
        self.waiting: list[Callable[[Fetched], None]] = []
        self.breaks = 0
        self.not_before = 0.0


class Pulls:
    """All pulls, in the order in which they were asked for."""

    def __init__(self, core: Core, *, home: str) -> None:
        self._core = core
        self._home = home
        self._real: dict[str, str] = {}
        self.pulls: list[Pull] = []
        self.fetched: list[Callable[[str, str], None]] = []
        """Who is told, after each pull that went well, the store and the name."""
        core.changed.append(self._on_change)

    def store_of(self, unit: Unit) -> str:
        """Return the folder of the models of an instance, by the one path that links lead to."""
        path = store_path(unit.spec.store, self._home)
        if path not in self._real:
            try:
                self._real[path] = patiently(f"the store {path}", lambda: os.path.realpath(path), at=(path,))
            except TimeoutError:
                return path
        return self._real[path]

    def want(self, store: str, name: str, done: Callable[[Fetched], None]) -> Callable[[], None]:
        """Fetch a model, or join those who wait for it; returns what ends the wish, and the pull with the last one."""
        pull = next((pull for pull in self.pulls if pull.store == store and same_model(pull.name, name)), None)
        if pull is None:
            pull = Pull(store, name)
            self.pulls.append(pull)
        pull.waiting.append(done)
        self._core.loop.call_soon(self._go_on)

        def stop() -> None:
            if done in pull.waiting:
                pull.waiting.remove(done)
            if not pull.waiting and pull in self.pulls:
                self._drop(pull)
                self._note(pull, f"{safe_text(pull.name)} is not fetched any further; what has come stays")

        return stop

    def _drop(self, pull: Pull) -> None:
        self.pulls.remove(pull)
        if pull.request is not None:
            pull.request.cancel()
        self._core.loop.call_soon(self._go_on)

    def _note(self, pull: Pull, text: str) -> None:
        self._core.note(pull.through, text)

    def _on_change(self, unit: Unit, before: Instance) -> None:
        if self.pulls and unit.state.phase is Phase.READY:
            self._go_on()

    def _go_on(self) -> None:
        """Begin what can begin: one pull for each store, the first that was asked for."""
        busy = {pull.store for pull in self.pulls if pull.request is not None}
        for pull in self.pulls:
            if pull.store in busy:
                continue
            busy.add(pull.store)
            unit = self.writer(pull.store)
            if unit is not None and monotonic() >= pull.not_before:
                self._begin(pull, unit)

    def writer(self, store: str) -> Unit | None:
        """Return the instance through which a store is written: the first that is READY."""
        ready = (unit for unit in self._core.units.values() if unit.state.phase is Phase.READY and not unit.leaving)
        return next((unit for unit in ready if self.store_of(unit) == store), None)

    def _begin(self, pull: Pull, unit: Unit) -> None:
        pull.through, pull.stream = unit, PullStream()
        try:
            pull.request = Request(
                self._core.loop,
                (probe_host(unit.spec.host), unit.spec.port),
                pulling.PULL,
                timeout_s=SILENCE_S,
                done=lambda answer: self._answered(pull, answer),
                body=pulling.request(pull.name),
                piece=lambda data: self._piece(pull, data),
            )
        except OSError as error:  # no descriptor left to ask with
            self._broken(pull, error.strerror or "")
            return
        self._note(pull, f"fetching {safe_text(pull.name)} into {safe_text(pull.store)}")

    def _piece(self, pull: Pull, data: bytes) -> None:
        pull.stream.feed(data)
        pull.breaks = 0

    def _answered(self, pull: Pull, answer: Answer) -> None:
        pull.request = None
        stream = pull.stream
        error = stream.error
        if answer.error is None and answer.status != 200:
            error = loading.error_of(answer.status, answer.body)
        if error is None and not stream.succeeded:
            self._broken(pull, answer.error or "the answer broke off")
            return
        self._end(pull, error)

    def _broken(self, pull: Pull, error: str) -> None:
        """Go on later, through whoever is READY then: its instance was stopped, or has crashed."""
        pull.breaks += 1
        if pull.breaks > MOST_BREAKS:
            self._end(pull, error)
            return
        pull.not_before = monotonic() + AGAIN_S
        self._core.loop.call_later(AGAIN_S, self._go_on)

    def _end(self, pull: Pull, error: str | None) -> None:
        if pull not in self.pulls:
            return
        self.pulls.remove(pull)
        seconds, size = monotonic() - pull.began, pull.stream.total_bytes
        why, hint = (None, None) if error is None else pulling.in_plain_words(pull.name, error)
        name = safe_text(pull.name)
        amount = "" if size is None else f"{format_size(size)}, "
        told = (
            f"{name} is fetched ({amount}{format_duration(seconds)})"
            if why is None
            else f"{name} was not fetched: {why}"
        )
        self._note(pull, told)
        for told_of in self.fetched if why is None else ():
            told_of(pull.store, pull.name)
        through = None if pull.through is None else pull.through.name
        for done in tuple(pull.waiting):
            done(Fetched(why, hint, through, seconds, size))
        self._go_on()
