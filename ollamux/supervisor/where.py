"""Which instance a request about a model means: the one it names, else the one that suits best."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ollamux.domain.errors import NotFoundError, RefusedError, UsageError
from ollamux.domain.phases import Phase
from ollamux.domain.text import format_gib, safe_text, same_model
from ollamux.ollama.store import all_manifests, find_manifest
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.model_words import is_loaded, must_be_ready
from ollamux.supervisor.preload import free_of
from ollamux.supervisor.pulls import Pulls
from ollamux.supervisor.selecting import select
from ollamux.supervisor.unit import Unit
from ollamux.system.patience import patiently


class Where:
    """Knows all instances, what is free on their cards, and what is in their stores."""

    def __init__(self, core: Core, gpus: Gpus, pulls: Pulls) -> None:
        self._core = core
        self._gpus = gpus
        self._pulls = pulls

    def named(self, request: dict[str, Any]) -> Unit | None:
        """Return the instance that a request names, None where it names none."""
        on = request.get("on")
        if on is None:
            return None
        if not isinstance(on, str):
            raise UsageError("the instance must be a name")
        found = select(self._core.units, [on])
        if len(found) != 1:
            raise UsageError(f"{on!r} means {len(found)} instances", hint="name one of them")
        return found[0]

    def to_load(self, name: str, request: dict[str, Any]) -> tuple[Unit, str]:
        """Return the instance to load a model on, and why it was taken: none may be named."""
        unit = self.named(request)
        if unit is not None:
            must_be_ready(unit)
            self.must_have(unit, name)
            return unit, ""
        ready = [unit for unit in self._core.units.values() if unit.state.phase is Phase.READY and not unit.leaving]
        ready = [unit for unit in ready if unit.tune is None]
        if not ready:
            raise RefusedError("no instance is READY", hint="ollamux status says why")
        loaded = [unit for unit in ready if is_loaded(unit, name)]
        if loaded:
            return loaded[0], "it is loaded there"
        having = [unit for unit in ready if self.has(unit, name) is not False]
        if not having:
            self.must_have(ready[0], name)
        frees = {unit.name: free_of(self._gpus.current(unit.gpus)) for unit in having}
        best = max(having, key=lambda unit: (frees[unit.name] or -1, -len(unit.models)))
        free = frees[best.name]
        if len(having) == 1:
            return best, "the only one that has it" if len(ready) > 1 else ""
        return (
            best,
            "it has the fewest models" if free is None else f"most memory is free there, {format_gib(free)} GiB",
        )

    def has(self, unit: Unit, name: str) -> bool | None:
        """Whether a model is in the store of an instance; None where that cannot be seen."""
        store = Path(self._pulls.store_of(unit))

        def look() -> bool | None:
            if not os.access(store / "manifests", os.R_OK | os.X_OK):
                return None if store.exists() else False
            if find_manifest(store, name) is not None:
                return True
            return any(same_model(one.name, name) for one in all_manifests(store))  # ollama does not mind the case

        try:
            return patiently(f"the store {store}", look, at=(str(store),))
        except (TimeoutError, OSError):
            return None

    def must_have(self, unit: Unit, name: str) -> None:
        """Raise NotFoundError where a model is certainly not in the store of an instance."""
        if self.has(unit, name) is False and not is_loaded(unit, name):
            raise NotFoundError(
                f"{safe_text(name)} is not in the store {safe_text(self._pulls.store_of(unit))}",
                hint=f"ollamux pull {safe_text(name)} fetches it",
            )
