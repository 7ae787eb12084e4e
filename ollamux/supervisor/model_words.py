"""What the requests about models share: how they are read, answered, and what is said of an instance or a pin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollamux.domain.errors import Exit, RefusedError, UsageError
from ollamux.domain.phases import Phase
from ollamux.domain.spec import PinSpec
from ollamux.domain.text import format_duration, safe_text, same_model
from ollamux.protocol.client import PROTOCOL
from ollamux.supervisor.core import Core
from ollamux.supervisor.loads import Loaded
from ollamux.supervisor.server import Client
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic

_LONGEST_NAME = 350


def once(
    client: Client, core: Core, request: dict[str, Any], timeout_s: float, unit: Unit, late: str
) -> Callable[[Exit, str], None]:
    """Return what answers a client, once: with what came of it, or that the time is up."""
    until = monotonic() + timeout_s
    client.waits = {"models": {**request, "cmd": request["cmd"]}, "until": until}
    waited = format_duration(timeout_s)
    words = f"{safe_text(late)} after {waited}; it goes on by itself"
    timer = core.loop.call_at(until, lambda: done(Exit.TIMEOUT, words))

    def done(code: Exit, words: str) -> None:
        timer.cancel()
        if client.waits is not None:
            client.on_gone = None
            answer(client, unit.name, code, words)

    return done


def answer(client: Client, name: str, code: Exit, words: str) -> None:
    answer_all(client, [{"name": name, "exit": int(code), "words": words}])


def answer_all(client: Client, outcomes: list[dict[str, Any]]) -> None:
    worst = max((outcome["exit"] for outcome in outcomes), default=0)
    client.answer({"v": PROTOCOL, "ok": True, "exit": worst, "outcomes": outcomes})


def model_of(request: dict[str, Any]) -> str:
    name = request.get("model")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise UsageError("no model is named")
    return name


def number_of(request: dict[str, Any], field: str) -> Any:
    value = request.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UsageError(f"{field} must be a number")
    return value


def must_be_ready(unit: Unit) -> None:
    if unit.state.phase is not Phase.READY:
        reason = f": {unit.state.reason}" if unit.state.reason else ""
        raise RefusedError(f"{unit.name} is {unit.state.phase.value}{reason}", hint="ollamux status")
    if unit.tune is not None:
        tuned = f"{unit.name} is lent for tuning {safe_text(unit.tune.model)}"
        raise RefusedError(tuned, hint="wait until that is done, or end it with Ctrl-C where it was started")


def is_loaded(unit: Unit, name: str) -> bool:
    return any(same_model(model.name, name) for model in unit.models)


def taken(why: str) -> str:
    return f" ({why})" if why else ""


def way(pin: PinSpec) -> str:
    return "as the server loads it by itself" if pin.num_ctx is None else f"with a context of {pin.num_ctx}"


def way_of(unit: Unit, pin: PinSpec) -> str:
    if pin in unit.spec.preload:
        return "since its configuration says so (preload)"
    return "pinned by hand" if pin in unit.hand_pins else "placed there by a plan"


def end_of_pin(unit: Unit, pin: PinSpec) -> str:
    if pin in unit.spec.preload:
        return "change preload in the configuration, then: ollamux reload"
    return f"ollamux models unpin {safe_text(pin.name)} --on {unit.name}"


def took(loaded: Loaded, why: str) -> str:
    """Return in brackets how long a load took, and why its instance was taken."""
    return f" ({format_duration(loaded.seconds)}{f'; {why}' if why else ''})"


def of_load(pin: PinSpec, loaded: Loaded, why: str) -> tuple[Exit, str]:
    shown = safe_text(pin.name)
    if loaded.why is None:
        return Exit.OK, f"{shown} is loaded{took(loaded, why)}"
    code = Exit.NOT_FOUND if loaded.missing else Exit.DEGRADED
    return code, f"{shown} could not be loaded: {loaded.why}"
