"""`ollamux plan`: read the heads of models in the store, and show what they need and on which cards they fit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.target import reach
from ollamux.cli.words import load
from ollamux.config.write import PACKAGED_STORE
from ollamux.domain.calibration import Calibration, MeasuredLoad
from ollamux.domain.errors import Exit, NotFoundError, NotRunningError, OllamuxError, TimedOutError, UsageError
from ollamux.domain.plan import ModelNeed, Placed, Plan, PlanCard, Unplaced, as_json, place
from ollamux.domain.spec import MODELS_PER_CARD, FleetSpec, GpuRef, InstanceSpec, Pinning
from ollamux.domain.text import format_size, safe_text
from ollamux.gpu.model import Gpu, Inventory
from ollamux.ollama import measured
from ollamux.ollama.binary import find_ollama, version_text
from ollamux.ollama.gguf_types import CACHE_TYPES
from ollamux.ollama.memory import CacheTypeError, Wish
from ollamux.ollama.needs import Model, need_of, read_model, remedies
from ollamux.ollama.store import store_path
from ollamux.ollama.version import Era, era_of, parse_version
from ollamux.system.clock import rfc3339, wall
from ollamux.system.places import home, state_dir

MARGIN_BYTES = 1024**3
"""What is kept free of a card where no headroom is configured: llama-server's own margin (`--fit-target`)."""
_LARGEST_CONTEXT = 1 << 24
_MOST_SEQUENCES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The words of the command. None means what the configuration says."""

    models: tuple[str, ...]
    context: int | None
    parallel: int | None
    cache_type: str | None
    gpus: tuple[str, ...]
    config: str | None
    simulated: bool


def plan(asked: Asked, *, output: str) -> int:
    """Show what models need; ends with 6 where a card is there and one of them has none."""
    if output not in ("table", "json"):
        raise UsageError(f"-o: there is no form {output!r}", hint="there are: table, json")
    _check(asked)
    found = _plan(asked, simulated=_meant(asked))
    if output == "json":
        screen.write(json.dumps(as_json(found), indent=2, ensure_ascii=False) + "\n")
    else:
        from ollamux.render.pen import Pen
        from ollamux.render.plan import draw_plan

        env = os.environ
        pen = Pen(width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env))
        screen.write(draw_plan(pen, found))
    return int(Exit.DEGRADED if found.unplaced else Exit.OK)


def _check(asked: Asked) -> None:
    if asked.cache_type is not None and asked.cache_type not in CACHE_TYPES:
        raise UsageError(f"--kv: there is no type {asked.cache_type!r}", hint=f"there are: {', '.join(CACHE_TYPES)}")
    for option, value, most in (
        ("--ctx", asked.context, _LARGEST_CONTEXT),
        ("--parallel", asked.parallel, _MOST_SEQUENCES),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{option}: {value} is not between 1 and {most}")
    for reference in asked.gpus:
        _reference(reference)


def _meant(asked: Asked) -> bool:
    """Say whether a simulation is meant, by the rule of every command; a named configuration is the real thing's."""
    if asked.simulated or asked.config is not None:
        return asked.simulated
    try:
        connection, which = reach(False)
    except (NotRunningError, TimedOutError):
        return False
    connection.close()
    return which


def _plan(asked: Asked, *, simulated: bool) -> Plan:
    fleet = _fleet(asked, simulated=simulated)
    spec = _usual(fleet)
    version = _version(spec)
    usual = Wish(
        context=spec.context_length,
        parallel=asked.parallel or spec.num_parallel or 1,
        cache_type=asked.cache_type or spec.kv_cache_type or "f16",
        flash=spec.flash_attention is not False,
        era=(era_of(parse_version(version)) if version else None) or Era.LLAMA_SERVER,
    )
    stores = _stores(fleet, simulated=simulated)
    models = {name: _read(stores, name) for name in dict.fromkeys(asked.models)}
    wishes = {name: model.wish(usual, context=asked.context) for name, model in models.items()}
    needs = tuple(need_of(model, wishes[name]) for name, model in models.items())
    cards = _cards(fleet, asked, simulated=simulated)
    known = _calibration(version, models.values(), usual, simulated=simulated)
    placement, missing = place(needs, cards, known.calibrated)
    return Plan(
        version=__version__,
        time=rfc3339(wall()),
        simulated=simulated,
        models=tuple(known.shown(need, cards, on=_card_of(need, cards, placement)) for need in needs),
        cards=cards,
        placement=placement,
        unplaced=tuple(
            _unplaced(known.shown(need, cards), models[need.name], wishes[need.name], cards)
            for need in missing
            if cards
        ),
    )


def _calibration(version: str | None, models: Iterable[Model], usual: Wish, *, simulated: bool) -> Calibration:
    """Return what loads were measured to take; a file that cannot be read is told, and does without."""
    loads, trouble = measured.read(state_dir(os.environ, simulated=simulated))
    if trouble is not None:
        screen.say(f"ollamux: warning: {trouble}; nothing that was measured is used\n", 2)
    by_digest = {model.stored.digest: model for model in models}

    def compute_of(load: MeasuredLoad) -> int | None:
        model = by_digest.get(load.digest)
        return None if model is None else _compute(model, load, usual)

    return Calibration(loads=loads, version=version, compute_of=compute_of)


