"""What is to be tuned, within which bounds, and what the estimate expects, from the store, the instance, the cards.

Starts and loads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ollamux.cli.ground import MARGIN_BYTES
from ollamux.domain.errors import NotFoundError, RefusedError, UsageError
from ollamux.domain.text import safe_text
from ollamux.domain.tune import Card, Outcome, Step, Task, What, grid, largest
from ollamux.gpu.model import Gpu
from ollamux.ollama.estimate import OVERHEAD_BYTES
from ollamux.ollama.memory import Wish
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the estimate expects of each value, set right by what was measured."""

    model: Model
    wish: Wish
    what: What
    values: tuple[int, ...]
    room: int
    on_card: bool
    others: int

    def guess(self, off_bytes: int = 0, room: int | None = None) -> int:
        """Return the number of the largest value that is expected to work, where the estimate is off by so much."""
        most = self.room if room is None else room
        return largest(self.values, lambda value: self._need(self._with(value)) + off_bytes <= most)

    def guess_after(self, steps: Sequence[Step]) -> int | None:
        """Return it after some steps, None where the last has shown nothing of how far off the estimate is.

        A server that put not all on the card has shown how much it takes for itself: about half a layer more than it
        took.
        """
        size = self._measured(steps[-1])
        if size is None:
            return None
        room = self.room
        for step in steps:
            wish, took = self._as_loaded(step), self._measured(step)
            if step.outcome is Outcome.SPILLED and took is not None and wish.layers is not None:
                next_layer = self._need(replace(wish, layers=wish.layers + 1)) - self._need(wish)
                room = min(room, took + next_layer // 2)
        return self.guess(size - self._need(self._as_loaded(steps[-1])), room)

    def _measured(self, step: Step) -> int | None:
        if self.on_card:
            return None if step.memory_used_bytes is None else step.memory_used_bytes - self.others
        host = step.host_buffers_bytes
        return None if host is None else host + (step.card_buffers_bytes or 0)

    def _as_loaded(self, step: Step) -> Wish:
        wish = self._with(step.value)
        return wish if step.layers_offloaded is None else replace(wish, layers=step.layers_offloaded)

    def _with(self, value: int) -> Wish:
        return _with(self.wish, self.what, value)

    def _need(self, wish: Wish) -> int:
        return _need(self.model, wish, on_card=self.on_card)


def model_to_tune(wanted: Wanted, store: str, *, has_cards: bool) -> Model:
    """Read the model. Raises OllamuxError where it cannot be tuned, or not like that: before anything is unloaded."""
    if wanted.what is What.LAYERS and not has_cards:
        raise RefusedError(f"{wanted.instance} computes on the CPU: it has no card to put layers on")
    if wanted.what in (None, What.CONTEXT) and wanted.context is not None and wanted.context < CONTEXT_STEP:
        raise UsageError(f"--ctx: {wanted.context} is less than {CONTEXT_STEP}, with which the search begins")
    model = read_model(Path(store), wanted.model)
    if model.shape.family.is_embedding:
        raise RefusedError(f"{safe_text(wanted.model)} only embeds: it generates nothing that could be measured")
    if wanted.what is What.PARALLEL and model.shape.family.single:
        raise RefusedError(f"ollama runs {safe_text(wanted.model)} with one sequence at a time, whatever is set")
    return model


def task_of(
    wanted: Wanted,
    model: Model,
    *,
    headroom: int | None,
    version: str | None,
    env: Mapping[str, str],
    gpus: Sequence[Gpu],
) -> tuple[Task, Expected]:
    """Put together what to search, and what is expected. Raises CacheTypeError."""
    wish = model.wish(_usual(env, version), context=wanted.context)
    found = model.estimate(wish)
    kept = MARGIN_BYTES if headroom is None else headroom
    room = _room(gpus, kept)
    what = wanted.what or _what_is_in_doubt(model, wish, room, on_card=bool(gpus))
    values = _values(what, model, wish, wanted)
    expected = Expected(
        model=model,
        wish=wish,
        what=what,
        values=values,
        room=room,
        on_card=bool(gpus),
        others=sum(gpu.memory_used_bytes or 0 for gpu in gpus),
    )
    task = Task(
        model=wanted.model,
        digest=model.stored.digest,
        instance=wanted.instance,
        ollama_version=version,
        what=what,
        values=values,
        guess=expected.guess(),
        is_bound=found.is_bound,
        trained_context=model.shape.trained_context or None,
        context=found.context,
        parallel=found.parallel,
        cache_type=wish.cache_type,
        layers=None if what is What.LAYERS else wish.layers,
        cards=tuple(_card(gpu) for gpu in gpus),
        headroom_bytes=kept if gpus else None,
    )
    return task, expected


def _usual(env: Mapping[str, str], version: str | None) -> Wish:
    """Return how the instance loads what is asked for without options."""
    return Wish(
        context=_number(env, "OLLAMA_CONTEXT_LENGTH") or 4096,
        parallel=_number(env, "OLLAMA_NUM_PARALLEL") or 1,
        cache_type=env.get("OLLAMA_KV_CACHE_TYPE") or "f16",
        flash=env.get("OLLAMA_FLASH_ATTENTION", "1") not in ("0", "false"),
        era=era_of(parse_version(version or "")) or Era.LLAMA_SERVER,
    )


def _what_is_in_doubt(model: Model, wish: Wish, room: int, *, on_card: bool) -> What:
    """Without a word: the layers where not all of them fit on the card, else the context."""
    whole = replace(wish, layers=None)
    return What.LAYERS if on_card and _need(model, whole, on_card=True) > room else What.CONTEXT


def _with(wish: Wish, what: What, value: int) -> Wish:
    if what is What.LAYERS:
        return replace(wish, layers=value)
    return replace(wish, context=value) if what is What.CONTEXT else replace(wish, parallel=value)


def _need(model: Model, wish: Wish, *, on_card: bool) -> int:
    total = model.estimate(wish).total_bytes
    return total if on_card else total - OVERHEAD_BYTES


def _room(gpus: Sequence[Gpu], headroom: int) -> int:
    if not gpus:
        return _host_memory() * _LEFT_PERCENT // 100
    return sum((gpu.memory_total_bytes or 0) - (gpu.memory_used_bytes or 0) - headroom for gpu in gpus)


def _host_memory() -> int:
    """Return what the kernel would give to a new process without swapping, 0 where it does not say."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        found = next((line for line in lines if line.startswith("MemAvailable:")), "0 0 kB")
    return int(found.split()[1]) * 1024


def _values(what: What, model: Model, wish: Wish, wanted: Wanted) -> tuple[int, ...]:
    if what is What.LAYERS:
        return grid(1, len(model.estimate(wish).layers), 1)
    if what is What.PARALLEL:
        return grid(1, _MOST_SLOTS, 1)
    trained = model.shape.trained_context or _LARGEST_CONTEXT
    most = min(trained, wanted.context or trained)
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
