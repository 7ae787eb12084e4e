"""From a model in a store to what it needs on a card, and to what would make it need less. Reads heads of files.

The one door to the estimate for those who plan, place and tune: everything below it is about bytes in files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ollamux.domain.calibration import MeasuredLoad
from ollamux.domain.plan import LayerNeed, ModelNeed, Remedy
from ollamux.domain.text import safe_text
from ollamux.ollama.estimate import Estimate, estimate
from ollamux.ollama.gguf import GgufError, Tensor, read_head
from ollamux.ollama.memory import SMALLEST_BATCH, CacheTypeError, Wish, batch_of, context_of
from ollamux.ollama.predict import cache_per_token
from ollamux.ollama.shape import Shape, ShapeError, shape_of
from ollamux.ollama.stored import StoredModel, read_stored
from ollamux.ollama.version import Era

_STEP = 1024
_SMALLEST_CONTEXT = 1024
_SMALLER_CACHES = {"f16": ("q8_0", "q4_0"), "q8_0": ("q4_0",), "q4_0": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model whose head was read."""

    stored: StoredModel
    shape: Shape
    projector: tuple[Tensor, ...]
    adapters: tuple[Tensor, ...]
    file_bytes: int = 0
    cache_per_token: int = 0

    def wish(self, usual: Wish, *, context: int | None) -> Wish:
        """Return how it would be loaded: what was asked for, else what its Modelfile says, else what is usual."""
        told, batch, layers = (self.stored.number(name) for name in ("num_ctx", "num_batch", "num_gpu"))
        return replace(
            usual,
            context=context or (told if told and told > 0 else usual.context),
            batch=batch if batch and batch > 0 else usual.batch,
            layers=usual.layers if usual.layers is not None or layers is None or layers < 0 else layers,
        )

    def estimate(self, wish: Wish) -> Estimate:
        """Say what it needs when it is loaded like that. Raises CacheTypeError."""
        return estimate(self.shape, wish, projector=self.projector, adapters=self.adapters)


def read_model(store: Path, name: str) -> Model:
    """Read what is needed of a model in a store. Raises NotFoundError, StoreError, GgufError or ShapeError."""
    stored = read_stored(store, name)
    try:
        head = read_head(stored.weights)
        shape = shape_of(head)
        projector = tuple(tensor for path in stored.projectors for tensor in read_head(path).tensors)
        adapters = tuple(tensor for path in stored.adapters for tensor in read_head(path).tensors)
    except ShapeError as error:
        raise ShapeError(f"{stored.weights} cannot be planned with: {error.message}") from None
    except GgufError as error:
        raise GgufError(error.message, hint=f"ollamux pull {safe_text(name)} fetches it anew") from None
    return Model(
        stored=stored,
        shape=shape,
        projector=projector,
        adapters=adapters,
        file_bytes=head.file_bytes,
        cache_per_token=cache_per_token(head.metadata),
    )


def need_of(model: Model, wish: Wish) -> ModelNeed:
    """Return what a model needs, in the words of a plan. Raises CacheTypeError."""
    found = model.estimate(wish)
    return ModelNeed(
        name=model.stored.name,
        digest=model.stored.digest,
        architecture=model.shape.architecture,
        parameters=model.shape.parameters,
        quantization=model.shape.quantization,
        context_length=found.context,
        parallel=found.parallel,
        kv_type=wish.cache_type,
        flash_attention=wish.flash,
        batch=_told_batch(model.shape, wish),
        least_bytes=model.estimate(_least(wish)).total_bytes,
        layers=tuple(
            LayerNeed(
                number=layer.number,
                kind=layer.kind,
                weights_bytes=layer.weights,
                kv_bytes=layer.cache,
                state_bytes=layer.state,
                on_card=on_card,
            )
            for layer, on_card in zip(found.layers, found.on_card, strict=True)
        ),
        weights_bytes=found.weights,
        kv_bytes=found.cache + found.state,
        state_bytes=found.state,
        compute_bytes=found.compute,
        projector_bytes=found.projector,
        overhead_bytes=found.overhead,
        host_bytes=found.host_bytes,
        predicted_bytes=_predicted(model, wish, found),
        source="bound" if found.is_bound else "metadata",
        notes=tuple(_notes(model, wish, found)),
    )


def _predicted(model: Model, wish: Wish, found: Estimate) -> int:
    """Return what a server takes it to need; 0 where it decides by something else: before 0.30, or with few layers."""
    if wish.era is not Era.LLAMA_SERVER or not all(found.on_card):
        return 0
    return model.file_bytes + model.cache_per_token * found.context * found.parallel


def compute_of_load(model: Model, load: MeasuredLoad, usual: Wish) -> int | None:
    """Return what would have been estimated for a load to compute with; None where that cannot be said."""
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


def _told_batch(shape: Shape, wish: Wish) -> int:
    """Return the batch as a server tells it: before 0.30 one that embeds computes more at once than it says."""
    if wish.era is not Era.LLAMA_SERVER and wish.batch is None:
        return min(SMALLEST_BATCH, context_of(shape, wish))
    return batch_of(shape, wish)


def _least(wish: Wish) -> Wish:
    """Return the wish as ollama itself lessens it on a card that would be nearly full."""
    return wish if wish.batch is not None else replace(wish, batch=SMALLEST_BATCH)


def _notes(model: Model, wish: Wish, found: Estimate) -> list[str]:
    notes = []
    if found.is_bound and model.shape.is_known:
        notes.append("before ollama 0.30 weights and caches are exact, and what it computes with is an upper bound")
    elif found.is_bound:
        notes.append(
            f"the architecture {model.shape.architecture} is not known to this version: weights are exact, "
            "the rest is an upper bound"
        )
    if found.context < wish.context:
        notes.append(f"trained for a context of {found.context}, so ollama gives it no more than that")
    if found.parallel < wish.parallel:
        notes.append("ollama runs this kind of model with one sequence at a time")
    if found.projector:
        notes.append("what the projector itself computes with, some hundred MiB for large images, is not counted")
    return notes


def remedies(model: Model, wish: Wish, room: int) -> tuple[Remedy, ...]:
    """Return single changes after each of which a model would fit into that room, the mildest first."""
    found: list[Remedy] = []
    for cache in _SMALLER_CACHES.get(wish.cache_type, ()) if wish.flash else ():
        found += _if_fits(model, replace(wish, cache_type=cache), room, "kv_type", cache)
    if model.estimate(wish).parallel > 1:
        found += _if_fits(model, replace(wish, parallel=1), room, "parallel", 1)
    context = _largest(lambda steps: _total(model, replace(wish, context=steps * _STEP)) <= room, wish.context // _STEP)
    if context * _STEP >= _SMALLEST_CONTEXT:
        found += _if_fits(model, replace(wish, context=context * _STEP), room, "context_length", context * _STEP)
    layers = _largest(lambda count: _total(model, replace(wish, layers=count)) <= room, len(model.shape.layers))
    if layers:
        found += _if_fits(model, replace(wish, layers=layers), room, "layers", layers)
    return tuple(found)


def _if_fits(model: Model, wish: Wish, room: int, what: str, value: int | str) -> list[Remedy]:
    total = _total(model, wish)
    return [Remedy(what=what, value=value, total_bytes=total)] if total <= room else []


def _total(model: Model, wish: Wish) -> int:
    try:
        return model.estimate(_least(wish)).total_bytes
    except CacheTypeError:
        return 1 << 62


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number up to `most` that fits, 0 where none does; what fits, fits smaller too."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
