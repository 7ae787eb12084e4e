"""What a model is made of, as its head tells: layers, heads, windows, states. Pure, and no sizes in memory yet.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What an architecture does with them: the folder
https://github.com/ggml-org/llama.cpp/tree/master/src/models. An architecture is known here once its figures were
compared with those that real servers log (docs/memory.md); of any other only a bound is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ollamux.domain.errors import Exit, OllamuxError
from ollamux.ollama.families import ALIASES, FAMILIES, UNKNOWN, Family
from ollamux.ollama.gguf import Head, Skipped, Tensor, Value
from ollamux.ollama.gguf_types import FILE_TYPES

_MOST_LAYERS = 1024
_MOST = 1 << 31
_VISION = ("v.", "mm.", "a.", "vision.", "resampler.")


class ShapeError(OllamuxError):
    """A head that lacks what a model must say of itself."""

    exit_code = Exit.DEGRADED


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One repeating layer. `tensors` is by the name behind the layer's number; no `heads_kv` means no attention.

    `is_draft`: it only guesses tokens ahead, and is neither loaded nor computed where nobody asks for that.
    """

    tensors: Mapping[str, Tensor]
    heads: int
    heads_kv: int
    key_size: int
    value_size: int
    feed: int
    is_sliding: bool
    is_recurrent: bool
    has_cache: bool
    is_draft: bool

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.tensors

    def out(self, name: str) -> int:
        """Return how many numbers come out of a matrix, 0 where there is none."""
        tensor = self.tensors.get(name)
        return tensor.shape[1] if tensor is not None and len(tensor.shape) > 1 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """What a recurrent layer keeps for each sequence: numbers of 32 bits for the convolution and for the state."""

    convolution: int
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model. `input`, `output` and `vision` are the tensors outside of the layers."""

    architecture: str
    family: Family
    is_known: bool
    parameters: int
    quantization: str | None
    width: int
    vocabulary: int
    trained_context: int | None
    layers: tuple[Layer, ...]
    window: int | None
    is_latent: bool
    states: States
    numbers: Mapping[str, int]
    input: tuple[Tensor, ...]
    output: tuple[Tensor, ...]
    vision: tuple[Tensor, ...]

    @property
    def is_tied(self) -> bool:
        """Whether the output shares its matrix with the token embedding, which a card then holds a copy of."""
        return not self.family.is_embedding and not any(tensor.name == "output.weight" for tensor in self.output)


def shape_of(head: Head) -> Shape:
    """Say what a model is made of; ShapeError where its head does not tell enough."""
    told = head.metadata.get("general.architecture")
    if not isinstance(told, str) or not told:
        raise ShapeError("it does not say its architecture (general.architecture)")
    keys = _Keys(head.metadata, told)
    family = FAMILIES.get(told, UNKNOWN)
    if told in ALIASES:
        # The same kind with tensors of other names, which was not compared.
        family = replace(FAMILIES[ALIASES[told]], is_known=False)
    count = keys.number("block_count")
    if not count or count > _MOST_LAYERS:
        raise ShapeError(f"it does not say how many layers it has ({told}.block_count)")
    width = keys.number("embedding_length")
    if not width:
        raise ShapeError(f"it does not say how wide it is ({told}.embedding_length)")
    places = _Places(head.tensors, count)
    window = keys.number("attention.sliding_window") or family.window
    embedding = next((tensor for tensor in places.input if tensor.name == "token_embd.weight"), None)
    return Shape(
        architecture=told,
        family=family,
        is_known=family.is_known,
        parameters=sum(tensor.elements for tensor in head.tensors),
        quantization=_quantization(head.metadata.get("general.file_type")),
        width=width,
        vocabulary=embedding.shape[1] if embedding is not None and len(embedding.shape) == 2 else 0,
        trained_context=keys.number("context_length"),
        layers=tuple(_layer(number, keys, family, places.layers[number], window, count) for number in range(count)),
        window=window if family.pattern is not None else None,
        is_latent=bool(keys.number("attention.key_length_mla") and keys.number("attention.value_length_mla")),
        states=_states(keys, width),
        numbers={key: keys.number(key) or 0 for key in _NUMBERS},
        input=tuple(places.input),
        output=tuple(places.output),
        vision=tuple(places.vision),
    )


_NUMBERS = (
    "expert_used_count",
    "expert_count",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "ssm.group_count",
    "shortconv.l_cache",
    "attention.kv_lora_rank",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "rope.dimension_count",
    "wkv.head_size",
    "pooling_type",
)


class _Keys:
    """The numbers of a head that belong to its architecture."""

    def __init__(self, metadata: Mapping[str, Value], architecture: str) -> None:
        self._metadata = metadata
        self._architecture = architecture

    def value(self, key: str) -> Value | None:
        return self._metadata.get(f"{self._architecture}.{key}")

    def number(self, key: str, layer: int | None = None) -> int | None:
        """Return a number that counts something; of a list the one for a layer, or its largest."""
        value = self.value(key)
        if isinstance(value, Skipped):
            raise ShapeError(f"{self._architecture}.{key} has {value.length} entries, more than any model has layers")
        if isinstance(value, tuple):
            entries = [_count(entry) for entry in value]
            if layer is not None:
                return entries[layer] if layer < len(entries) else None
            return max((entry for entry in entries if entry is not None), default=None)
        return _count(value)

    def flags(self, key: str) -> tuple[bool, ...] | None:
        """Return a list of yes and no, one for each layer."""
        value = self.value(key)
        return tuple(bool(entry) for entry in value) if isinstance(value, tuple) else None


def _count(value: Value | None) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _MOST else None


class _Places:
    """The tensors of a model, by where they belong."""

    def __init__(self, tensors: tuple[Tensor, ...], count: int) -> None:
        self.layers: list[dict[str, Tensor]] = [{} for _ in range(count)]
        self.input: list[Tensor] = []
        self.output: list[Tensor] = []
        self.vision: list[Tensor] = []
        for tensor in tensors:
            self._sort(tensor, count)

    def _sort(self, tensor: Tensor, count: int) -> None:
        first, _, rest = tensor.name.partition(".")
        number, _, name = rest.partition(".")
        if first == "blk" and number.isascii() and number.isdigit() and len(number) < 6 and int(number) < count:
            self.layers[int(number)][name] = tensor
        elif tensor.name.startswith(_VISION):
            self.vision.append(tensor)
        elif first.startswith(("output", "cls", "dense_")):
            self.output.append(tensor)
        else:
            self.input.append(tensor)


def _layer(
    number: int, keys: _Keys, family: Family, tensors: dict[str, Tensor], window: int | None, count: int
) -> Layer:
    heads = keys.number("attention.head_count", number) or 0
    told = keys.number("attention.head_count_kv", number)
    heads_kv = heads if told is None else told
    is_draft = number >= count - (keys.number("nextn_predict_layers") or 0)
    sliding = bool(window) and not is_draft and _is_sliding(number, keys, family)
    is_recurrent = not is_draft and _is_recurrent(number, keys, family, heads_kv)
    all_heads = keys.number("attention.head_count") or 0
    even = (keys.number("embedding_length") or 0) // all_heads if all_heads else 0
    shared = keys.number("attention.shared_kv_layers") or 0

    def size(key: str) -> int:
        special = keys.number(f"{key}_swa") if sliding else None
        plain = keys.number(key)
        return special if special is not None else even if plain is None else plain

    return Layer(
        tensors={} if is_draft and family.is_known else tensors,
        heads=heads,
        heads_kv=0 if is_recurrent and not family.is_both else heads_kv,
        key_size=size("attention.key_length"),
        value_size=size("attention.value_length"),
        feed=keys.number("feed_forward_length", number) or 0,
        is_sliding=sliding,
        is_recurrent=is_recurrent,
        has_cache=not family.is_embedding and number < count - shared and not (is_draft and family.is_known),
        is_draft=is_draft,
    )


def _is_sliding(number: int, keys: _Keys, family: Family) -> bool:
    if family.pattern is None:
        return False
    flags = keys.flags("attention.sliding_window_pattern")
    if flags is not None:
        return number < len(flags) and flags[number]
    pattern = keys.number("attention.sliding_window_pattern") or family.pattern
    return number % pattern < pattern - 1


def _is_recurrent(number: int, keys: _Keys, family: Family, heads_kv: int) -> bool:
    if family.recurrent == "all":
        return True
    if family.recurrent == "headless":
        return heads_kv == 0
    if family.recurrent == "interval":
        flags = keys.flags("attention.recurrent_layers")
        if flags is not None:
            return number < len(flags) and flags[number]
        return (number + 1) % (keys.number("full_attention_interval") or 4) != 0
    return False


def _states(keys: _Keys, width: int) -> States:
    short = keys.number("shortconv.l_cache")
    if short:
        return States(convolution=width * (short - 1), state=0)
    inner, size = keys.number("ssm.inner_size") or 0, keys.number("ssm.state_size") or 0
    kernel, groups = keys.number("ssm.conv_kernel") or 0, keys.number("ssm.group_count") or 0
    return States(convolution=max(kernel - 1, 0) * (inner + 2 * groups * size), state=inner * size)


def _quantization(value: Value | None) -> str | None:
    return FILE_TYPES.get(value) if isinstance(value, int) and not isinstance(value, bool) else None
