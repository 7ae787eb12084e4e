"""What is to be tuned, within which bounds, and what the estimate expects, from the store, the instance, the cards.

Starts and loads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ollamux.cli.plan import MARGIN_BYTES
from ollamux.domain.errors import NotFoundError, RefusedError, UsageError
from ollamux.domain.text import safe_text
from ollamux.domain.tune import Card, Task, What, grid, largest
from ollamux.gpu.model import Gpu
from ollamux.ollama.estimate import OVERHEAD_BYTES
from ollamux.ollama.memory import Wish, parallel_of
from ollamux.ollama.needs import Model, read_model
from ollamux.ollama.version import Era, era_of, parse_version
from ollamux.system.places import state_dir

CONTEXT_STEP = 256
"""A cache has a multiple of so many places."""
_LARGEST_CONTEXT = 1 << 20
_MOST_SLOTS = 64
_LEFT_PERCENT = 90
"""So much of the host's free memory a model on the CPU is expected to get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The words of the command."""

    model: str
    instance: str
    what: What | None
    context: int | None
    simulated: bool


def read_cards(uuids: Sequence[str], *, simulated: bool) -> list[Gpu]:
    """Return the cards as they are now. Raises NotFoundError where one of them cannot be read."""
    from ollamux.cli.hardware import PATIENCE_S, read_gpus
    from ollamux.gpu.client import read_once

    if simulated:
        inventory = read_once("simulated", Path(state_dir(os.environ, simulated=True)) / "box", PATIENCE_S)
    else:
        inventory = read_gpus()
    known = {gpu.uuid: gpu for gpu in inventory.gpus}
    missing = [uuid for uuid in uuids if uuid not in known or not known[uuid].memory_total_bytes]
    if missing:
        why = f": {inventory.error}" if inventory.error else ""
        raise NotFoundError(f"the memory of {missing[0]} cannot be read{why}")
    return [known[uuid] for uuid in uuids]


def uuids_of(status: dict[str, Any], name: str) -> tuple[str, ...]:
    """Return the cards that an instance uses; one that is not pinned has all there are."""
    instance = instance_of(status, name)
    if instance["pinning"] == "cpu":
        return ()
    return tuple(instance["gpus"]) or tuple(gpu["uuid"] for gpu in status["gpus"] if gpu["memory_total_bytes"])


def instance_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an instance as the supervisor sees it."""
    found: dict[str, Any] = next(one for one in status["instances"] if one["name"] == name)
    return found


def task_of(
    wanted: Wanted, view: dict[str, Any], status: dict[str, Any], env: Mapping[str, str], gpus: Sequence[Gpu]
) -> Task:
    """Put together what to search. Raises OllamuxError where that cannot be tuned."""
    model = read_model(Path(view["store"]), wanted.model)
    if model.shape.family.is_embedding:
        raise RefusedError(
            f"{safe_text(wanted.model)} only embeds: it has no context to be filled, and generates nothing"
        )
    version = instance_of(status, wanted.instance)["ollama_version"]
    usual = Wish(
        context=_number(env, "OLLAMA_CONTEXT_LENGTH") or 4096,
        parallel=_number(env, "OLLAMA_NUM_PARALLEL") or 1,
        cache_type=env.get("OLLAMA_KV_CACHE_TYPE") or "f16",
        flash=env.get("OLLAMA_FLASH_ATTENTION", "1") not in ("0", "false"),
        era=era_of(parse_version(version or "")) or Era.LLAMA_SERVER,
    )
    wish = model.wish(usual, context=wanted.context)
    found = model.estimate(wish)
    headroom = view["tuning"]["headroom_bytes"]
    kept = MARGIN_BYTES if headroom is None else headroom
    room = _room(gpus, kept)
    what = wanted.what or _what_is_in_doubt(model, wish, gpus, room)
    values = _values(what, model, wish, wanted, gpus)
    guess = largest(values, lambda value: _need(model, _with(wish, what, value), gpus) <= room)
    return Task(
        model=wanted.model,
        digest=model.stored.digest,
        instance=wanted.instance,
        ollama_version=version,
        what=what,
        values=values,
        guess=guess,
        is_bound=found.is_bound,
        trained_context=model.shape.trained_context or None,
        context=found.context,
        parallel=found.parallel,
        cache_type=wish.cache_type,
        layers=None if what is What.LAYERS else wish.layers,
        cards=tuple(_card(gpu) for gpu in gpus),
        headroom_bytes=kept if gpus else None,
    )


def _what_is_in_doubt(model: Model, wish: Wish, gpus: Sequence[Gpu], room: int) -> What:
    """Without a word: the layers where not all of them fit on the card, else the context."""
    whole = replace(wish, layers=None)
    return What.LAYERS if gpus and _need(model, whole, gpus) > room else What.CONTEXT


def _with(wish: Wish, what: What, value: int) -> Wish:
    if what is What.LAYERS:
        return replace(wish, layers=value)
    return replace(wish, context=value) if what is What.CONTEXT else replace(wish, parallel=value)


def _need(model: Model, wish: Wish, gpus: Sequence[Gpu]) -> int:
    total = model.estimate(wish).total_bytes
    return total if gpus else total - OVERHEAD_BYTES


def _room(gpus: Sequence[Gpu], headroom: int) -> int:
    if not gpus:
        return _host_memory() * _LEFT_PERCENT // 100
    return sum((gpu.memory_total_bytes or 0) - (gpu.memory_used_bytes or 0) - headroom for gpu in gpus)


def _host_memory() -> int:
    """Return what the kernel would give to a new process without swapping, 0 where it does not say."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        found = next((line for line in lines if line.startswith("MemAvailable:")), "0 0 kB")
    return int(found.split()[1]) * 1024


def _values(what: What, model: Model, wish: Wish, wanted: Wanted, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    if what is What.LAYERS:
        if not gpus:
            raise RefusedError(f"{wanted.instance} computes on the CPU: it has no card to put layers on")
        return grid(1, len(model.estimate(wish).layers), 1)
    if what is What.PARALLEL:
        if parallel_of(model.shape, replace(wish, parallel=2)) == 1:
            raise RefusedError(f"ollama runs {safe_text(wanted.model)} with one sequence at a time, whatever is set")
        return grid(1, _MOST_SLOTS, 1)
    trained = model.shape.trained_context or _LARGEST_CONTEXT
    most = min(trained, wanted.context or trained)
    if wanted.context is not None and wanted.context < CONTEXT_STEP:
        raise UsageError(f"--ctx: {wanted.context} is less than {CONTEXT_STEP}, with which the search begins")
    return grid(min(CONTEXT_STEP, most), most, CONTEXT_STEP)


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def _card(gpu: Gpu) -> Card:
    return Card(
        uuid=gpu.uuid,
        name=gpu.name,
        total_bytes=gpu.memory_total_bytes or 0,
        used_bytes=gpu.memory_used_bytes or 0,
    )
