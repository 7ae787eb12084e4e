"""All models of all instances and stores as one list: `models ls -o json`, schema `ollamux.models/1`. Pure.

Bytes are integers, seconds are numbers, times are UTC in RFC 3339; what is not known is `None`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ollamux.domain.schemas import MODELS_SCHEMA
from ollamux.domain.text import full_name, same_model

TROUBLED = ("failed", "missing")
"""States of a pin that a person should do something about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A model in a store. `digest` is that of its manifest, `size_bytes` that of all its layers."""

    name: str
    digest: str | None
    size_bytes: int | None


@dataclass(slots=True, kw_only=True)
class Row:
    """One model in one store. `installed` is None where the store cannot be read.

    `loaded` and `pins` are as the supervisor tells them, each with its `instance`; `pull` what is being fetched of it.
    `no_place` says why the last placement found no room for it, or not as often as it is wanted.
    """

    name: str
    store: str
    installed: bool | None
    digest: str | None = None
    size_bytes: int | None = None
    loaded: list[dict[str, Any]] = field(default_factory=list)
    pins: list[dict[str, Any]] = field(default_factory=list)
    loading: list[dict[str, Any]] = field(default_factory=list)
    pull: dict[str, Any] | None = None
    no_place: str | None = None

    @property
    def troubled(self) -> bool:
        """Whether a person should do something about it."""
        return self.no_place is not None or any(pin["state"] in TROUBLED for pin in self.pins)


def rows(view: Mapping[str, Any], stores: Mapping[str, Iterable[Stored] | None]) -> list[Row]:
    """Put together what is in the stores with what is loaded, kept, or fetched; what is in none of them comes last."""
    found = [
        Row(name=one.name, store=path, installed=True, digest=one.digest, size_bytes=one.size_bytes)
        for path, models in stores.items()
        for one in models or ()
    ]

    def row(store: str, name: str) -> Row:
        known = next((each for each in found if each.store == store and same_model(each.name, name)), None)
        if known is None:
            unread = stores.get(store) is None
            known = Row(name=full_name(name), store=store, installed=None if unread else False)
            found.append(known)
        return known

    for instance in view["instances"]:
        for key in ("loaded", "pins", "loading"):
            for each in instance[key]:
                said = {name: value for name, value in each.items() if name != "name"}
                getattr(row(instance["store"], each["name"]), key).append({"instance": instance["name"], **said})
    for pull in view["pulls"]:
        row(pull["store"], pull["name"]).pull = {
            name: pull[name] for name in ("through", "status", "completed_bytes", "total_bytes", "seconds")
        }
    for one in (view.get("placement") or {}).get("unplaced", ()):
        known = next((each for each in found if same_model(each.name, one["model"])), None)
        (known or row(next(iter(stores), ""), one["model"])).no_place = one["reason"]
    return found


def as_json(
    view: Mapping[str, Any],
    stores: Mapping[str, Iterable[Stored] | None],
    found: Iterable[Row],
    *,
    version: str,
    time: str,
    simulated: bool,
    running: bool,
) -> dict[str, Any]:
    """Return the object."""
    using = {path: [one["name"] for one in view["instances"] if one["store"] == path] for path in stores}
    return {
        "schema": MODELS_SCHEMA,
        "version": version,
        "time": time,
        "simulated": simulated,
        "running": running,
        "stores": [
            {"path": path, "readable": models is not None, "instances": using[path]} for path, models in stores.items()
        ],
        "models": [asdict(row) for row in found],
    }
