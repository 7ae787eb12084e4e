"""Lend an instance to whoever tunes a model on its cards: its models go, its pins wait, and afterwards all comes back.

The loan is bound to a connection, so it ends with whoever tunes, however that ends. What is tried runs in a server of
the borrower's own, known by a mark: no out-of-memory of it ever happens to the instance.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from ollamux.domain import pins
from ollamux.domain.errors import Exit, OllamuxError, TimedOutError, UsageError
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.pins import PinState
from ollamux.domain.spec import LoadOptions, PinSpec
from ollamux.domain.text import format_duration, safe_text, same_model
from ollamux.ollama.api import LoadedModel
from ollamux.ollama.loading import kept_for, options_told
from ollamux.supervisor import family
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.loads import Loaded, Loads
from ollamux.supervisor.model_words import model_of, must_be_ready
from ollamux.supervisor.preload import Preload, free_of
from ollamux.supervisor.server import Client
from ollamux.supervisor.settling import timeout_of
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.unloads import Unloads
from ollamux.supervisor.where import Where
from ollamux.system import procs
from ollamux.system.clock import monotonic, wall

LOOK_S = 0.1
MEMORY_WITHIN_S = 10.0
"""How long the memory of what was tried is waited for, as after a crash."""
_SLACK_BYTES = 64 * 1024**2

UNLOADING, READY, ENDING, RESTORING, RESTORED = "unloading", "ready", "ending", "restoring", "restored"


class Tune:
    """One loan. `before` is what was loaded and is to be loaded again; by its `key` the borrower knows it as his."""

    def __init__(self, client: Client, model: str, *, key: str, program: str, before: tuple[PinSpec, ...]) -> None:
        self.client = client
        self.key = key
        self.model = model
        self.program = program
        self.before = before
        self.state = UNLOADING
        self.began = monotonic()
        self.asked: set[str] = set()
        self.ready_at: float | None = None
        self.free_bytes: int | None = None
        self.restored: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.cleared_at: float | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing may be loaded on the instance but what is tried."""
        return self.state in (UNLOADING, READY, ENDING)

    def as_json(self, unit: Unit) -> dict[str, Any]:
        """Return it for the wire."""
        return {
            "key": self.key,
            "model": self.model,
            "state": self.state,
            "seconds": round(monotonic() - self.began, 1),
            "program": self.program,
            "marks": unit.trial_mark.variables(),
            "headroom_bytes": unit.spec.headroom_bytes,
            "before": [_as_json(pin) for pin in self.before],
            "left": [pin.name for pin in self.before if pin.name not in (*self.restored, *dict(self.failed))],
        }


