"""`plan --apply`: tell the supervisor which instance keeps which model, and wait until they are loaded there."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ollamux.cli import screen
from ollamux.cli.block import Block
from ollamux.cli.ground import Ground
from ollamux.cli.target import question
from ollamux.domain.errors import DegradedError, Exit, RefusedError
from ollamux.domain.placed import PlacedPin, Placement, SpanSpec, further_ports, with_spans
from ollamux.domain.plan import Plan
from ollamux.domain.spec import PlacementMode
from ollamux.domain.text import format_duration, safe_text, same_model
from ollamux.render.models import load_line
from ollamux.render.pen import Pen
from ollamux.system import ports
from ollamux.system.clock import monotonic

LOOK_S = 0.2
_ENDED = ("failed", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a plan is put in force. `timeout_s` is how long is waited for the loads."""

    wait: bool
    timeout_s: float
    quiet: bool
    unattended: bool = False


def must_be_allowed(named: bool, ground: Ground) -> None:
    """Raise RefusedError where the supervisor places by itself, and would soon do away with what is placed by hand."""
    if named and ground.fleet.placement is PlacementMode.AUTO:
        raise RefusedError(
            'the configuration says placement = "auto": what is placed by hand would not stay',
            hint='write [models."NAME"] into it, then ollamux reload; or ollamux models pin NAME',
        )


def must_be_known(ground: Ground) -> None:
    """Raise where cards cannot be read: what is on them would be let go, though it computes as before."""
    if ground.trouble is not None:
        raise DegradedError(
            f"the cards cannot be read: {ground.trouble}",
            hint="nothing is moved meanwhile; ollamux doctor looks further",
        )
    if not ground.cards:
        raise DegradedError("there is no card to place models on: those of the instances are lost, or not there")


def placement_of(plan: Plan, ground: Ground, context: int | None) -> Placement:
    """Return what the supervisor is to keep where. What is pinned there anyway is left out."""
    spans: list[SpanSpec] = []
    contexts = {model.name: model.ctx for model in ground.fleet.models}
    known = {span.name: span for span in ground.standing.spans}
    for span in plan.spans:
        if span.instance is not None:
            there = known.get(span.instance)
            port = _port(ground, spans, span.members) if there is None else there.port
            spans.append(SpanSpec(name=span.instance, members=span.members, port=port))
    used = {placed.instance for placed in plan.placement}
    standing = [span for span in ground.standing.spans if span.name in used and all(span.name != s.name for s in spans)]
    # The largest are loaded first: a server evicts what it has for one that needs most of what is free.
    pins = tuple(
        PlacedPin(instance=placed.instance, model=placed.model, num_ctx=context or contexts.get(placed.model))
        for placed in sorted(plan.placement, key=lambda placed: -placed.size_bytes)
        if placed.instance is not None and not placed.pinned
    )
    unplaced = tuple((one.model, one.reason) for one in plan.unplaced)
    return Placement(spans=(*standing, *spans), pins=pins, unplaced=unplaced)


def _port(ground: Ground, spans: list[SpanSpec], members: tuple[str, ...]) -> int:
    """Return a free port for a further instance, above those of the others while there is one."""
    specs = with_spans(ground.fleet, spans).instances
    host = next((spec.host for spec in specs if spec.name in members), "127.0.0.1")
    for port in further_ports(spec.port for spec in specs):
        if ports.obstacle(host, port) is None:
            return port
    raise RefusedError("there is no free port for a further instance")


def apply(placement: Placement, ground: Ground, manner: Manner, missing: list[str]) -> list[dict[str, Any]]:
    """Put a placement in force; return what became of each model, as far as that was waited for."""
    request = {"cmd": "place", "placement": placement.as_json(), "missing": missing}
    question(request, simulated=ground.simulated)
    if not manner.wait:
        return []
    began, block = monotonic(), Block(quiet=manner.quiet)
    try:
        while True:
            view = question({"cmd": "models"}, simulated=ground.simulated)[0]["models"]
            left = [pin for pin in placement.pins if _state(view, pin)[0] not in ("kept", *_ENDED)]
            if not left or monotonic() - began > manner.timeout_s:
                break
            block.draw(list(_lines(view, left, block.frame)))
            select.select([], [], [], LOOK_S)
    except KeyboardInterrupt:
        block.clear()
        screen.say("\ninterrupted; the placement holds, and its models go on loading\n", fd=2)
        raise
    finally:
        block.clear()
    return [_outcome(view, pin, monotonic() - began) for pin in placement.pins]


def _state(view: dict[str, Any], pin: PlacedPin) -> tuple[str, str | None]:
    for one in view["instances"]:
        for each in one["pins"] if one["name"] == pin.instance else ():
            if same_model(each["name"], pin.model):
                return each["state"], each["reason"]
    return "waiting", None


def _lines(view: dict[str, Any], left: list[PlacedPin], frame: int) -> Iterator[str]:
    env = os.environ
    pen = Pen(width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env))
    for pin in left:
        loading = (
            each["seconds"]
            for one in view["instances"]
            if one["name"] == pin.instance
            for each in one["loading"]
            if same_model(each["name"], pin.model)
        )
        yield load_line(pin.model, pin.instance, next(loading, None), pen=pen, frame=frame)


def _outcome(view: dict[str, Any], pin: PlacedPin, seconds: float) -> dict[str, Any]:
    word, reason = _state(view, pin)
    shown, why = safe_text(pin.model), f": {reason}" if reason else ""
    if word == "kept":
        return {"name": pin.instance, "exit": int(Exit.OK), "words": f"{shown} is loaded and kept"}
    if word in _ENDED:
        words = f"{shown} could not be loaded{why}; it is tried again"
        return {"name": pin.instance, "exit": int(Exit.DEGRADED), "words": words}
    words = f"{shown} is not loaded after {format_duration(seconds)}{why}; it goes on by itself"
    return {"name": pin.instance, "exit": int(Exit.TIMEOUT), "words": words}


def tell_why(error_text: str, *, simulated: bool) -> None:
    """Let the supervisor know that no plan could be made, so that it can be read in its events."""
    question({"cmd": "place", "missing": [], "why": error_text}, simulated=simulated)
