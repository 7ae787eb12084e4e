"""Put a changed configuration in force, touching only the instances that it changes.

The command has validated the file; what it found valid is taken from where the outcome is kept, for exactly the bytes
it names. First everything changes that must go away, then what comes: an instance whose port or GPU another one is
about to leave waits for that by name, so that two may swap them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ollamux.config.cache import kept_fleet
from ollamux.config.keys import gpus_of, key_of, literal, written
from ollamux.domain import events as ev
from ollamux.domain.difference import LIVE_FIELDS, Change, Difference, KeyChange, Kind, difference
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.placed import with_spans
from ollamux.domain.secrets import mask
from ollamux.domain.spec import FleetSpec, InstanceSpec, Pinning, PlacementMode
from ollamux.domain.tally import by_hand
from ollamux.gpu.resolve import resolve
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.recovery import Memory, fingerprint_of
from ollamux.supervisor.service import ServiceManager
from ollamux.supervisor.starter import CLASH, Starter
from ollamux.supervisor.unit import Unit, new_state

_WITHOUT_PROCESS = frozenset({Phase.STOPPED, Phase.WAITING, Phase.FAILED})
_GPU_FIELDS = frozenset({"gpus", "pinning"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A validated configuration, its very bytes, and what it changes here.

    `fleet` is what is `configured`, with the instances that a placement added. Where only these change there is no
    `source`.
    """

    source: bytes | None
    fleet: FleetSpec
    difference: Difference
    configured: FleetSpec

    @property
    def empty(self) -> bool:
        """Whether nothing that the configuration says has changed."""
        found = self.difference
        return not (found.changes or found.supervisor or found.models or found.placement)


