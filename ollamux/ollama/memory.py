"""What a model takes of memory when it is loaded: weights, caches, states. Pure; the formulas are in docs/memory.md.

Every figure is that of one buffer as ggml lays it out: each tensor begins at a multiple of the backend's alignment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ollamux.domain.errors import Exit, OllamuxError
from ollamux.ollama.gguf import Tensor
from ollamux.ollama.gguf_types import CACHE_TYPES
from ollamux.ollama.shape import Layer, Shape
from ollamux.ollama.version import Era

_CHECKPOINTS = 24
"""How many old states ollama's own engine kept beside each (kvcache/recurrent.go)."""
_CELLS = 256
"""A cache has a multiple of so many places for each sequence (`GGML_PAD` in llama-context.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """How a kind of device lays tensors out. Rows of quantised tensors are filled up to a multiple of `row`."""

    alignment: int
    row: int = 1


CPU = Backend(alignment=32)
CUDA = Backend(alignment=128, row=512)
"""ggml-cuda.cu: alignment 128, and MATRIX_ROW_PADDING for its matrix kernels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a model is to be loaded. `context` is that of one sequence; `layers` is num_gpu, None for all.

    `batch` is num_batch; None lets ollama choose, which takes more where the context is long.
    """

    context: int
    parallel: int = 1
    cache_type: str = "f16"
    flash: bool = True
    batch: int | None = None
    layers: int | None = None
    era: Era = Era.LLAMA_SERVER


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBytes:
    """What one layer takes. `number` is None for the output, which counts as the last layer."""

    number: int | None
    kind: str
    weights: int
    cache: int
    state: int

    @property
    def total(self) -> int:
        """Return all of it."""
        return self.weights + self.cache + self.state


class CacheTypeError(OllamuxError):
    """A cache of this type cannot be had with this model."""

    exit_code = Exit.REFUSED


def tensor_bytes(tensor: Tensor, backend: Backend) -> int:
    """Return what a tensor takes in a buffer."""
    size = tensor.size_bytes
    if backend.row > 1 and tensor.type not in _PLAIN and tensor.shape and tensor.shape[0] % backend.row:
        # Fill up the last row, in blocks of its type.
        missing = backend.row - tensor.shape[0] % backend.row
        size += missing * size // tensor.elements
    return _padded(size, backend)


_PLAIN = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")


def weights_bytes(tensors: Iterable[Tensor], backend: Backend) -> int:
    """Return what tensors take together."""
    return sum(tensor_bytes(tensor, backend) for tensor in tensors)


def parallel_of(shape: Shape, wish: Wish) -> int:
    """Return how many sequences there will be: ollama runs some kinds with one, whatever is asked for."""
    return 1 if shape.family.single or shape.family.is_embedding else wish.parallel


def context_of(shape: Shape, wish: Wish) -> int:
    """Return the context of one sequence: at most what the model was trained for."""
    return min(wish.context, shape.trained_context or wish.context)


def is_engine(shape: Shape, wish: Wish) -> bool:
    """Whether ollama's own engine computes the model, as it did with some kinds before 0.30."""
    return wish.era is not Era.LLAMA_SERVER and shape.family.is_engine


def has_flash(shape: Shape, wish: Wish) -> bool:
    """Whether flash attention is used where it is wished for: before 0.30 not with every kind."""
    return wish.flash and (wish.era is Era.LLAMA_SERVER or shape.family.has_flash)


def cache_type_of(shape: Shape, wish: Wish) -> str:
    """Return the type of the cache: before 0.30 a wish that cannot be had is passed over, later it is an error."""
    return "f16" if wish.era is not Era.LLAMA_SERVER and not has_flash(shape, wish) else wish.cache_type


