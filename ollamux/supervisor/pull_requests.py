"""Fetch models on request, and say what came of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ollamux.domain.errors import Exit, RefusedError, UsageError
from ollamux.domain.text import format_duration, format_size, safe_text
from ollamux.supervisor.core import Core
from ollamux.supervisor.model_words import answer_all, model_of
from ollamux.supervisor.pulls import Fetched, Pulls
from ollamux.supervisor.server import Client
from ollamux.supervisor.where import Where


class PullRequests:
    """Answers `pull`."""

    def __init__(self, core: Core, pulls: Pulls, where: Where) -> None:
        self._core = core
        self._pulls = pulls
        self._where = where

    def pull(self, client: Client, request: dict[str, Any]) -> None:
        """Fetch models into each store, or into that of one instance; it ends with whoever waits for it."""
        names = request.get("models")
        if not isinstance(names, list) or not names:
            raise UsageError("no model is named")
        names = [model_of({"model": name}) for name in names]
        named = self._where.named(request)
        units = [unit for unit in self._core.units.values() if named in (None, unit) and unit.wanted]
        stores = list(dict.fromkeys(self._pulls.store_of(unit) for unit in units))
        stores = [store for store in stores if self._pulls.writer(store) is not None]
        if not stores:
            raise RefusedError("no instance is READY to fetch it", hint="ollamux status says why")
        wanted = [(store, name) for name in dict.fromkeys(names) for store in stores]
        left, outcomes = set(wanted), []
        stops: list[Callable[[], None]] = []

        def ended(store: str, name: str, fetched: Fetched) -> None:
            left.discard((store, name))
            outcomes.append(_of_pull(store if len(stores) > 1 else None, name, fetched))
            if not left:
                client.on_gone = None
                answer_all(client, outcomes)

        def gone() -> None:
            for stop in stops:
                stop()

        client.waits = {"models": request}
        client.on_gone = gone
        for store, name in wanted:
            stops.append(self._pulls.want(store, name, partial(ended, store, name)))


def _of_pull(store: str | None, name: str, fetched: Fetched) -> dict[str, Any]:
    where = "" if store is None else f" into {safe_text(store)}"
    if fetched.why is None:
        size = "" if fetched.total_bytes is None else f"{format_size(fetched.total_bytes)}, "
        words = f"is there ({size}{format_duration(fetched.seconds)}, through {fetched.through}){where}"
        return {"name": safe_text(name), "exit": 0, "words": words}
    code = Exit.DEGRADED
    if fetched.why.startswith("there is no model"):
        code = Exit.NOT_FOUND
    elif fetched.why.startswith("the server may not write"):
        code = Exit.PERMISSION
    hint = f"; {fetched.hint}" if fetched.hint else ""
    return {"name": safe_text(name), "exit": int(code), "words": f"was not fetched{where}: {fetched.why}{hint}"}
