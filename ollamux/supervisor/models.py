"""What is asked about models over the control socket: load, unload, pin, unpin, pull, and how all of them are.

What a client asked for is kept as the plain request beside it, so that the program that takes our place can ask again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ollamux.domain import pins
from ollamux.domain.errors import Exit, NotFoundError, OllamuxError, RefusedError
from ollamux.domain.phases import Phase
from ollamux.domain.pins import PinState
from ollamux.domain.spec import PinSpec, PlacementMode
from ollamux.domain.text import format_duration, safe_text, same_model
from ollamux.protocol.client import PROTOCOL
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.loads import Load, Loaded, Loads
from ollamux.supervisor.model_view import models_view
from ollamux.supervisor.model_words import (
    answer,
    answer_all,
    end_of_pin,
    model_of,
    number_of,
    of_load,
    once,
    taken,
    took,
    way,
    way_of,
)
from ollamux.supervisor.preload import Preload
from ollamux.supervisor.pull_requests import PullRequests
from ollamux.supervisor.pulls import Pulls
from ollamux.supervisor.server import Client
from ollamux.supervisor.settling import timeout_of
from ollamux.supervisor.tunes import Tunes
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.unloads import Unloads
from ollamux.supervisor.where import Where
from ollamux.system.clock import monotonic

_ONE = frozenset({"model", "on", "wait", "timeout"})
FIELDS: dict[str, frozenset[str]] = {
    "models": frozenset({"fleet"}),
    "load": _ONE | {"num_ctx", "keep_alive_s"},
    "unload": _ONE,
    "pin": _ONE | {"num_ctx"},
    "unpin": frozenset({"model", "on"}),
    "pull": frozenset({"models", "on"}),
    "tune": frozenset({"model", "on", "key", "timeout"}),
}


class Models:
    """Answers what concerns models. Whatever is asked for lives on the loop; nothing here waits."""

    def __init__(
        self,
        core: Core,
        checks: Checks,
        gpus: Gpus,
        loads: Loads,
        pulls: Pulls,
        *,
        preload: Preload,
        remember: Callable[[], None],
        program: Callable[[Unit], str],
    ) -> None:
        self._core = core
        self._checks = checks
        self._gpus = gpus
        self._loads = loads
        self._pulls = pulls
        self._preload = preload
        self._remember = remember
        self.drop_placed: Callable[[Unit, PinSpec], None] = lambda unit, pin: None
        self._where = Where(core, gpus, pulls)
        self.unloads = unloads = Unloads(core, checks, self._where)
        tunes = Tunes(core, checks, gpus, loads, preload=preload, where=self._where, unloads=unloads, program=program)
        self.words: dict[str, Callable[[Client, dict[str, Any]], None]] = {
            "models": self._models,
            "load": self._load,
            "unload": unloads.unload,
            "pin": self._pin,
            "unpin": self._unpin,
            "pull": PullRequests(core, pulls, self._where).pull,
            "tune": tunes.tune,
        }

    def go_on_loading(self, unit: Unit, loads: tuple[PinSpec, ...]) -> None:
        """Load what the program before this one was asked for, and nobody waits for."""
        for pin in loads:
            self._loads.ask(unit, pin, partial(self._note_load, unit, pin), unattended=True)

    def go_on(self, client: Client, waits: dict[str, Any]) -> None:
        """Ask again for what a client waited for when the program before this one was replaced."""
        request = dict(waits["models"])
        if waits.get("until") is not None:
            request["timeout"] = max(1.0, waits["until"] - monotonic())
        try:
            self.words[request["cmd"]](client, request)
        except OllamuxError as error:
            client.refuse(error)

    def _models(self, client: Client, request: dict[str, Any]) -> None:
        view = models_view(self._core, self._pulls)
        if request.get("fleet") is True:
            from ollamux.config.codec import fleet_to_json

            view["fleet"] = fleet_to_json(self._core.configured)
        client.answer({"v": PROTOCOL, "ok": True, "exit": 0, "models": view})

    # -- load and unload

    def _load(self, client: Client, request: dict[str, Any]) -> None:
        name = model_of(request)
        unit, why = self._where.to_load(name, request)
        pin = PinSpec(
            name=name,
            num_ctx=number_of(request, "num_ctx"),
            keep_alive_s=number_of(request, "keep_alive_s"),
        )
        known = next((one for one in unit.pins if same_model(one.name, name)), None)
        if known is not None and (pin.num_ctx not in (None, known.num_ctx) or pin.keep_alive_s is not None):
            raise RefusedError(
                f"{unit.name} keeps {safe_text(name)} already, {way(known)}: loaded in another way it would come back",
                hint=end_of_pin(unit, known),
            )
        if request.get("wait") is False:
            self._loads.ask(unit, pin, partial(self._note_load, unit, pin), unattended=True)
            answer(client, unit.name, Exit.OK, f"asked to load {safe_text(name)}{taken(why)}")
            return
        done = once(client, self._core, request | {"on": unit.name}, timeout_of(request), unit, f"{name} is not loaded")

        def ended(loaded: Loaded) -> None:
            self._note_load(unit, pin, loaded)
            done(*of_load(pin, loaded, why))

        load = self._loads.ask(unit, known or pin, ended)
        client.on_gone = lambda: self._give_up(unit, load)

    def _give_up(self, unit: Unit, load: Load) -> None:
        if load in unit.loads:
            self._loads.give_up(unit, load)
            self._core.note(unit, f"{safe_text(load.pin.name)} is not loaded: whoever asked for it went away")

    def _note_load(self, unit: Unit, pin: PinSpec, loaded: Loaded) -> None:
        name = safe_text(pin.name)
        told = f"is loaded on request ({format_duration(loaded.seconds)})" if loaded.why is None else None
        self._core.note(unit, f"{name} {told or f'could not be loaded: {loaded.why}'}")
        self._gpus.look_now()  # who asks next wants to know what is free now
        if unit.state.phase is Phase.READY:
            self._checks.ask_scheduler(unit)

    # -- pin and unpin

    def _pin(self, client: Client, request: dict[str, Any]) -> None:
        name = model_of(request)
        pin = PinSpec(name=name, num_ctx=number_of(request, "num_ctx"))
        unit, why = self._where.named(request), ""
        if unit is None:
            unit, why = self._where.to_load(name, request)
        elif unit.leaving or not unit.spec.enabled:
            raise RefusedError(f"{unit.name} is {'leaving' if unit.leaving else 'disabled in'} the configuration")
        known = next((one for one in unit.pins if same_model(one.name, name)), None)
        if known is not None and known in unit.spec.preload:
            if pin.num_ctx not in (None, known.num_ctx):
                raise RefusedError(
                    f"{unit.name} keeps {safe_text(name)} already, {way_of(unit, known)}",
                    hint=end_of_pin(unit, known),
                )
            answer(
                client, unit.name, Exit.OK, f"{safe_text(name)} is kept already: the configuration says so (preload)"
            )
            return
        self._where.must_have(unit, name)
        if unit.state.phase is Phase.READY and unit.tune is None:
            self._must_have_room(unit, pin)
        unit.hand_pins = (*(one for one in unit.hand_pins if not same_model(one.name, name)), pin)
        unit.pin_states.pop(pin.name, None)
        self._remember()
        self._core.note(unit, f"{safe_text(name)} is pinned by hand{taken(why)}")
        self._load_pin(client, request, unit, pin, why)

    def _must_have_room(self, unit: Unit, pin: PinSpec) -> None:
        others = [one for one in unit.pins if not same_model(one.name, pin.name)]
        limit = self._preload.look_at(unit, quiet=True).limit
        if len(others) >= limit:
            names = ", ".join(safe_text(one.name) for one in others)
            raise RefusedError(
                f"{unit.name} loads no more than {limit} models (max_loaded_models), and keeps {names} already",
                hint="unpin one of them, or raise max_loaded_models in the configuration",
            )

    def _load_pin(self, client: Client, request: dict[str, Any], unit: Unit, pin: PinSpec, why: str) -> None:
        shown = safe_text(pin.name)
        if unit.state.phase is not Phase.READY:
            words = f"{shown} is pinned, and loaded once {unit.name} is READY; it is {unit.state.phase.value} now"
            answer(client, unit.name, Exit.OK, words)
            return
        if unit.tune is not None:
            words = f"{shown} is pinned, and loaded once {unit.name} is back from tuning {safe_text(unit.tune.model)}"
            answer(client, unit.name, Exit.OK, words)
            return
        if request.get("wait") is False:
            self._checks.ask_scheduler(unit)
            answer(client, unit.name, Exit.OK, f"{shown} is pinned, and will be loaded{taken(why)}")
            return
        again = {**request, "on": unit.name}
        done = once(client, self._core, again, timeout_of(request), unit, f"{pin.name} is pinned, but not loaded")

        def ended(loaded: Loaded) -> None:
            self._preload.loaded(unit, pin, loaded)
            if loaded.why is None:
                done(Exit.OK, f"{shown} is pinned and loaded{took(loaded, why)}")
            else:
                hint = f"it is tried again; ollamux models unpin {shown} --on {unit.name} ends that"
                done(Exit.DEGRADED, f"{shown} is pinned, but could not be loaded: {loaded.why}; {hint}")

        unit.pin_states[pin.name] = pins.asked(PinState(), monotonic())
        self._loads.ask(unit, pin, ended)

    def _unpin(self, client: Client, request: dict[str, Any]) -> None:
        name = model_of(request)
        named = self._where.named(request)
        units = [unit for unit in self._core.units.values() if named in (None, unit)]
        by_hand = [(unit, pin) for unit in units for pin in unit.hand_pins if same_model(pin.name, name)]
        configured = [unit for unit in units if any(same_model(pin.name, name) for pin in unit.spec.preload)]
        placed = [(unit, pin) for unit in units for pin in unit.placed_pins if same_model(pin.name, name)]
        if placed and not by_hand and self._core.configured.placement is PlacementMode.AUTO:
            names = ", ".join(unit.name for unit, _ in placed)
            raise RefusedError(
                f'{safe_text(name)} is kept on {names} because placement is "auto"',
                hint=f'take [models."{safe_text(name)}"] out of the configuration, then: ollamux reload',
            )
        if not by_hand and not placed and configured:
            names = ", ".join(unit.name for unit in configured)
            raise RefusedError(
                f"{safe_text(name)} is kept on {names} because the configuration says so (preload)",
                hint="take it out there, then: ollamux reload",
            )
        if not by_hand and not placed:
            where = "anywhere" if named is None else f"on {named.name}"
            raise NotFoundError(f"{safe_text(name)} is not pinned {where}", hint="ollamux models ls shows what is")
        outcomes = []
        for unit, pin in dict.fromkeys((*by_hand, *placed)):
            unit.hand_pins = tuple(one for one in unit.hand_pins if one != pin)
            if pin in unit.placed_pins:
                self.drop_placed(unit, pin)
            unit.pin_states.pop(pin.name, None)
            self._core.note(unit, f"{safe_text(name)} is not pinned any more")
            self._preload.let_go(unit, pin)
            words = f"{safe_text(name)} is unpinned"
            if unit in configured:
                words += ", but still kept: the configuration says so (preload)"
            outcomes.append({"name": unit.name, "exit": 0, "words": words})
        self._remember()
        answer_all(client, outcomes)
