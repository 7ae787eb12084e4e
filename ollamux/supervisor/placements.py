"""Which models the instances keep because a plan said so: takes it from a command, keeps it, and puts it in force.

What is placed is pinned as if by hand, all of it at once: what the new placement leaves out is let go and unloaded,
what it moves is loaded where it goes, what stays is not touched. An instance over several cards that it needs is added.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ollamux.domain.errors import RefusedError, UsageError
from ollamux.domain.phases import Phase
from ollamux.domain.placed import Placement, with_spans
from ollamux.domain.spec import FleetSpec, PinSpec
from ollamux.domain.text import safe_text, same_model
from ollamux.protocol.client import PROTOCOL
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.model_words import is_loaded
from ollamux.supervisor.preload import Preload
from ollamux.supervisor.reload import Reload
from ollamux.supervisor.server import Client
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.unloads import Unloads
from ollamux.system.files import read_bounded, write_atomic

FILE_NAME = "placement.json"
FIELDS = frozenset({"placement", "missing", "why"})
_LARGEST = 4 << 20


def kept_placement(folder: str) -> Placement | None:
    """Return what was placed before, None where nothing was."""
    try:
        data = read_bounded(f"{folder}/{FILE_NAME}", _LARGEST)
        found = None if data is None else Placement.from_json(json.loads(data))
    except (OSError, ValueError, RecursionError):
        return None  # damaged: the models are placed again, nothing else depends on it
    return found if found != Placement() else None


class Placements:
    """Answers `place`. `placed` is told what had no place because it is in no store, or why no plan could be made."""

    def __init__(
        self, core: Core, checks: Checks, preload: Preload, unloads: Unloads, *, reload: Reload, folder: str
    ) -> None:
        self._core = core
        self._checks = checks
        self._preload = preload
        self._unloads = unloads
        self._reload = reload
        self._folder = folder
        self._told: Placement | None = core.placement
        self.placed: list[Callable[[tuple[str, ...], str | None], None]] = []

    def place(self, client: Client, request: dict[str, Any]) -> None:
        """Put a placement in force."""
        why, missing = request.get("why"), request.get("missing") or []
        if not isinstance(missing, list) or not all(isinstance(name, str) for name in missing):
            raise UsageError("missing must be names of models")
        if why is not None:
            self._tell(tuple(missing), str(why))
        else:
            new = Placement.from_json(request.get("placement"))
            if new.as_json() != request.get("placement"):
                raise UsageError("this is no placement")
            self._put(new)
            self._tell(tuple(missing), None)
        client.answer({"v": PROTOCOL, "ok": True, "exit": 0})

    def _tell(self, missing: tuple[str, ...], why: str | None) -> None:
        for listener in self.placed:
            listener(missing, why)

    def _put(self, new: Placement) -> None:
        core = self._core
        fleet = with_spans(core.configured, new.spans)
        known = {spec.name for spec in fleet.instances}
        unknown = [placed.instance for placed in new.pins if placed.instance not in known]
        if unknown:
            raise RefusedError(f"there is no instance {safe_text(unknown[0])}", hint="plan again: ollamux plan --apply")
        self._must_not_hinder(fleet)
        self._keep(new)
        core.placement = new
        if fleet != core.fleet:
            self._reload.put(fleet)
        for unit in core.units.values():
            self._follow(unit, new.of(unit.name))
        if new != self._told:
            core.note(None, f"placement: {_words(new)}")
            self._told = new

    def drop(self, unit: Unit, pin: PinSpec) -> None:
        """Take one model out of the placement; it stays loaded as long as its server likes."""
        placement = self._core.placement or Placement()
        left = tuple(one for one in placement.pins if one.instance != unit.name or one.pin != pin)
        self._core.placement = self._told = replace(placement, pins=left)
        self._keep(self._core.placement)
        unit.placed_pins = tuple(one for one in unit.placed_pins if one != pin)

    def _must_not_hinder(self, fleet: FleetSpec) -> None:
        leaving = [unit.name for unit in self._core.units.values() if unit.leaving and fleet.instance(unit.name)]
        if leaving:
            raise RefusedError(f"{leaving[0]} is still stopping", hint="try again in a moment")

    def _keep(self, new: Placement) -> None:
        try:
            write_atomic(f"{self._folder}/{FILE_NAME}", json.dumps(new.as_json()).encode(), sync=True)
        except OSError as error:
            self._core.note(None, f"the placement cannot be kept on disk: {error.strerror}; it holds until a restart")

    def _follow(self, unit: Unit, new: tuple[PinSpec, ...]) -> None:
        old, unit.placed_pins = unit.placed_pins, new
        if old == new:
            return
        for pin in old:
            if pin in new:
                continue
            self._preload.forget(unit, pin)
            if not any(same_model(pin.name, one.name) for one in unit.pins):
                self._let_go(unit, pin)
        if unit.state.phase is Phase.READY:
            self._checks.ask_scheduler(unit)

    def _let_go(self, unit: Unit, pin: PinSpec) -> None:
        """Unload what the placement has taken away, so that its room is free for what comes."""
        shown = safe_text(pin.name)
        if unit.state.phase is not Phase.READY or not is_loaded(unit, pin.name):
            return

        def done(error: str | None) -> None:
            self._core.note(unit, f"{shown} {'is let go' if error is None else f'could not be let go: {error}'}")
            self._checks.ask_scheduler(unit)

        self._unloads.send(unit, pin.name, done)


def _words(placement: Placement) -> str:
    by_instance: dict[str, list[str]] = {}
    for placed in placement.pins:
        by_instance.setdefault(placed.instance, []).append(safe_text(placed.model))
    told = [f"{name}: {', '.join(models)}" for name, models in by_instance.items()]
    told += [f"{safe_text(model)} has no place ({safe_text(reason)})" for model, reason in placement.unplaced]
    return "; ".join(told) or "nothing"
