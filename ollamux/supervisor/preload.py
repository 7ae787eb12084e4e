"""Keep loaded what the configuration or a person wants kept. When and how is decided in `domain.pins`; here it is done.

Looks come with the answers of `/api/ps`. A pin by hand is an intent: it is in the state file, and lasts until `unpin`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ollamux.domain import canary, pins
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.pins import Look, Need, PinState, Seen
from ollamux.domain.spec import MODELS_PER_CARD, Pinning, PinSpec, Pull
from ollamux.domain.text import format_duration, safe_text, same_model
from ollamux.gpu.model import Gpu
from ollamux.ollama import loading
from ollamux.supervisor import family
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.http import Answer, Request, probe_host
from ollamux.supervisor.loads import Loaded, Loads
from ollamux.supervisor.pulls import Fetched, Pulls
from ollamux.supervisor.unit import Unit, Work
from ollamux.system import procs
from ollamux.system.clock import monotonic, wall

UNPIN_TIMEOUT_S = 30.0
RENEW_AFTER_S = 30.0
"""A pin is asked for again after this time at the soonest; the wait doubles while it is lost again and again."""
QUIET_S = 60.0
"""A runner that was at work so short a while ago may be in use."""


class Preload:
    """The pins of all instances, one model after the other."""

    def __init__(self, core: Core, checks: Checks, gpus: Gpus, loads: Loads, pulls: Pulls) -> None:
        self._core = core
        self._checks = checks
        self._gpus = gpus
        self._loads = loads
        self._pulls = pulls
        self._fetching: dict[tuple[str, str], Callable[[], None]] = {}
        core.changed.append(self._on_change)
        checks.listeners.append(self._look)
        pulls.fetched.append(self._fetched)

    def _on_change(self, unit: Unit, before: Instance) -> None:
        if unit.state.phase is Phase.READY and before.phase is Phase.STARTING:
            unit.pin_states = {}  # they are loaded with the first answer of ps, which is asked for now
        elif unit.leaving or not unit.wanted:
            self._stop_fetching(unit)

    def change(self, unit: Unit, before: tuple[PinSpec, ...]) -> None:
        """Load what is asked for now, and let the server forget in its own time what is not any more."""
        for pin in before:
            if pin not in unit.spec.preload:
                self.forget(unit, pin)
        for pin in before:
            self.let_go(unit, pin)
        if unit.state.phase is Phase.READY:
            self._checks.ask_scheduler(unit)

    def forget(self, unit: Unit, pin: PinSpec) -> None:
        """Do no more for a pin that is none any more; its model stays as it is.

        Where its model is to be kept with another context now, what is loaded is not taken for that.
        """
        unit.pin_states.pop(pin.name, None)
        for other in unit.pins:
            if same_model(other.name, pin.name) and other.num_ctx != pin.num_ctx:
                unit.pin_states[other.name] = PinState(changed=True)
        stop = self._fetching.pop((unit.name, pin.name), None)
        if stop is not None:
            stop()
        for load in [load for load in unit.loads if load.pin == pin]:
            self._loads.give_up(unit, load)

    def _stop_fetching(self, unit: Unit) -> None:
        for key in [key for key in self._fetching if key[0] == unit.name]:
            self._fetching.pop(key)()

    def let_go(self, unit: Unit, pin: PinSpec) -> None:
        """Give a model that is not to be kept any more its usual time again."""
        self_kept = unit.spec.keep_alive_s is not None and unit.spec.keep_alive_s < 0
        if any(same_model(pin.name, other.name) for other in unit.pins) or self_kept:
            return
        for load in [load for load in unit.loads if load.pin == pin]:
            self._loads.give_up(unit, load)
        if unit.state.phase is Phase.READY and any(
            same_model(pin.name, model.name) and model.expires_at is None for model in unit.models
        ):
            self._unpin(unit, pin, loading.GENERATE)

    def _unpin(self, unit: Unit, pin: PinSpec, target: str) -> None:
        """A request without a prompt, loaded as it is and with a time to live: the pin ends as if a client had."""
        name = pin.name
        body = loading.load(
            replace(pin, keep_alive_s=300.0 if unit.spec.keep_alive_s is None else unit.spec.keep_alive_s)
        )

        def done(answer: Answer) -> None:
            unit.requests.pop(f"unpin {name}", None)
            if loading.only_embeds(answer.status, answer.body) and target == loading.GENERATE:
                self._unpin(unit, pin, loading.EMBED)
                return
            why = answer.error or loading.error_of(answer.status, answer.body)
            told = "is no longer kept" if answer.status == 200 else f"is still kept: {why}"
            self._core.note(unit, f"{safe_text(name)} {told}")
            self._checks.ask_scheduler(unit)

        try:
            unit.requests[f"unpin {name}"] = Request(
                self._core.loop,
                (probe_host(unit.spec.host), unit.spec.port),
                target,
                timeout_s=UNPIN_TIMEOUT_S,
                done=done,
                body=body,
            )
        except OSError as error:  # no descriptor left to ask with
            self._core.note(unit, f"{safe_text(name)} is still kept: {error.strerror}")

    def _look(self, unit: Unit) -> None:
        wanted, now = unit.pins, monotonic()
        if not wanted or (unit.tune is not None and unit.tune.holds):
            return
        quiet = self._quiet(unit, now)
        if unit.state.phase is not Phase.READY or unit.loads:
            return
        alive = len(unit.models) - len(unit.gone_runners)
        if len(unit.runners) > alive:
            return  # somebody's model is being loaded, or goes: soon it is clear which
        look = self.look_at(unit, quiet=quiet)
        for pin in wanted:
            state = unit.pin_states.get(pin.name, PinState())
            told = pins.looked(pin, state, look, now)
            if pins.need(pin, told, look) is not Need.NOTHING:
                told = replace(told, waits=pins.obstacle(pin, wanted, told, look))
            self._put(unit, pin, state, told)
        fetched = tuple(pin for pin in wanted if (unit.name, pin.name) not in self._fetching)
        chosen = pins.choose(fetched, unit.pin_states, look, now, renew_s=RENEW_AFTER_S)
        if chosen is not None:
            self._ask(unit, chosen, look, now)

    def _put(self, unit: Unit, pin: PinSpec, old: PinState, new: PinState) -> None:
        if new.waits is not None and new.waits != old.waits:
            self._core.note(unit, f"{safe_text(pin.name)} is not kept for now: {new.waits}")
        unit.pin_states[pin.name] = new

    def _quiet(self, unit: Unit, now: float) -> bool:
        """Whether no runner was at work lately; one that is seen for the first time is taken to be."""
        work: dict[int, Work] = {}
        for pid in unit.runners:
            effort, before = family.effort(pid), unit.work.get(pid)
            if effort is None:
                continue
            if before is None:
                work[pid] = Work(effort, now, now)
            else:
                busy = canary.computes(before.effort, effort, now - before.at, ticks_per_s=procs.CLOCK_TICKS)
                work[pid] = Work(effort, now, now if busy else before.active_at)
        unit.work = work
        return all(now - each.active_at >= QUIET_S for each in work.values())

    def look_at(self, unit: Unit, *, quiet: bool) -> Look:
        """Return what is known of an instance, as the rules want it."""
        cards: Sequence[Gpu] = self._gpus.current(unit.gpus)
        if unit.spec.pinning is Pinning.ANY and self._gpus.inventory is not None:
            cards = self._gpus.inventory.gpus
        return Look(
            models=tuple(
                Seen(
                    name=model.name,
                    expires_at=model.expires_at,
                    context=model.context_length,
                    runner=self._checks.runner_of(unit, model),
                    size_bytes=model.size_vram_bytes,
                    alive=model.name not in unit.gone_runners,
                )
                for model in unit.models
            ),
            limit=unit.spec.max_loaded_models or MODELS_PER_CARD * max(1, len(cards)),
            free_bytes=free_of(cards),
            quiet=quiet,
            wall=wall(),
            default_context=unit.spec.context_length,
        )

    def _ask(self, unit: Unit, pin: PinSpec, look: Look, now: float) -> None:
        state = unit.pin_states.get(pin.name, PinState())
        lost = pins.loss(pin, state, look)
        if lost is not None:
            self._core.note(unit, f"{safe_text(pin.name)} lost its pin ({lost}); pinning it again")
        unit.pin_states[pin.name] = pins.asked(state, now)
        self._loads.ask(unit, pin, lambda loaded: self.loaded(unit, pin, loaded))

    def loaded(self, unit: Unit, pin: PinSpec, loaded: Loaded) -> None:
        """Take in what came of the load of a pin."""
        name, now = safe_text(pin.name), monotonic()
        state = unit.pin_states.get(pin.name, PinState())
        if pin not in unit.pins or unit.state.phase is not Phase.READY:
            return
        if loaded.why is None:
            unit.pin_states[pin.name] = pins.loaded(state, now)
            told = f"{name} is loaded{_kept(pin)} ({format_duration(loaded.seconds)})"
        else:
            unit.pin_states[pin.name] = pins.failed(state, now, loaded.why, missing=loaded.missing)
            told = f"{name} could not be loaded: {loaded.why}"
            if loaded.missing and unit.spec.pull is Pull.NEVER:
                told += f'; ollamux pull {name} fetches it, pull = "missing" in the configuration does so by itself'
        if loaded.why is None or loaded.why != state.failed:
            self._core.note(unit, told)
        if loaded.missing and unit.spec.pull is Pull.MISSING:
            self._fetch(unit, pin)
        self._gpus.look_now()
        self._checks.ask_scheduler(unit)

    def _fetch(self, unit: Unit, pin: PinSpec) -> None:
        key = (unit.name, pin.name)
        if key in self._fetching:
            return

        def done(fetched: Fetched) -> None:
            self._fetching.pop(key, None)
            state = unit.pin_states.get(pin.name, PinState())
            if pin in unit.pins and fetched.why is not None:
                why = f"it could not be fetched: {fetched.why}"
                unit.pin_states[pin.name] = replace(state, tried_at=monotonic(), failed=why, missing=True)

        self._fetching[key] = self._pulls.want(self._pulls.store_of(unit), pin.name, done)

    def _fetched(self, store: str, name: str) -> None:
        """Load at once, wherever it is to be kept, what has just come into the store."""
        for unit in self._core.units.values():
            pin = next((pin for pin in unit.pins if same_model(pin.name, name)), None)
            if pin is None or unit.state.phase is not Phase.READY or self._pulls.store_of(unit) != store:
                continue
            if unit.pin_states.get(pin.name, PinState()).missing:
                unit.pin_states[pin.name] = PinState()
                self._core.loop.call_soon(partial(self._checks.ask_scheduler, unit))


def _kept(pin: PinSpec) -> str:
    if pin.keep_alive_s is None:
        return ""
    return " and kept" if pin.keep_alive_s < 0 else f", for {format_duration(pin.keep_alive_s)} after its last use"


def free_of(cards: Sequence[Gpu]) -> int | None:
    """Return what is free on cards, None where there are none or it is not known."""
    sizes = [(gpu.memory_total_bytes, gpu.memory_used_bytes) for gpu in cards]
    known = [total - used for total, used in sizes if total is not None and used is not None]
    return sum(known) if known and len(known) == len(sizes) else None
