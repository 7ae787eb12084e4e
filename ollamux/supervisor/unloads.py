"""Unload a model on request: a server lets it go once its requests are done, and says so at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ollamux.domain.errors import Exit, NotFoundError, RefusedError
from ollamux.domain.phases import Phase
from ollamux.domain.text import format_duration, safe_text, same_model
from ollamux.ollama import loading
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.http import Answer, Request, probe_host
from ollamux.supervisor.model_words import answer_all, end_of_pin, is_loaded, model_of, must_be_ready, way_of
from ollamux.supervisor.server import Client
from ollamux.supervisor.settling import timeout_of
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.where import Where
from ollamux.system.clock import monotonic

LOOK_S = 0.1
"""How often to look whether a model that was let go is gone."""
UNLOAD_TIMEOUT_S = 30.0


class Unloads:
    """Answers `unload`."""

    def __init__(self, core: Core, checks: Checks, where: Where) -> None:
        self._core = core
        self._checks = checks
        self._where = where

    def unload(self, client: Client, request: dict[str, Any]) -> None:
        """Unload a model wherever it is loaded, or where the request says, and answer once it is gone."""
        name = model_of(request)
        named = self._where.named(request)
        if named is not None:
            must_be_ready(named)
        units = [unit for unit in self._core.units.values() if is_loaded(unit, name) and named in (None, unit)]
        if not units:
            where = "anywhere" if named is None else f"on {named.name}"
            raise NotFoundError(f"{safe_text(name)} is not loaded {where}", hint="ollamux models ls shows what is")
        for unit in units:
            kept = next((pin for pin in unit.pins if same_model(pin.name, name)), None)
            if kept is not None:
                raise RefusedError(
                    f"{unit.name} keeps {safe_text(name)}, {way_of(unit, kept)}: it would come back",
                    hint=end_of_pin(unit, kept),
                )
        left = {unit.name: unit for unit in units}
        outcomes: list[dict[str, Any]] = []

        def one(unit: Unit, code: Exit, words: str) -> None:
            if left.pop(unit.name, None) is not None:
                outcomes.append({"name": unit.name, "exit": int(code), "words": words})
            if not left:
                client.on_gone = None
                answer_all(client, outcomes)

        if request.get("wait") is False:
            for unit in units:
                self.send(unit, name, lambda error: None)
                one(unit, Exit.OK, f"asked to unload {safe_text(name)}")
            return
        for unit in units:
            self._unload_one(unit, name, timeout_of(request), partial(one, unit))

    def _unload_one(self, unit: Unit, name: str, timeout_s: float, done: Callable[[Exit, str], None]) -> None:
        until, shown, gen = monotonic() + timeout_s, safe_text(name), unit.state.gen

        def look() -> None:
            if unit.state.gen != gen or unit.state.phase is not Phase.READY or not is_loaded(unit, name):
                self._core.note(unit, f"{shown} is unloaded on request")
                done(Exit.OK, f"{shown} is unloaded")
            elif monotonic() > until:
                waited = format_duration(timeout_s)
                done(Exit.TIMEOUT, f"{shown} is still loaded after {waited}: it goes when its requests are done")
            else:
                if "scheduler" not in unit.requests:
                    self._checks.ask_scheduler(unit)
                self._core.loop.call_later(LOOK_S, look)

        def answered(error: str | None) -> None:
            if error is not None:
                done(Exit.DEGRADED, f"{shown} could not be unloaded: {error}")
            else:
                self._checks.ask_scheduler(unit)
                self._core.loop.call_later(LOOK_S, look)

        self.send(unit, name, answered)

    def send(self, unit: Unit, name: str, answered: Callable[[str | None], None]) -> None:
        """Ask for it, and tell what is wrong with the answer."""

        def done(answer: Answer) -> None:
            failed = answer.error or (None if answer.status == 200 else loading.error_of(answer.status, answer.body))
            answered(failed)

        try:
            Request(
                self._core.loop,
                (probe_host(unit.spec.host), unit.spec.port),
                loading.GENERATE,
                timeout_s=UNLOAD_TIMEOUT_S,
                done=done,
                body=loading.unload(name),
            )
        except OSError as error:  # no descriptor left to ask with
            answered(error.strerror or "it cannot be asked")