class Reload:
    """Plans and applies. `applied` is told what changed, once it holds, to follow it up."""

    def __init__(
        self,
        core: Core,
        gpus: Gpus,
        starter: Starter,
        memory: Memory,
        service: ServiceManager,
        *,
        cache: Path,
        check: Callable[[FleetSpec], object],
    ) -> None:
        self._core = core
        self._gpus = gpus
        self._starter = starter
        self._memory = memory
        self._service = service
        self._cache = cache
        self._check = check
        self.applied: list[Callable[[Plan, Mapping[str, InstanceSpec]], None]] = []
        core.changed.append(self._remove_when_down)

    def plan(self, digest: str) -> Plan:
        """Return what the configuration with this SHA-256 would change. Raises OllamuxError; changes nothing."""
        source, configured = kept_fleet(self._cache, digest)
        placement = self._core.placement
        fleet = configured if placement is None else with_spans(configured, placement.spans)
        self._check(fleet)
        return self._planned(source, fleet, configured)

    def _planned(self, source: bytes | None, fleet: FleetSpec, configured: FleetSpec) -> Plan:
        found = difference(self._core.fleet, fleet)
        changes = tuple(self._on_the_same_card(change, fleet) for change in found.changes)
        return Plan(source=source, fleet=fleet, difference=replace(found, changes=changes), configured=configured)

    def put(self, fleet: FleetSpec) -> None:
        """Put the same configuration in force with other instances that a placement added."""
        self._check(fleet)
        self.apply(self._planned(None, fleet, self._core.configured))

    def _on_the_same_card(self, change: Change, fleet: FleetSpec) -> Change:
        """Another name for the card an instance runs on is no reason to restart it."""
        spec, unit = fleet.instance(change.name), self._core.units.get(change.name)
        if change.kind is not Kind.RESTART or spec is None or unit is None or self._gpus.inventory is None:
            return change
        if not {key.field for key in change.keys if key.group is None} <= _GPU_FIELDS:
            return change
        if unit.spec.pinning is not Pinning.GPUS or spec.pinning is not Pinning.GPUS:
            return change
        if unit.state.phase in _WITHOUT_PROCESS:
            return change  # the card that it ran on once says nothing of the one that it waits for
        found = resolve(spec, self._gpus.inventory, machine=self._gpus.machine)
        same = [gpu.uuid for gpu in found.gpus] == [gpu.uuid for gpu in unit.gpus]
        return replace(change, kind=Kind.LIVE) if found.problem is None and same else change

    def words(self, plan: Plan) -> list[dict[str, str]]:
        """Say what a plan does, one row for what it touches: name, action, and why."""
        rows = []
        if plan.difference.supervisor:
            told = _told(plan.difference.supervisor, None)
            if any(key.field == "on_death" for key in plan.difference.supervisor):
                told += " (holds for each instance from its next start)"
            rows.append({"name": "supervisor", "action": "in place", "words": told})
        rows += _models_told(plan)
        renamed = dict(plan.difference.renames)
        for change in plan.difference.changes:
            words = _told(change.keys, plan.fleet.instance(change.name))
            if change.name in renamed:
                words = f"gone from the file, or renamed to {renamed[change.name]}: that is a stop and a start"
            rows.append(
                {"name": change.name, "action": self._action(change, plan), "words": words or _why(change, plan)}
            )
        return rows

    def _action(self, change: Change, plan: Plan) -> str:
        unit = self._core.units.get(change.name)
        match change.kind:
            case Kind.ADDED | Kind.ENABLED:
                spec = plan.fleet.instance(change.name)
                return "start" if spec is not None and spec.enabled else "in place"
            case Kind.REMOVED | Kind.DISABLED:
                return "stop" if unit is not None and unit.wanted else "in place"
            case Kind.RESTART if unit is not None and unit.wanted:
                return "start" if unit.state.phase in _WITHOUT_PROCESS else "restart"
            case _:
                return "in place"

    def apply(self, plan: Plan) -> tuple[dict[str, int], dict[str, int]]:
        """Put a plan in force; return the instances that come and those that go, with their generations before."""
        core = self._core
        old = {name: unit.spec for name, unit in core.units.items()}
        launcher = self._starter.launcher_of(plan.fleet.supervisor.on_death)
        kinds = {change.name: change.kind for change in plan.difference.changes}
        self._service.reloading()
        self._take_over(plan.fleet, plan.configured)
        self._starter.launcher = launcher
        if not plan.empty:
            what = "placement" if plan.source is None else "configuration reloaded"
            core.note(None, f"{what}: " + "; ".join(self._summary(plan)))
        going = [core.units[name] for name, kind in kinds.items() if kind in (Kind.REMOVED, Kind.DISABLED)]
        again = [unit for name, unit in core.units.items() if kinds.get(name) is Kind.RESTART and unit.wanted]
        new = [unit for name, unit in core.units.items() if kinds.get(name) in (Kind.ADDED, Kind.ENABLED)]
        new = [unit for unit in new if unit.spec.enabled]
        stopped = {unit.name: unit.state.gen for unit in going if unit.wanted or unit.child is not None}
        started = {unit.name: unit.state.gen for unit in [*again, *new]}
        for unit in going:
            where = "removed from the configuration" if unit.leaving else "disabled in the configuration"
            needless = unit.leaving and plan.source is None
            core.dispatch(unit, ev.StopAsked(reason="the placement needs it no more" if needless else where))
        for unit in sorted(again, key=lambda unit: unit.child is None):  # those first that have something to let go
            unit.tally = by_hand(unit.tally, unit.state.gen + 1)
            core.dispatch(unit, ev.RestartAsked(reason=self._reason(plan, unit)))
        for unit in new:
            core.dispatch(unit, ev.StartAsked())
        core.free(CLASH)
        core.free_slots()
        for listener in self.applied:
            try:
                listener(plan, old)
            except Exception as error:  # noqa: BLE001 - it holds already: whoever asked must be answered all the same
                core.report_bug(error)
        self._service.ready()
        return started, stopped

    def _take_over(self, fleet: FleetSpec, configured: FleetSpec) -> None:
        """Let every instance know its new specification; the order becomes that of the file."""
        core = self._core
        units: dict[str, Unit] = {}
        for spec in fleet.instances:
            unit = core.units.get(spec.name)
            if unit is None:
                unit = core.new_unit(spec)
                known = self._memory.of(spec.name)
                unit.state, unit.tally, unit.hand_pins = new_state(spec, gen=known.gen), known.tally(), known.pins
            else:
                fingerprint_of(unit)  # of what the present process was started with
                unit.leaving = False
                self._reconfigure(unit, spec)
            units[spec.name] = unit
        for name, unit in core.units.items():
            if name not in units:
                unit.leaving = True
                units[name] = unit
        core.units = units
        core.fleet, core.configured = fleet, configured

    def _reconfigure(self, unit: Unit, spec: InstanceSpec) -> None:
        old, unit.spec = unit.spec, spec
        if (old.restart, old.health) != (spec.restart, spec.health):
            event = ev.Reconfigured(
                restart=spec.restart,
                start_timeout_s=spec.health.start_timeout_s,
                unhealthy_timeout_s=spec.health.unhealthy_timeout_s,
            )
            self._core.dispatch(unit, event)

    def _summary(self, plan: Plan) -> list[str]:
        return [f"{row['name']}: {row['action']} ({row['words']})" for row in self.words(plan)]

    def _reason(self, plan: Plan, unit: Unit) -> str:
        keys = next(change.keys for change in plan.difference.changes if change.name == unit.name)
        grave = [key for key in keys if (key.group or key.field) not in LIVE_FIELDS]
        return f"configuration changed: {', '.join(dict.fromkeys(map(_key, grave)))}"

    def _remove_when_down(self, unit: Unit, before: Instance) -> None:
        if unit.leaving and unit.state.phase is Phase.STOPPED:
            self._core.loop.call_soon(lambda: self._remove(unit))

    def _remove(self, unit: Unit) -> None:
        if unit.leaving and unit.state.phase is Phase.STOPPED and self._core.units.get(unit.name) is unit:
            self._core.note(unit, "removed")
            del self._core.units[unit.name]
            self._memory.forget(unit)


