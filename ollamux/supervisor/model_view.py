"""What is known of the models of all instances: loaded, kept, being loaded or fetched. Waits for nothing."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ollamux.domain.phases import Phase
from ollamux.domain.pins import PinState, due
from ollamux.domain.spec import PinSpec
from ollamux.domain.text import same_model
from ollamux.supervisor import preload
from ollamux.supervisor.core import Core
from ollamux.supervisor.pulls import Pulls
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic, rfc3339, wall


def models_view(core: Core, pulls: Pulls) -> dict[str, Any]:
    """Return it as values that JSON can hold."""
    return {
        "instances": [_instance(unit, pulls) for unit in core.units.values()],
        "placement": None if core.placement is None else core.placement.as_json(),
        "pulls": [
            {
                "store": pull.store,
                "name": pull.name,
                "through": None if pull.through is None else pull.through.name,
                "waiting": len(pull.waiting),
                "status": pull.stream.status if pull.request is not None else "waiting",
                "completed_bytes": pull.stream.completed_bytes,
                "total_bytes": pull.stream.total_bytes,
                "seconds": round(monotonic() - pull.began, 1),
            }
            for pull in pulls.pulls
        ],
    }


def _instance(unit: Unit, pulls: Pulls) -> dict[str, Any]:
    store = pulls.store_of(unit)
    return {
        "name": unit.name,
        "phase": unit.state.phase.value,
        "store": store,
        "loaded": [
            {
                "name": model.name,
                "digest": model.digest,
                "size_bytes": model.size_bytes,
                "size_vram_bytes": model.size_vram_bytes,
                "context_length": model.context_length,
                "expires_at": None if model.expires_at is None else rfc3339(model.expires_at),
            }
            for model in unit.models
        ],
        "loading": [
            {"name": load.pin.name, "seconds": None if load.began is None else round(monotonic() - load.began, 1)}
            for load in unit.loads
        ],
        "tuning": None if unit.tune is None else unit.tune.as_json(unit),
        "pins": [_pin(unit, pin, store, pulls) for pin in unit.pins],
    }


def _pin(unit: Unit, pin: PinSpec, store: str, pulls: Pulls) -> dict[str, Any]:
    state = unit.pin_states.get(pin.name, PinState())
    word, reason = _state(unit, pin, state, store, pulls)
    at = None
    if word in ("failed", "missing") and state.tried_at is not None:
        at = rfc3339(wall() + max(0.0, due(state, preload.RENEW_AFTER_S) - monotonic()))
    options = {each.name: getattr(pin.options, each.name) for each in fields(pin.options)}
    return {
        "name": pin.name,
        "by": _whose(unit, pin),
        "num_ctx": pin.num_ctx,
        "keep_alive_s": None if pin.keep_alive_s is None or pin.keep_alive_s < 0 else pin.keep_alive_s,
        "options": {name: value for name, value in options.items() if value is not None},
        "state": word,
        "reason": reason,
        "next_at": at,
    }


def _whose(unit: Unit, pin: PinSpec) -> str:
    if pin in unit.spec.preload:
        return "configuration"
    return "hand" if pin in unit.hand_pins else "placement"


def _state(unit: Unit, pin: PinSpec, state: PinState, store: str, pulls: Pulls) -> tuple[str, str | None]:
    """Return what becomes of a pin in one word, and why."""
    if any(pull.store == store and same_model(pull.name, pin.name) for pull in pulls.pulls):
        return "fetching", None
    if any(same_model(load.pin.name, pin.name) for load in unit.loads):
        return "loading", None
    if unit.state.phase is not Phase.READY:
        return "waiting", f"{unit.name} is {unit.state.phase.value}"
    if state.failed is not None:
        return ("missing" if state.missing else "failed"), state.failed
    if state.kept_since is not None:
        return "kept", None
    if state.waits is not None:
        return "waiting", state.waits
    for_ever = pin.keep_alive_s is None or pin.keep_alive_s < 0
    if for_ever or state.tried_at is None:
        return "waiting", None
    return "over", "its time without a request was over"
