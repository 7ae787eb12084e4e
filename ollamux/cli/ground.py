"""What a plan stands on: the configuration, the instances that run, their stores, and the cards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollamux.cli import screen
from ollamux.cli.target import question, reach
from ollamux.cli.words import load
from ollamux.config.codec import fleet_from_json
from ollamux.config.write import PACKAGED_STORE
from ollamux.domain.calibration import MeasuredLoad
from ollamux.domain.errors import NotFoundError, NotRunningError, OllamuxError, TimedOutError, UsageError
from ollamux.domain.placed import Placement, with_spans
from ollamux.domain.plan import PlanCard
from ollamux.domain.seats import Seat
from ollamux.domain.spans import Links
from ollamux.domain.spec import MODELS_PER_CARD, FleetSpec, GpuRef, InstanceSpec, Pinning
from ollamux.domain.text import safe_text
from ollamux.gpu.model import NO_DRIVER, Gpu, Inventory
from ollamux.ollama import measured
from ollamux.ollama.estimate import OVERHEAD_BYTES
from ollamux.ollama.store import store_path
from ollamux.system.places import home, state_dir

MARGIN_BYTES = 1024**3
"""What is kept free of a card where no headroom is configured: llama-server's own margin (`--fit-target`)."""
HOST = "host"
"""Stands for the host's memory where a card is meant, on a machine without one."""
_DOWN = frozenset({"STOPPED", "FAILED", "STUCK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """`specs` are the instances that can have models; `view` is what the supervisor knows of them, None without one.

    `standing` is what was placed before, `cards` are those to plan for and `seats` the places on them. `trouble` says
    why not all cards could be read that instances are pinned to.
    """

    fleet: FleetSpec
    specs: tuple[InstanceSpec, ...]
    usual: InstanceSpec
    view: dict[str, Any] | None
    standing: Placement
    inventory: Inventory
    cards: tuple[PlanCard, ...]
    seats: tuple[Seat, ...]
    simulated: bool
    trouble: str | None = None
    measured: tuple[MeasuredLoad, ...] = ()
    look_at_links: Callable[[], Links] = dict

    def spec_of(self, seat: Seat) -> InstanceSpec:
        """Return whose settings hold on a seat."""
        names = [seat.instance, *seat.members]
        return next((spec for name in names for spec in self.specs if spec.name == name), self.usual)

    def stores_of(self, spec: InstanceSpec) -> tuple[Path, ...]:
        """Return where the models of an instance may be: its store, else ollama's own and that of its package."""
        if self.simulated:
            return (Path(state_dir(os.environ, simulated=True)) / "models",)
        if spec in self.specs:
            return (Path(store_path(spec.store, home(os.environ))),)
        named = [store_path(one.store, home(os.environ)) for one in self.specs]
        usual = [] if named else [store_path(os.environ.get("OLLAMA_MODELS"), home(os.environ)), str(PACKAGED_STORE)]
        return tuple(Path(path) for path in dict.fromkeys([*named, *usual]))


def survey(config: str | None, gpus: Sequence[str], *, simulated: bool, only_instances: bool) -> Ground:
    """Look at what there is. With `only_instances` a card without an instance is no place for a model."""
    for reference in gpus:
        _reference(reference)
    which = is_meant(config, simulated=simulated)
    view = _view(which) if config is None or only_instances else None
    fleet = (_in_force(view) if config is None else None) or _fleet(config, simulated=which)
    standing = Placement.from_json(view.get("placement")) if view is not None else Placement()
    fleet = with_spans(fleet, standing.spans)
    down = {one["name"] for one in view["instances"] if one["phase"] in _DOWN} if view is not None else set()
    specs = tuple(spec for spec in fleet.instances if spec.enabled and spec.name not in down)
    usual = _usual(specs or fleet.instances)
    inventory = _inventory(simulated=which)
    cards, seats = _places(specs, usual, gpus, inventory, view, only_instances=only_instances)
    return Ground(
        fleet=fleet,
        specs=specs,
        usual=usual,
        view=view,
        standing=standing,
        inventory=inventory,
        cards=cards,
        seats=seats,
        simulated=which,
        trouble=_trouble(specs, inventory),
        measured=_measured(simulated=which),
        look_at_links=lambda: _links(simulated=which),
    )


def is_meant(config: str | None, *, simulated: bool) -> bool:
    """Say whether a simulation is meant, by the rule of every command; a named configuration is the real thing's."""
    if simulated or config is not None:
        return simulated
    try:
        connection, which = reach(False)
    except (NotRunningError, TimedOutError):
        return False
    connection.close()
    return which


def _view(simulated: bool) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = question({"cmd": "models", "fleet": True}, simulated=simulated)[0]["models"]
    except OllamuxError:
        return None
    return found


def _in_force(view: dict[str, Any] | None) -> FleetSpec | None:
    """Return the configuration of the running supervisor; the file may have changed since."""
    try:
        return None if view is None else fleet_from_json(view["fleet"])
    except (ValueError, KeyError):
        return None  # of another version


def _fleet(config: str | None, *, simulated: bool) -> FleetSpec:
    if simulated:
        path = Path(state_dir(os.environ, simulated=True)) / "ollamux.toml"
        if not path.exists():
            raise NotRunningError("there is no simulation here", hint="ollamux up --simulate 4 -d starts one")
        return load(str(path))[2]
    try:
        return load(config)[2]
    except NotFoundError:
        if config is not None:
            raise
        return FleetSpec()


def _usual(specs: Sequence[InstanceSpec]) -> InstanceSpec:
    """Return the instance whose settings hold: the first that has a card, else the first, else the defaults."""
    carded = [spec for spec in specs if spec.enabled and spec.pinning is not Pinning.CPU]
    return next(iter([*carded, *specs, InstanceSpec(name="default", port=0, pinning=Pinning.ANY)]))


# Cards and seats


def _places(
    specs: Sequence[InstanceSpec],
    usual: InstanceSpec,
    gpus: Sequence[str],
    inventory: Inventory,
    view: dict[str, Any] | None,
    *,
    only_instances: bool,
) -> tuple[tuple[PlanCard, ...], tuple[Seat, ...]]:
    chosen = _gpus(gpus, inventory)
    held = {spec.name: _cards_of(spec, inventory) for spec in specs}
    if not chosen and any(held.values()):
        return _host(specs, held, view)
    known = {gpu.uuid for gpu in chosen}
    seats = [_seat(spec, held[spec.name]) for spec in specs if held[spec.name] and set(held[spec.name]) <= known]
    owners = {gpu.uuid: [spec for spec in specs if gpu.uuid in held[spec.name]] for gpu in chosen}
    if not only_instances:
        seats += [
            Seat(name=gpu.uuid, instance=None, cards=(gpu.uuid,), slots=MODELS_PER_CARD)
            for gpu in chosen
            if not owners[gpu.uuid]
        ]
    order = {gpu.uuid: number for number, gpu in enumerate(chosen)}
    seats.sort(key=lambda seat: (order[seat.cards[0]], len(seat.cards)))
    loaded = _loaded(view, held)
    cards = tuple(_card(gpu, owners[gpu.uuid] or [usual], loaded.get(gpu.uuid, 0)) for gpu in chosen)
    return cards, tuple(seats)


def _loaded(view: dict[str, Any] | None, held: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """Return what the models that are loaded hold of each card, as the servers tell; for drivers that do not."""
    found: dict[str, int] = {}
    for one in [] if view is None else view["instances"]:
        cards = held.get(one["name"], ())
        for model in one["loaded"]:
            for uuid in cards:
                part = (model["size_vram_bytes"] or 0) // len(cards) + OVERHEAD_BYTES
                found[uuid] = found.get(uuid, 0) + part
    return found


def _others(gpu: Gpu, loaded: int) -> int:
    """Return what others than our instances hold of a card, the driver too; `loaded` is what these say they hold."""
    from ollamux.supervisor.family import mark_of

    ours = [process.memory_bytes for process in gpu.processes if mark_of(process.pid) is not None]
    known = [size for size in ours if size is not None]
    held = sum(known) if ours and len(known) == len(ours) else loaded
    return max((gpu.memory_used_bytes or 0) - held, 0) + (gpu.memory_reserved_bytes or 0)


def _seat(spec: InstanceSpec, cards: tuple[str, ...]) -> Seat:
    slots = spec.max_loaded_models or MODELS_PER_CARD * len(cards)
    return Seat(name=spec.name, instance=spec.name, cards=cards, slots=slots)


def _cards_of(spec: InstanceSpec, inventory: Inventory) -> tuple[str, ...]:
    from ollamux.gpu.resolve import resolve

    if spec.pinning is Pinning.ANY:
        found = tuple(gpu.uuid for gpu in inventory.gpus if gpu.memory_total_bytes and gpu.mig_parent is None)
        return found or (HOST,)
    if spec.pinning is Pinning.CPU:
        return (HOST,)
    resolution = resolve(spec, inventory)
    return () if resolution.problem is not None else tuple(gpu.uuid for gpu in resolution.gpus)


def _host(
    specs: Sequence[InstanceSpec], held: dict[str, tuple[str, ...]], view: dict[str, Any] | None
) -> tuple[tuple[PlanCard, ...], tuple[Seat, ...]]:
    """Return the host's memory as the only place: there is no card."""
    import psutil

    computing = [spec for spec in specs if held[spec.name] == (HOST,)]
    if not computing:
        return (), ()
    margin = max((spec.headroom_bytes or MARGIN_BYTES for spec in computing), default=MARGIN_BYTES)
    names = {spec.name for spec in computing}
    instances = [] if view is None else view["instances"]
    loaded = sum(model["size_bytes"] or 0 for one in instances if one["name"] in names for model in one["loaded"])
    memory = psutil.virtual_memory()
    card = PlanCard(
        uuid=HOST,
        mark="CPU",
        name="host memory",
        total_bytes=memory.total,
        headroom_bytes=margin,
        others_bytes=max(memory.total - memory.available - loaded, 0),
    )
    return (card,), tuple(_seat(spec, (HOST,)) for spec in computing)


def _gpus(references: Sequence[str], inventory: Inventory) -> list[Gpu]:
    """Return those that were named, else all that have a size and work."""
    if references:
        return [_named(reference, inventory) for reference in dict.fromkeys(references)]
    split = {gpu.mig_parent for gpu in inventory.gpus}
    return [gpu for gpu in inventory.gpus if gpu.memory_total_bytes and gpu.state == "ok" and gpu.uuid not in split]


def _inventory(*, simulated: bool) -> Inventory:
    from ollamux.cli.hardware import PATIENCE_S, read_gpus
    from ollamux.gpu.client import read_once

    if simulated:
        return read_once("simulated", Path(state_dir(os.environ, simulated=True)) / "box", PATIENCE_S)
    return read_gpus()


def _measured(*, simulated: bool) -> tuple[MeasuredLoad, ...]:
    """Return what loads were measured to take; a file that cannot be read is told, and does without."""
    loads, trouble = measured.read(state_dir(os.environ, simulated=simulated))
    if trouble is not None:
        screen.say(f"ollamux: warning: {trouble}; nothing that was measured is used\n", 2)
    return loads


def _trouble(specs: Sequence[InstanceSpec], inventory: Inventory) -> str | None:
    """Say why cards that are there, as far as anybody knows, could not be read; a card that is lost is no riddle."""
    from ollamux.gpu.resolve import describe, resolve

    if inventory.error is not None and inventory.error_key not in NO_DRIVER:
        return inventory.error
    found = {spec: resolve(spec, inventory) for spec in specs}
    if any(one.problem is not None and not one.gpus for one in found.values()) and inventory.error is not None:
        return inventory.error
    unknown = (gpu for one in found.values() for gpu in one.gpus if gpu.state not in ("ok", "lost"))
    return next((f"{describe(gpu)}: {gpu.lost_reason or 'no answer'}" for gpu in unknown), None)


def _links(*, simulated: bool) -> Links:
    from ollamux.cli.hardware import links_of, read_links

    return links_of(read_links(simulated=simulated))


def _reference(text: str) -> GpuRef:
    """Return the card that a word names, as an entry of `gpus` in a configuration does. Raises UsageError."""
    from ollamux.config.refs import parse_ref
    from ollamux.config.rules import Wrong

    try:
        return parse_ref(int(text) if text.isascii() and text.isdigit() and len(text) < 9 else text)
    except Wrong as error:
        shown = safe_text(text, limit=80)
        raise UsageError(f"--gpu: {shown!r}: {error}", hint="nvidia-smi -L shows indices and UUIDs") from None


def _named(text: str, inventory: Inventory) -> Gpu:
    from ollamux.gpu.resolve import resolve

    shown, reference = safe_text(text, limit=80), _reference(text)
    found = resolve(InstanceSpec(name="plan", port=0, pinning=Pinning.GPUS, gpus=(reference,)), inventory)
    if found.problem is not None or not found.gpus:
        raise NotFoundError(f"--gpu {shown}: {found.problem or 'there is no such card'}")
    if not found.gpus[0].memory_total_bytes:
        raise NotFoundError(f"--gpu {shown}: the driver does not tell how much memory it has")
    return found.gpus[0]


def _card(gpu: Gpu, specs: Sequence[InstanceSpec], loaded: int) -> PlanCard:
    mark = "?" if gpu.index is None else f"{'amd:' if gpu.vendor == 'amd' else ''}{gpu.index}"
    return PlanCard(
        uuid=gpu.uuid,
        mark="MIG" if gpu.mig_parent else mark,
        name=gpu.name,
        total_bytes=gpu.memory_total_bytes or 0,
        headroom_bytes=max(MARGIN_BYTES if one.headroom_bytes is None else one.headroom_bytes for one in specs),
        others_bytes=_others(gpu, loaded),
        maker=None if gpu.mig_parent else gpu.vendor,  # CUDA gives a process one slice, and no more
    )