def seen_cells(shape: Shape, wish: Wish, *, sliding: bool) -> int:
    """Return how many places of a cache one token looks at: those of its sequence; in ollama's own engine, all."""
    parallel = parallel_of(shape, wish)
    context = context_of(shape, wish)
    whole = _up(context * parallel, _CELLS)
    if is_engine(shape, wish):
        window = max(shape.window or 0, shape.family.remembers) + (parallel > 1)
        if not sliding or not shape.window or window >= context:
            return whole
        return _up(parallel * window + batch_of(shape, wish), _CELLS)
    each = _up(whole // parallel, _CELLS)
    if wish.era is not Era.LLAMA_SERVER:
        # Older hybrids gave every sequence the context of all; windows were kept whole.
        return whole if shape.family.recurrent else each
    if not sliding or not shape.window:
        return each
    return _up(min(each, shape.window + batch_of(shape, wish)), _CELLS)


def kept_cells(shape: Shape, wish: Wish, *, sliding: bool) -> int:
    """Return how many places a cache has for all sequences."""
    seen = seen_cells(shape, wish, sliding=sliding)
    return seen if is_engine(shape, wish) else seen * parallel_of(shape, wish)


def batch_of(shape: Shape, wish: Wish) -> int:
    """Return how many tokens are computed at once: no more than there is room for.

    Where nothing is asked for, llama-server is started by ollama with a number that grows with all contexts together
    (`automaticGenerationBatch` in server/sched.go), and with less again where the card is nearly full.
    """
    context = context_of(shape, wish)
    whole = context * parallel_of(shape, wish)
    if wish.batch is not None:
        return min(wish.batch, whole)
    if wish.era is not Era.LLAMA_SERVER:
        return context if shape.family.is_embedding else min(SMALLEST_BATCH, context)
    if shape.family.is_embedding or (shape.numbers["pooling_type"] and not shape.is_known):
        return min(_EMBEDDING_BATCH, context)
    chosen = next(batch for least, batch in _BATCHES if whole > least) if wish.flash else SMALLEST_BATCH
    return min(chosen, whole)


SMALLEST_BATCH = 512
_EMBEDDING_BATCH = 2048
_BATCHES = ((32768, 2048), (4096, 1024), (0, SMALLEST_BATCH))


def cache_bytes(shape: Shape, layer: Layer, wish: Wish, backend: Backend) -> int:
    """Return what the keys and values of a layer take."""
    if not layer.has_cache or not layer.heads_kv:
        return 0
    places = kept_cells(shape, wish, sliding=layer.is_sliding)
    kind, value = cache_type_of(shape, wish), layer.heads_kv * layer.value_size
    if not has_flash(shape, wish) and not is_engine(shape, wish):
        if kind != "f16" and not shape.is_latent:
            raise CacheTypeError(f"a {kind} cache needs flash attention", hint="use f16, or switch it on")
        # Values are kept transposed then, in rows as wide as those of the widest layer.
        value = max(other.heads_kv * other.value_size for other in shape.layers)
    sizes = [_row_bytes(layer.heads_kv * layer.key_size, kind)]
    if not shape.is_latent or wish.era is not Era.LLAMA_SERVER:
        sizes.append(_row_bytes(value, kind))
    return sum(_padded(size * places, backend) for size in sizes)


def state_bytes(shape: Shape, layer: Layer, wish: Wish, backend: Backend) -> int:
    """Return what a recurrent layer keeps for all sequences, in 32 bits whatever the type of the cache."""
    if not layer.is_recurrent:
        return 0
    rows = parallel_of(shape, wish) * (1 + _CHECKPOINTS * is_engine(shape, wish))
    sizes = (shape.states.convolution, shape.states.state)
    return sum(_padded(4 * size * rows, backend) for size in sizes if size)


def layers_bytes(shape: Shape, wish: Wish, backend: Backend) -> tuple[LayerBytes, ...]:
    """Return what each layer takes, in order, the output last."""
    found = [
        LayerBytes(
            number=number,
            kind=_kind(layer),
            weights=weights_bytes(layer.tensors.values(), backend),
            cache=cache_bytes(shape, layer, wish, backend),
            state=state_bytes(shape, layer, wish, backend),
        )
        for number, layer in enumerate(shape.layers)
    ]
    copies = [tensor for tensor in shape.input if tensor.name == "token_embd.weight"] if shape.is_tied else []
    output = weights_bytes([*shape.output, *copies], backend)
    return (*found, LayerBytes(number=None, kind="output", weights=output, cache=0, state=0))


def _kind(layer: Layer) -> str:
    if layer.is_draft:
        return "draft"
    if layer.is_recurrent:
        return "recurrent"
    return "sliding" if layer.is_sliding else "attention"


def _row_bytes(numbers: int, cache_type: str) -> int:
    block, size = CACHE_TYPES[cache_type]
    if numbers % block:
        raise CacheTypeError(
            f"a {cache_type} cache needs rows of a multiple of {block} numbers, and this model's have {numbers}",
            hint="use f16 for it",
        )
    return numbers // block * size


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _padded(size: int, backend: Backend) -> int:
    return _up(size, backend.alignment)
