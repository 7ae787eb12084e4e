"""Ask an instance to load a model, one after the other, and tell whoever asked what came of it.

The time-out is long, since a server aborts a load whose client goes away; that is also how a load is given up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ollamux.domain.instance import Instance
from ollamux.domain.phases import SERVING, Phase
from ollamux.domain.spec import PinSpec
from ollamux.ollama import loading
from ollamux.supervisor.core import Core
from ollamux.supervisor.http import Answer, Request, probe_host
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic

LOAD_TIMEOUT_S = 1800.0
AGAIN_S = 1.0


class Loaded(NamedTuple):
    """What came of a load. `why` is None where it went well; `missing`: the model is not in the store."""

    why: str | None
    missing: bool
    seconds: float


class Load:
    """One load that was asked for. `unattended`: nobody waits for it who would ask again after an upgrade."""

    def __init__(self, pin: PinSpec, done: Callable[[Loaded], None], *, unattended: bool) -> None:
        self.pin = pin
        self.done = done
        self.unattended = unattended
        self.began: float | None = None
        self.request: Request | None = None


class Loads:
    """The loads of all instances, each with a queue of its own."""

    def __init__(self, core: Core) -> None:
        self._core = core
        core.changed.append(self._on_change)

    def ask(self, unit: Unit, pin: PinSpec, done: Callable[[Loaded], None], *, unattended: bool = False) -> Load:
        """Load a model once its turn comes."""
        load = Load(pin, done, unattended=unattended)
        unit.loads.append(load)
        self._go_on(unit)
        return load

    def give_up(self, unit: Unit, load: Load) -> None:
        """Stop a load; a server that was at it ends the runner."""
        if load in unit.loads:
            unit.loads.remove(load)
            if load.request is not None:
                load.request.cancel()
            self._go_on(unit)

    def _go_on(self, unit: Unit) -> None:
        if unit.loads and unit.loads[0].began is None and unit.state.phase is Phase.READY:
            unit.loads[0].began = monotonic()
            self._send(unit, unit.loads[0], loading.GENERATE)

    def _send(self, unit: Unit, load: Load, target: str) -> None:
        def done(answer: Answer) -> None:
            if loading.only_embeds(answer.status, answer.body) and target == loading.GENERATE:
                self._send(unit, load, loading.EMBED)
            else:
                self._answered(unit, load, answer)

        try:
            load.request = Request(
                self._core.loop,
                (probe_host(unit.spec.host), unit.spec.port),
                target,
                timeout_s=LOAD_TIMEOUT_S,
                done=done,
                body=loading.load(load.pin),
            )
        except OSError as error:  # no descriptor left to ask with
            why = f"it cannot be asked for: {error.strerror}"
            self._core.loop.call_later(AGAIN_S, lambda: self._end(unit, load, Loaded(why, False, 0.0)))

    def _answered(self, unit: Unit, load: Load, answer: Answer) -> None:
        why = None
        if answer.error is not None:
            why = answer.error
        elif answer.status != 200:
            why = loading.error_of(answer.status, answer.body)
        missing = loading.is_missing(answer.status, answer.body)
        self._end(unit, load, Loaded(why, missing, answer.seconds))

    def _end(self, unit: Unit, load: Load, loaded: Loaded) -> None:
        if load in unit.loads:
            unit.loads.remove(load)
            load.done(loaded)
            self._go_on(unit)

    def _on_change(self, unit: Unit, before: Instance) -> None:
        if unit.state.phase in SERVING:
            self._go_on(unit)
            return
        loads, unit.loads = unit.loads, []
        reason = f": {unit.state.reason}" if unit.state.reason else ""
        for load in loads:
            if load.request is not None:
                load.request.cancel()
            why = f"{unit.name} went away meanwhile, and is {unit.state.phase.value}{reason}"
            load.done(Loaded(why, False, 0.0))
