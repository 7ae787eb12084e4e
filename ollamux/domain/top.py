"""What `ollamux top` knows and shows: `step(top, event)` gives what it knows next, and what is to be done. Pure.

Drawing is in `ollamux.render.top`; keys arrive by name, times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from ollamux.domain.snapshot import GpuView, InstanceView, Status
from ollamux.domain.trail import NO_TRAIL, Trail, extended

ORDERS = ("file", "name", "state", "memory", "use")
"""How instances are sorted: as in the configuration, by name, the worst, the most memory, the busiest card first."""
PAGE = 10
_LONGEST_FILTER = 60
_STALE_AFTER_S = 10.0

STOPPED, READY, CHANGING, DEGRADED, BAD = range(5)
"""What a state means for the history, from what nobody wants to know to what nobody may miss."""
_MEANING = {"STOPPED": STOPPED, "READY": READY, "UNHEALTHY": BAD, "FAILED": BAD, "STUCK": BAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """`mode` is "look", "filter", "confirm" or "help". `asking` is the instance whose restart is to be confirmed."""

    status: Status | None = None
    told_at: float | None = None
    trouble: str | None = None
    trail: Trail = NO_TRAIL
    chosen: str | None = None
    order: str = "file"
    wanted: str = ""
    mode: str = "look"
    asking: str | None = None
    message: str | None = None
    message_is_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Somebody pressed a key: a character, or a name as "up" or "escape"."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The supervisor told how the box is."""

    status: Status
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Untold:
    """Nobody told it, and why."""

    trouble: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Something that was asked for is done, or was refused."""

    words: str
    well: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Restart this instance."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quit:
    """End."""


Event = Key | Told | Untold | Answered
Command = Restart | Quit


def step(top: Top, event: Event) -> tuple[Top, Command | None]:
    """Return what is known after an event, and what is to be done."""
    match event:
        case Key():
            return _pressed(top, event.name)
        case Told():
            trail = extended(top.trail, event.at, _seen(top.status, event.status))
            return replace(top, status=event.status, told_at=event.at, trouble=None, trail=trail), None
        case Untold():
            return replace(top, trouble=event.trouble, trail=extended(top.trail, event.at, {})), None
        case Answered():
            return replace(top, message=event.words, message_is_bad=not event.well), None
        case _:
            assert_never(event)


def _pressed(top: Top, key: str) -> tuple[Top, Command | None]:
    if top.mode == "filter":
        return _typed(top, key), None
    if top.mode == "confirm":
        asked = replace(top, mode="look", asking=None)
        if key in ("y", "Y") and top.asking is not None:
            return replace(asked, message=f"restarting {top.asking} …", message_is_bad=False), Restart(name=top.asking)
        return replace(asked, message="nothing was restarted", message_is_bad=False), None
    if top.mode == "help":
        return replace(top, mode="look"), Quit() if key == "q" else None
    return (top, Quit()) if key == "q" else (_looked(replace(top, message=None), key), None)


def _looked(top: Top, key: str) -> Top:
    moves = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -PAGE, "page-down": PAGE}
    moves |= {"home": -(1 << 30), "end": 1 << 30}
    if key in moves:
        return _moved(top, moves[key])
    match key:
        case "/":
            return replace(top, mode="filter")
        case "?" | "h":
            return replace(top, mode="help")
        case "s":
            return replace(top, order=ORDERS[(ORDERS.index(top.order) + 1) % len(ORDERS)])
        case "escape":
            return replace(top, wanted="")
        case "r" | "enter":
            return _asked(top)
        case _:
            return top


def _asked(top: Top) -> Top:
    chosen = selected(top)
    if chosen is None:
        return replace(top, message="there is no instance to restart", message_is_bad=True)
    if top.trouble is not None:
        return replace(top, message="there is no supervisor to ask for a restart", message_is_bad=True)
    return replace(top, mode="confirm", asking=chosen.name)


def _typed(top: Top, key: str) -> Top:
    match key:
        case "enter" | "down" | "up":
            return replace(top, mode="look")
        case "escape":
            return replace(top, mode="look", wanted="")
        case "backspace":
            return replace(top, wanted=top.wanted[:-1])
        case "ctrl-u":
            return replace(top, wanted="")
    typed = key if len(key) == 1 and key.isprintable() else ""
    return replace(top, wanted=(top.wanted + typed)[:_LONGEST_FILTER])


def _moved(top: Top, by: int) -> Top:
    names = [instance.name for instance in shown_instances(top)]
    chosen = selected(top)
    if chosen is None:
        return top
    place = min(max(names.index(chosen.name) + by, 0), len(names) - 1)
    return replace(top, chosen=names[place])


def selected(top: Top) -> InstanceView | None:
    """Return the instance that keys act on: the one that was chosen, or the first where that one is not shown."""
    shown = shown_instances(top)
    return next((instance for instance in shown if instance.name == top.chosen), shown[0] if shown else None)


def shown_instances(top: Top) -> list[InstanceView]:
    """Return the instances that the filter leaves, in the order that was asked for."""
    if top.status is None:
        return []
    words = top.wanted.lower().split()
    found = [one for one in top.status.instances if all(word in _text(one) for word in words)]
    use = {gpu.uuid: gpu.utilization_percent or 0 for gpu in top.status.gpus}
    match top.order:
        case "name":
            found.sort(key=lambda one: one.name)
        case "state":
            found.sort(key=lambda one: -meaning(one))
        case "memory":
            found.sort(key=lambda one: -vram_bytes(one))
        case "use":
            found.sort(key=lambda one: -max((use.get(uuid, 0) for uuid in one.gpus), default=0))
    return found


def shown_cards(top: Top) -> Sequence[GpuView]:
    """Return the cards that the filter leaves: those of the instances that are shown, or all without a filter."""
    if top.status is None:
        return ()
    if not top.wanted.strip():
        return top.status.gpus
    kept = {uuid for instance in shown_instances(top) for uuid in instance.gpus}
    return [gpu for gpu in top.status.gpus if gpu.uuid in kept]


def _text(instance: InstanceView) -> str:
    parts = [instance.name, instance.phase, instance.health, str(instance.port), *(m.name for m in instance.models)]
    return " ".join(parts).lower()


def meaning(instance: InstanceView) -> int:
    """Return what the state of an instance means for the history."""
    if instance.phase == "READY" and instance.health != "ok":
        return DEGRADED
    return _MEANING.get(instance.phase, CHANGING)


def vram_bytes(instance: InstanceView) -> int:
    """Return how much memory of cards the models of an instance take."""
    return sum(model.size_vram_bytes for model in instance.models)


def _seen(before: Status | None, status: Status) -> dict[str, float | None]:
    """Return the value of each series now. A new process since the last look counts, however quick it was."""
    seen: dict[str, float | None] = {}
    for gpu in status.gpus:
        known = gpu.state == "ok" and (gpu.age_s or 0.0) <= _STALE_AFTER_S
        total, used = gpu.memory_total_bytes, gpu.memory_used_bytes
        seen[f"use {gpu.uuid}"] = gpu.utilization_percent if known else None
        seen[f"memory {gpu.uuid}"] = 100.0 * used / total if known and total and used is not None else None
    generations = {one.name: one.generation for one in before.instances} if before is not None else {}
    for one in status.instances:
        changed = generations.get(one.name, one.generation) != one.generation
        seen[f"state {one.name}"] = max(meaning(one), CHANGING if changed else STOPPED)
    return seen