def _compute(model: Model, load: MeasuredLoad, usual: Wish) -> int | None:
    """Return what would have been estimated for a load to compute with."""
    wish = replace(
        usual,
        context=load.context_length,
        parallel=load.parallel,
        cache_type=load.kv_type,
        flash=load.flash_attention,
        batch=load.batch,
    )
    try:
        return model.estimate(wish).compute
    except CacheTypeError:
        return None


def _card_of(need: ModelNeed, cards: Sequence[PlanCard], placement: Sequence[Placed]) -> PlanCard | None:
    """Return the card that a model goes to."""
    there = {placed.uuid for placed in placement if placed.model == need.name}
    return next((card for card in cards if card.uuid in there), None)


# What is configured


def _fleet(asked: Asked, *, simulated: bool) -> FleetSpec:
    if simulated:
        path = Path(state_dir(os.environ, simulated=True)) / "ollamux.toml"
        if not path.exists():
            raise NotRunningError("there is no simulation here", hint="ollamux up --simulate 4 -d starts one")
        return load(str(path))[2]
    try:
        return load(asked.config)[2]
    except NotFoundError:
        if asked.config is not None:
            raise
        return FleetSpec()


def _usual(fleet: FleetSpec) -> InstanceSpec:
    """Return the instance whose settings hold: the first that has a card, else the first, else the defaults."""
    carded = [spec for spec in fleet.instances if spec.enabled and spec.pinning is not Pinning.CPU]
    plain = InstanceSpec(name="default", port=0, pinning=Pinning.ANY)
    return next(iter([*carded, *fleet.instances, plain]))


def _version(spec: InstanceSpec) -> str | None:
    """Return the version of the instance's ollama; None where it is not here, or does not tell."""
    try:
        return version_text(find_ollama(spec.ollama, os.environ))
    except OllamuxError:
        return None


def _stores(fleet: FleetSpec, *, simulated: bool) -> tuple[Path, ...]:
    """Return where models may be: the stores of the instances, else ollama's own and that of its package."""
    if simulated:
        return (Path(state_dir(os.environ, simulated=True)) / "models",)
    named = [store_path(spec.store, home(os.environ)) for spec in fleet.instances]
    usual = [] if named else [store_path(os.environ.get("OLLAMA_MODELS"), home(os.environ)), str(PACKAGED_STORE)]
    return tuple(Path(path) for path in dict.fromkeys([*named, *usual]))


def _read(stores: Sequence[Path], name: str) -> Model:
    first: OllamuxError | None = None
    for store in stores:
        try:
            return read_model(store, name)
        except NotFoundError as error:
            first = first or error
    raise first or NotFoundError(f"there is no store to look for {safe_text(name)} in")


# Cards


def _cards(fleet: FleetSpec, asked: Asked, *, simulated: bool) -> tuple[PlanCard, ...]:
    """Return the cards to plan for, each with what the instance that has it alone is configured to."""
    from ollamux.cli.configuration import resolved

    inventory = _inventory(simulated=simulated)
    specs = {spec.name: spec for spec in fleet.instances if spec.enabled}
    owners = {
        uuids[0]: specs[name] for name, uuids in resolved(fleet, inventory).items() if len(uuids) == 1 and name in specs
    }
    usual = _usual(fleet)
    return tuple(_card(gpu, owners.get(gpu.uuid), usual) for gpu in _gpus(asked, inventory))


def _gpus(asked: Asked, inventory: Inventory) -> list[Gpu]:
    """Return those that were named, else all that have a size and work."""
    if asked.gpus:
        return [_named(reference, inventory) for reference in dict.fromkeys(asked.gpus)]
    split = {gpu.mig_parent for gpu in inventory.gpus}
    return [gpu for gpu in inventory.gpus if gpu.memory_total_bytes and gpu.state == "ok" and gpu.uuid not in split]


def _inventory(*, simulated: bool) -> Inventory:
    from ollamux.cli.hardware import PATIENCE_S, read_gpus
    from ollamux.gpu.client import read_once

    if simulated:
        return read_once("simulated", Path(state_dir(os.environ, simulated=True)) / "box", PATIENCE_S)
    return read_gpus()


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


def _card(gpu: Gpu, owner: InstanceSpec | None, usual: InstanceSpec) -> PlanCard:
    mark = "?" if gpu.index is None else f"{'amd:' if gpu.vendor == 'amd' else ''}{gpu.index}"
    spec = owner or usual
    return PlanCard(
        uuid=gpu.uuid,
        mark="MIG" if gpu.mig_parent else mark,
        name=gpu.name,
        total_bytes=gpu.memory_total_bytes or 0,
        headroom_bytes=MARGIN_BYTES if spec.headroom_bytes is None else spec.headroom_bytes,
        slots=spec.max_loaded_models or MODELS_PER_CARD,
        instance=None if owner is None else owner.name,
    )


def _unplaced(need: ModelNeed, model: Model, wish: Wish, cards: Sequence[PlanCard]) -> Unplaced:
    room = max(card.room_bytes for card in cards)
    if need.least_bytes <= room:
        others = "the others take the cards that would hold it"
        return Unplaced(model=need.name, reason=f"{others}; alone it would fit")
    largest = "the card has" if len(cards) == 1 else "the largest card has"
    reason = f"it needs at least {format_size(need.least_bytes)}, and {largest} room for {format_size(room)}"
    return Unplaced(model=need.name, reason=reason, remedies=remedies(model, wish, room))
