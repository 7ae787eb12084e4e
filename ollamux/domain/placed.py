"""What was placed: which instance keeps which model because a plan said so, and the instances that a plan added. Pure.

Kept in the folder of state, so that it lasts as a pin by hand does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ollamux.domain.spec import FleetSpec, GpuRef, InstanceSpec, Pinning, PinSpec

PLACEMENT_SCHEMA = "ollamux.placement/1"
_LONGEST_NAME = 32
_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_LONGEST_NAME - 1}}}")
_FIRST_PORT, _LEAST_PORT, _LAST_PORT = 11434, 1024, 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSpec:
    """An instance over the cards of several configured ones, its `members`; like the first of them but for the port."""

    name: str
    members: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPin:
    """A model that an instance keeps. `num_ctx` is None where no context was asked for."""

    instance: str
    model: str
    num_ctx: int | None = None

    @property
    def pin(self) -> PinSpec:
        """Return it as a pin."""
        return PinSpec(name=self.model, num_ctx=self.num_ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All of it. `unplaced` are models that found no place, each with the reason."""

    spans: tuple[SpanSpec, ...] = ()
    pins: tuple[PlacedPin, ...] = ()
    unplaced: tuple[tuple[str, str], ...] = ()

    def of(self, instance: str) -> tuple[PinSpec, ...]:
        """Return what an instance keeps."""
        return tuple(placed.pin for placed in self.pins if placed.instance == instance)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "schema": PLACEMENT_SCHEMA,
            "spans": [{"name": one.name, "members": list(one.members), "port": one.port} for one in self.spans],
            "pins": [{"instance": one.instance, "model": one.model, "num_ctx": one.num_ctx} for one in self.pins],
            "unplaced": [{"model": model, "reason": reason} for model, reason in self.unplaced],
        }

    @classmethod
    def from_json(cls, plain: object) -> Placement:
        """Read what `as_json` wrote; nothing where it is anything else."""
        if not isinstance(plain, Mapping) or plain.get("schema") != PLACEMENT_SCHEMA:
            return cls()
        try:
            return cls(
                spans=tuple(map(_span, plain["spans"])),
                pins=tuple(
                    PlacedPin(
                        instance=str(one["instance"]),
                        model=str(one["model"]),
                        num_ctx=None if one["num_ctx"] is None else int(one["num_ctx"]),
                    )
                    for one in plain["pins"]
                ),
                unplaced=tuple((str(one["model"]), str(one["reason"])) for one in plain["unplaced"]),
            )
        except (KeyError, TypeError, ValueError):
            return cls()


def _span(plain: Mapping[str, Any]) -> SpanSpec:
    """Read one; raises ValueError where an instance cannot have that name or port."""
    found = SpanSpec(name=str(plain["name"]), members=tuple(map(str, plain["members"])), port=int(plain["port"]))
    if not _NAME.fullmatch(found.name) or not 0 < found.port <= _LAST_PORT:
        raise ValueError(found.name)
    return found


def with_spans(fleet: FleetSpec, spans: Iterable[SpanSpec]) -> FleetSpec:
    """Return a fleet with the instances that a plan added; one whose members are not all there any more is left out.

    What is configured goes before: an added instance leaves its port to one that the file has given it since.
    """
    known = {spec.name: spec for spec in fleet.instances}
    ports = {spec.port for spec in fleet.instances}
    added: list[InstanceSpec] = []
    sharing: set[str] = set()
    for span in spans:
        members = [known[name] for name in span.members if name in known and known[name].pinning is Pinning.GPUS]
        if span.name in known or len(members) < max(2, len(span.members)):
            continue
        port = next(iter(further_ports(ports)), span.port) if span.port in ports else span.port
        ports.add(port)
        added.append(
            replace(
                members[0],
                name=span.name,
                port=port,
                gpus=_cards(members),
                enabled=all(member.enabled for member in members),
                share_gpu=True,
                preload=(),
            )
        )
        sharing.update(span.members)
    specs = [replace(spec, share_gpu=True) if spec.name in sharing else spec for spec in fleet.instances]
    return replace(fleet, instances=(*specs, *added))


def further_ports(taken: Iterable[int]) -> Iterator[int]:
    """Yield the ports that a further instance may have: those above the others, then those below, the nearest first."""
    known = set(taken)
    highest = max(known, default=_FIRST_PORT)
    yield from range(highest + 1, _LAST_PORT + 1)
    yield from (port for port in range(highest, _LEAST_PORT - 1, -1) if port not in known)


def _cards(members: Iterable[InstanceSpec]) -> tuple[GpuRef, ...]:
    return tuple(dict.fromkeys(ref for member in members for ref in member.gpus))


def span_name(members: Iterable[str], taken: Iterable[str]) -> str:
    """Return a name for an instance over the cards of others."""
    name, known = "-".join(members), set(taken)
    if len(name) <= _LONGEST_NAME and name not in known:
        return name
    return next(found for number in range(1, len(known) + 2) if (found := f"span-{number}") not in known)
