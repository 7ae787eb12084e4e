"""What differs between two configurations, instance by instance. A comparison only: nothing is decided or done here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import Enum

from ollamux.domain.spec import FleetSpec, InstanceSpec, ModelSpec

LIVE_FIELDS = frozenset({"health", "restart", "on", "canary", "preload", "pull", "enabled", "share_gpu", "allow_lan"})
"""What may change under a running server; everything else it was started with."""
_GROUPS = frozenset({"health", "restart", "on", "canary"})


class Kind(Enum):
    """What a change means for the process of an instance."""

    LIVE = "live"
    RESTART = "restart"
    ADDED = "added"
    REMOVED = "removed"
    ENABLED = "enabled"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """One field that differs; `group` is the table it stands in, as `health`, or None."""

    group: str | None
    field: str
    old: object
    new: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One instance that differs."""

    name: str
    kind: Kind
    keys: tuple[KeyChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Everything that differs. `renames` are pairs of one that went and one that came and is otherwise the same.

    `models` names those that are wanted in another way than before; `placement` says whether who places them changed.
    """

    supervisor: tuple[KeyChange, ...]
    changes: tuple[Change, ...]
    models: tuple[str, ...] = ()
    placement: bool = False
    renames: tuple[tuple[str, str], ...] = ()


def difference(old: FleetSpec, new: FleetSpec) -> Difference:
    """Compare, in the order of the new configuration; what was removed comes first."""
    before = {spec.name: spec for spec in old.instances}
    after = {spec.name: spec for spec in new.instances}
    gone = [spec for spec in old.instances if spec.name not in after]
    come = [spec for spec in new.instances if spec.name not in before]
    changes = [Change(name=spec.name, kind=Kind.REMOVED) for spec in gone]
    for spec in new.instances:
        known = before.get(spec.name)
        change = Change(name=spec.name, kind=Kind.ADDED) if known is None else _change(known, spec)
        if change is not None:
            changes.append(change)
    renames = [(was.name, now.name) for was in gone for now in come if replace(was, name=now.name) == now]
    wanted = dict.fromkeys(model.name for model in (*old.models, *new.models))
    models = [name for name in wanted if _model(old, name) != _model(new, name)]
    return Difference(
        supervisor=tuple(_differing(old.supervisor, new.supervisor)),
        changes=tuple(changes),
        models=tuple(models),
        placement=old.placement is not new.placement,
        renames=tuple(renames),
    )


def _model(fleet: FleetSpec, name: str) -> ModelSpec | None:
    return next((model for model in fleet.models if model.name == name), None)


def _change(old: InstanceSpec, new: InstanceSpec) -> Change | None:
    keys = tuple(_differing(old, new))
    if not keys:
        return None
    kind = Kind.LIVE
    if old.enabled != new.enabled:
        kind = Kind.ENABLED if new.enabled else Kind.DISABLED
    elif any((key.group or key.field) not in LIVE_FIELDS for key in keys):
        kind = Kind.RESTART
    return Change(name=new.name, kind=kind, keys=keys)


def _differing(old: object, new: object, group: str | None = None) -> Iterator[KeyChange]:
    for name in (each.name for each in fields(old)):  # type: ignore[arg-type] # every caller passes a specification
        was, now = getattr(old, name), getattr(new, name)
        if was == now:
            continue
        if name in _GROUPS:
            yield from _differing(was, now, name)
        else:
            yield KeyChange(group=group, field=name, old=was, new=now)
