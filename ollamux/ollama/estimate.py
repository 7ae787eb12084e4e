"""What a model needs on a card and beside it, from its shape and how it is to be loaded. Pure.

Parts, formulas and how far off they are: docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ollamux.ollama.compute import compute_bytes
from ollamux.ollama.gguf import Tensor
from ollamux.ollama.memory import (
    CUDA,
    Backend,
    LayerBytes,
    Wish,
    context_of,
    layers_bytes,
    parallel_of,
    weights_bytes,
)
from ollamux.ollama.shape import Shape
from ollamux.ollama.version import Era

MIB = 1024**2
OVERHEAD_BYTES = 457 * MIB
"""What a CUDA context takes besides all buffers: 300 to 500 MiB are seen; this is what ollama itself sets aside."""
OLDER_PERCENT = 155
"""What the steps of a batch are taken for with a runner before 0.30, which needs up to half more than they tell."""
_BOUND = 2
"""How many times the steps of a layer that we do not know are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a model needs. All but `host_bytes` is on the card. `layers` has the output as its last.

    `is_bound`: the architecture is not known, and no part but the weights is more than what it will stay below.
    """

    wish: Wish
    context: int
    parallel: int
    layers: tuple[LayerBytes, ...]
    on_card: tuple[bool, ...]
    weights: int
    cache: int
    state: int
    compute: int
    projector: int
    overhead: int
    host_bytes: int
    is_bound: bool

    @property
    def total_bytes(self) -> int:
        """Return all that the card must hold."""
        return self.weights + self.cache + self.state + self.compute + self.projector + self.overhead

    @property
    def offloaded(self) -> int:
        """Return how many layers are on the card."""
        return sum(self.on_card)


def estimate(
    shape: Shape,
    wish: Wish,
    *,
    projector: Sequence[Tensor] = (),
    adapters: Sequence[Tensor] = (),
    backend: Backend = CUDA,
    overhead: int = OVERHEAD_BYTES,
) -> Estimate:
    """Say what a model needs. Raises CacheTypeError where it cannot be loaded that way."""
    known = shape if shape.is_known else replace(shape, is_latent=False)
    layers = layers_bytes(known, wish, backend)
    chosen = _chosen(len(layers), wish)
    on_card = [layer for layer, there in zip(layers, chosen, strict=True) if there]
    beside = [layer for layer, there in zip(layers, chosen, strict=True) if not there]
    outside = weights_bytes(shape.input, backend)
    # Small, and where they end up differs: counted with the card.
    weights = sum(layer.weights for layer in on_card) + weights_bytes(adapters, backend)
    if not shape.is_known:
        weights, outside = weights + outside, 0
    return Estimate(
        wish=wish,
        context=context_of(shape, wish),
        parallel=parallel_of(shape, wish),
        layers=layers,
        on_card=chosen,
        weights=weights,
        cache=sum(layer.cache for layer in on_card),
        state=sum(layer.state for layer in on_card) + (0 if shape.is_known else _state_bound(shape, wish)),
        compute=_compute(known, wish) if on_card else 0,
        projector=weights_bytes((*shape.vision, *projector), backend),
        overhead=overhead,
        host_bytes=outside + sum(layer.total for layer in beside),
        is_bound=not shape.is_known or wish.era is not Era.LLAMA_SERVER,
    )


def _chosen(count: int, wish: Wish) -> tuple[bool, ...]:
    """Say which layers go to the card: from the end, and before 0.30 the output only with all the others."""
    wanted = count if wish.layers is None else min(wish.layers, count)
    if wish.era is Era.LLAMA_SERVER or wanted == count:
        return tuple(number >= count - wanted for number in range(count))
    return (*(number >= count - 1 - wanted for number in range(count - 1)), False)


def _compute(shape: Shape, wish: Wish) -> int:
    if shape.is_known:
        return compute_bytes(shape, wish) * (100 if wish.era is Era.LLAMA_SERVER else OLDER_PERCENT) // 100
    return max(_BOUND * compute_bytes(shape, wish), compute_bytes(shape, replace(wish, flash=False)))


def _state_bound(shape: Shape, wish: Wish) -> int:
    """Return what would be needed if every layer kept a state beside its cache."""
    wide = shape.numbers["wkv.head_size"]
    each = shape.states.convolution + shape.states.state + (shape.width * (wide + 2) if wide else 0)
    return 4 * each * len(shape.layers) * parallel_of(shape, wish)