_WHY = {
    Kind.ADDED: "new in the file",
    Kind.REMOVED: "gone from the file",
    Kind.ENABLED: "enabled",
    Kind.DISABLED: "disabled",
    Kind.LIVE: "",
    Kind.RESTART: "",
}


def _models_told(plan: Plan) -> list[dict[str, str]]:
    """Say what changes about the models that are wanted somewhere, and who places them."""
    rows = []
    mode = plan.configured.placement
    if plan.difference.placement:
        rows.append({"name": "placement", "action": "in place", "words": f"placement = {literal(mode.value)}"})
    if plan.difference.models:
        names = ", ".join(plan.difference.models)
        auto = mode is PlacementMode.AUTO
        words = "placed anew" if auto else "wanted otherwise; ollamux plan --apply follows that"
        rows.append({"name": "models", "action": "in place", "words": f"{names}: {words}"})
    return rows


def _why(change: Change, plan: Plan) -> str:
    if plan.source is None and change.kind in (Kind.ADDED, Kind.REMOVED):
        return "a model needs it" if change.kind is Kind.ADDED else "no model needs it any more"
    return _WHY[change.kind]


def _key(change: KeyChange) -> str:
    name = "gpus" if change.field in _GPU_FIELDS else key_of(change.field)
    return name if change.group is None else f"{change.group}.{name}"


def _told(keys: tuple[KeyChange, ...], spec: InstanceSpec | None) -> str:
    """Say what changes, in the words of the file. Values that may be secret are masked."""
    told: dict[str, str] = {}
    for change in keys:
        if change.field in _GPU_FIELDS and change.group is None:
            told["gpus"] = f"gpus = {literal(gpus_of(spec))}" if spec is not None else "gpus"
        elif change.field == "env":
            told["env"] = _env_told(change)
        else:
            told[_key(change)] = (
                f"{_key(change)} {_value(change.field, change.old)} → {_value(change.field, change.new)}"
            )
    return ", ".join(told.values())


def _value(field: str, value: object) -> str:
    return "ollama's default" if value is None else literal(written(field, value))


def _env_told(change: KeyChange) -> str:
    old, new = dict(change.old), dict(change.new)  # type: ignore[call-overload] # pairs, by the specification
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    told = [
        f"env.{name} = {literal(mask(name, new[name]))}" if name in new else f"env.{name} removed" for name in names
    ]
    return ", ".join(told)