class Tunes:
    """Answers `tune`: the answer comes only where the loan is refused or ended from here."""

    def __init__(
        self,
        core: Core,
        checks: Checks,
        gpus: Gpus,
        loads: Loads,
        *,
        preload: Preload,
        where: Where,
        unloads: Unloads,
        program: Callable[[Unit], str],
    ) -> None:
        self._core = core
        self._checks = checks
        self._gpus = gpus
        self._loads = loads
        self._preload = preload
        self._where = where
        self._unloads = unloads
        self._program = program
        core.changed.append(self._on_change)
        checks.listeners.append(self._on_look)
        gpus.listeners.append(self._on_gpus)

    def tune(self, client: Client, request: dict[str, Any]) -> None:
        """Lend an instance, for as long as the connection is there."""
        name, unit = model_of(request), self._where.named(request)
        if unit is None:
            raise UsageError("no instance is named")
        must_be_ready(unit)
        self._where.must_have(unit, name)
        timeout_s, handed, key = timeout_of(request), request.get("before"), request.get("key")
        if not isinstance(key, str):
            raise UsageError("the key must be a text")
        before = () if handed is None else tuple(pin_from(row) for row in handed)
        unit.tune = tune = Tune(client, name, key=key, program=self._program(unit), before=before)
        client.on_gone = partial(self._end, unit, tune, None)
        self._keep(tune, request)
        if handed is None:
            self._core.note(unit, f"is lent for tuning {safe_text(name)}: its own models are unloaded meanwhile")
        self._ask(unit, tune, monotonic() + timeout_s)

    def _keep(self, tune: Tune, request: dict[str, Any]) -> None:
        """Write down what the program that takes our place needs in order to end the loan as this one would."""
        before = [_as_json(pin) for pin in tune.before]
        tune.client.waits = {"models": {**request, "before": before}}

    # -- making room

    def _ask(self, unit: Unit, tune: Tune, until: float) -> None:
        """Ask again and again what is loaded, until nothing is."""
        if unit.tune is not tune or tune.state != UNLOADING:
            return
        if monotonic() > until:
            names = ", ".join(safe_text(model.name) for model in unit.models) or "a model that is being loaded"
            error = TimedOutError(
                f"{unit.name} is still at work with {names}", hint="it goes when its requests are done"
            )
            self._end(unit, tune, error)
            return
        if "scheduler" not in unit.requests:
            self._checks.ask_scheduler(unit)
        self._core.loop.call_later(LOOK_S, partial(self._ask, unit, tune, until))

    def _on_look(self, unit: Unit) -> None:
        tune = unit.tune
        if tune is not None and tune.state == RESTORED:
            unit.tune = None  # whoever asks now sees what is loaded again
        if tune is None or tune.state != UNLOADING:
            return
        tune.asked &= {model.name for model in unit.models}  # what was being loaded is asked to go a second time
        for model in unit.models:
            if model.name not in tune.asked:
                tune.asked.add(model.name)
                others = (pin for pin in tune.before if pin.name != model.name)
                tune.before = (*others, self._as_loaded(unit, model))
                assert tune.client.waits is not None  # noqa: S101 - it is answered only after the end
                self._keep(tune, tune.client.waits["models"])
                self._unloads.send(unit, model.name, partial(self._unloaded, unit, tune, model.name))
        if not unit.models and not unit.runners and not unit.loads:
            tune.state, tune.ready_at = READY, monotonic()
            self._gpus.look_now()

    def _unloaded(self, unit: Unit, tune: Tune, name: str, error: str | None) -> None:
        if error is not None:
            self._end(
                unit, tune, OllamuxError(f"{safe_text(name)} could not be unloaded: {error}", exit_code=Exit.DEGRADED)
            )

    def _as_loaded(self, unit: Unit, model: LoadedModel) -> PinSpec:
        """Return how a model is loaded now, as far as that can be told."""
        pid = self._checks.runner_of(unit, model)
        left_s = None if model.expires_at is None else model.expires_at - wall()
        context = model.context_length
        return PinSpec(
            name=model.name,
            num_ctx=None if context == unit.spec.context_length else context,
            keep_alive_s=kept_for(left_s, unit.spec.keep_alive_s),
            options=LoadOptions() if pid is None else options_told(procs.arguments(pid)),
        )

    def _on_gpus(self) -> None:
        for unit in self._core.units.values():
            tune = unit.tune
            if tune is None or tune.ready_at is None or tune.free_bytes is not None:
                continue
            if tune.state == READY and self._gpus.asked_at >= tune.ready_at:
                tune.free_bytes = free_of(self._gpus.current(unit.gpus))

    # -- the end

    def _on_change(self, unit: Unit, before: Instance) -> None:
        tune = unit.tune
        if tune is None:
            return
        if tune.state in (UNLOADING, READY) and unit.state.phase is not Phase.READY:
            why = f": {unit.state.reason}" if unit.state.reason else ""
            message = f"{unit.name} is {unit.state.phase.value} in the middle of the tune{why}"
            code = Exit.DEGRADED if unit.wanted else Exit.REFUSED
            self._end(unit, tune, OllamuxError(message, hint="ollamux status", exit_code=code))
        elif tune.cleared_at is not None:
            self._restore(unit, tune)

    def _end(self, unit: Unit, tune: Tune, error: OllamuxError | None) -> None:
        if unit.tune is not tune or tune.state not in (UNLOADING, READY):
            return
        tune.state = ENDING
        tune.client.on_gone = None
        if error is not None:
            tune.client.refuse(error)
        self._clear(unit, tune)

    def _clear(self, unit: Unit, tune: Tune) -> None:
        """End whatever is left of what was tried."""
        left = [pid for pid, mark in family.marked(unit.owner).items() if mark == unit.trial_mark]
        for pid in left:
            _kill(pid, unit)
        if left:
            self._core.loop.call_later(LOOK_S, partial(self._clear, unit, tune))
            return
        tune.cleared_at = monotonic()
        self._gpus.look_now()
        self._wait_for_memory(unit, tune)

    def _wait_for_memory(self, unit: Unit, tune: Tune) -> None:
        free = free_of(self._gpus.current(unit.gpus))
        short = tune.free_bytes is not None and free is not None and free + _SLACK_BYTES < tune.free_bytes
        if short and tune.cleared_at is not None and monotonic() < tune.cleared_at + MEMORY_WITHIN_S:
            self._gpus.look_now()
            self._core.loop.call_later(LOOK_S, partial(self._wait_for_memory, unit, tune))
        else:
            self._restore(unit, tune)

    def _restore(self, unit: Unit, tune: Tune) -> None:
        """Load again what was loaded; while the instance is on its way back, later."""
        if unit.tune is not tune or tune.state != ENDING:
            return
        if unit.leaving or not unit.wanted or self._core.shutting_down:
            unit.tune = None
            return
        if unit.state.phase is not Phase.READY:
            return
        tune.state = RESTORING
        for pin in tune.before:
            known = next((one for one in unit.pins if same_model(one.name, pin.name)), None)
            if known is not None:
                unit.pin_states[known.name] = pins.asked(PinState(), monotonic())
            self._loads.ask(unit, known or pin, partial(self._restored, unit, tune, pin, known))
        self._finish(unit, tune)

    def _restored(self, unit: Unit, tune: Tune, pin: PinSpec, known: PinSpec | None, loaded: Loaded) -> None:
        if loaded.why is None:
            tune.restored.append(pin.name)
        else:
            tune.failed.append((pin.name, loaded.why))
        if known is not None:
            self._preload.loaded(unit, known, loaded)
        elif loaded.why is not None:
            self._core.note(unit, f"{safe_text(pin.name)} could not be loaded again: {loaded.why}")
        self._finish(unit, tune)

    def _finish(self, unit: Unit, tune: Tune) -> None:
        if len(tune.restored) + len(tune.failed) < len(tune.before) or unit.tune is not tune:
            return
        tune.state = RESTORED
        again = ", ".join(safe_text(name) for name in tune.restored)
        took = format_duration(monotonic() - tune.began)
        self._core.note(unit, f"is back after {took} of tuning{f'; loaded again: {again}' if again else ''}")
        if unit.state.phase is Phase.READY:
            self._checks.ask_scheduler(unit)
        else:
            unit.tune = None


def _kill(pid: int, unit: Unit) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if family.mark_of(pid) == unit.trial_mark:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it is gone, or has changed its user and is not ours any more
    finally:
        os.close(handle)


def _as_json(pin: PinSpec) -> dict[str, Any]:
    options = {name: getattr(pin.options, name) for name in LoadOptions.__slots__}
    return {"name": pin.name, "num_ctx": pin.num_ctx, "keep_alive_s": pin.keep_alive_s, "options": options}


def pin_from(row: dict[str, Any]) -> PinSpec:
    """Return a model that was loaded, and how, from the wire."""
    return PinSpec(**{**row, "options": LoadOptions(**row["options"])})
