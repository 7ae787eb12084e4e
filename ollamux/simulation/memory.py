"""Work out what a model needs and where it goes: layers on cards, the rest in host memory. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import reserved_bytes
from ollamux.simulation.gguf import Gguf

MIB = 1024**2
SMALLEST_BATCH = 512
# What a CUDA context takes on a card besides the buffers; ps never shows it.
CONTEXT_BYTES = 312 * MIB
_KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_0": 22 / 32, "q4_0": 18 / 32}

# compute capability, memory bandwidth in GB/s; from the makers' data sheets
_CARDS = {
    "RTX 3090": ("8.6", 936),
    "RTX A2000": ("8.6", 288),
    "RTX 4090": ("8.9", 1008),
    "RTX A6000": ("8.6", 768),
    "RTX 3060": ("8.6", 360),
    "RTX 6000 Ada": ("8.9", 960),
    "RTX 4070": ("8.9", 672),
    "A100": ("8.0", 1555),
    "RX 7900": ("gfx1100", 960),
}


def card_facts(card: Gpu) -> tuple[str, int]:
    """Return the compute capability and the bandwidth of a card in GB/s."""
    return next((facts for part, facts in _CARDS.items() if part in card.name), ("8.6", 500))


def usable_bytes(card: Gpu) -> int:
    """Return the memory that CUDA tells of."""
    return (card.memory_total_bytes or 0) - reserved_bytes(card)


def free_bytes(card: Gpu) -> int:
    """Return what is free on a card."""
    return max(0, usable_bytes(card) - (card.memory_used_bytes or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a model is to be loaded. `layers` None lets the memory decide."""

    context: int
    parallel: int = 1
    batch: int = 512
    kv_type: str = "f16"
    layers: int | None = None
    margin_bytes: int = 1024 * MIB
    halve: bool = False


@dataclass(slots=True, kw_only=True)
class Share:
    """What one device gets, in bytes. `name` is "CUDA0" or "CPU"."""

    name: str
    free: int = 0
    layers: int = 0
    model: int = 0
    kv: int = 0
    compute: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """Return the sum of the buffers."""
        return self.model + self.kv + self.compute + self.output


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a model goes. `overfull` names a device that cannot hold what was forced on it."""

    host: Share
    devices: tuple[Share, ...] = ()
    layers: int
    offloaded: int = 0
    overfull: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    blocks: tuple[int, ...]
    output: int
    embedding: int
    kv_layer: int
    compute: int
    logits: int = field(default=0)


def kv_bytes_per_token(head: Gguf, kv_type: str) -> int:
    """Return the bytes that one token takes in the cache of one layer."""
    if "bert" in head.architecture:
        return 0
    heads = int(head.get("attention.head_count", 1))
    size = int(head.get("embedding_length")) // max(1, heads)
    keys = int(head.get("attention.key_length", size))
    values = int(head.get("attention.value_length", size))
    return int(int(head.get("attention.head_count_kv", heads)) * (keys + values) * _KV_BYTES.get(kv_type, 2.0))


def _parts(head: Gguf, wish: Wish) -> _Parts:
    blocks = [0] * int(head.get("block_count"))
    output = embedding = 0
    for tensor in head.tensors:
        match = re.match(r"blk\.(\d+)\.", tensor.name)
        if match:
            blocks[int(match[1])] += tensor.size_bytes
        elif tensor.name.startswith("token_embd"):
            embedding += tensor.size_bytes
        else:
            output += tensor.size_bytes
    if not any(tensor.name == "output.weight" for tensor in head.tensors):
        output += embedding
        embedding = 0
    tokens = wish.context * wish.parallel
    vocabulary = int(head.get("vocab_size"))
    # Logits, residuals and the hidden layer of one batch, and the mask of the attention over the whole context.
    width = (vocabulary + int(head.get("embedding_length")) + int(head.get("feed_forward_length"))) * 4 + 24
    return _Parts(
        blocks=tuple(blocks),
        output=output,
        embedding=embedding,
        kv_layer=kv_bytes_per_token(head, wish.kv_type) * tokens,
        compute=wish.batch * width + tokens * wish.batch * 2,
        logits=vocabulary * 4 * wish.parallel,
    )


def plan(head: Gguf, wish: Wish, devices: Sequence[tuple[str, int]]) -> Plan:
    """Spread a model over devices, given as (name, free bytes); what does not fit stays with the host."""
    parts = _parts(head, wish)
    count = len(parts.blocks) + 1
    wanted = count if wish.layers is None else min(wish.layers, count)
    if devices and wanted:
        if wish.halve:
            wanted = min(wanted, max(1, count * 55 // 100))
        for offloaded in range(wanted, 0, -1):
            shares, overfull = _spread(parts, wish, devices, offloaded)
            if overfull is None or wish.layers is not None:
                return _with_host(parts, count, offloaded, shares, overfull)
    return _with_host(parts, count, 0, [], None)


def _spread(
    parts: _Parts, wish: Wish, devices: Sequence[tuple[str, int]], offloaded: int
) -> tuple[list[Share], str | None]:
    margin = wish.margin_bytes if wish.layers is None else 0
    blocks = len(parts.blocks)
    # The output layer goes first, then the repeating layers from the last one down.
    order = [None, *range(blocks - 1, -1, -1)][:offloaded]
    if len(devices) > 1:
        shares = _by_free_memory(parts, order, devices)
        if all(share.total + margin + CONTEXT_BYTES <= share.free for share in shares if share.layers):
            return [share for share in shares if share.layers], None
    shares = _shares(parts, devices)
    at = len(shares) - 1
    for block in order:
        model, kv = _layer(parts, block)
        while shares[at].total + model + kv + margin + CONTEXT_BYTES > shares[at].free:
            if at == 0:
                return shares, shares[at].name
            at -= 1
        _put(shares[at], model, kv)
    return [share for share in shares if share.layers], None


def _by_free_memory(parts: _Parts, order: Sequence[int | None], devices: Sequence[tuple[str, int]]) -> list[Share]:
    """Give each device so many layers in a row as its part of the free memory is, as llama.cpp does by itself."""
    shares = _shares(parts, devices)
    total = sum(free for _, free in devices) or 1
    until = [part / total for part in accumulate(free for _, free in devices)]
    for number, block in enumerate(reversed(order)):
        at = min(bisect_right(until, number / len(order)), len(shares) - 1)
        _put(shares[at], *_layer(parts, block))
    return shares


def _shares(parts: _Parts, devices: Sequence[tuple[str, int]]) -> list[Share]:
    return [Share(name=name, free=free, compute=parts.compute) for name, free in devices]


def _layer(parts: _Parts, block: int | None) -> tuple[int, int]:
    return (parts.output, 0) if block is None else (parts.blocks[block], parts.kv_layer)


def _put(share: Share, model: int, kv: int) -> None:
    share.model += model
    share.kv += kv
    share.layers += 1


def _with_host(parts: _Parts, count: int, offloaded: int, shares: list[Share], overfull: str | None) -> Plan:
    blocks = len(parts.blocks)
    kept = list(parts.blocks[: max(0, blocks - max(0, offloaded - 1))])
    host = Share(name="CPU", output=parts.logits)
    host.model = parts.embedding + sum(kept) + (0 if offloaded else parts.output)
    host.kv = parts.kv_layer * len(kept)
    host.compute = parts.compute if not offloaded else parts.compute // 20
    return Plan(host=host, devices=tuple(shares), layers=count, offloaded=offloaded, overfull=overfull)


def automatic_batch(head: Gguf, context: int, slots: int, *, flash: bool) -> int:
    """Return how many tokens a newer server lets a runner take at once: more where all contexts together are long."""
    if "bert" in head.architecture:
        return min(2048, context)
    whole = context * slots
    return SMALLEST_BATCH if whole <= 4096 or not flash else 1024 if whole <= 32768 else 2048


def prediction_bytes(head: Gguf, file_size: int, context_total: int) -> int:
    """Return the rough need by which a scheduler picks a card and decides whom to evict."""
    heads = max(1, int(head.get("attention.head_count", 1)))
    width = int(head.get("embedding_length")) // heads
    kv_heads = int(head.get("attention.head_count_kv", heads))
    return file_size + 2 * int(head.get("block_count")) * kv_heads * width * context_total * 2


def tokens_per_second(head: Gguf, plan: Plan, bandwidths: Sequence[int]) -> float:
    """Return a believable speed: memory bandwidth divided by what one token reads."""
    experts = int(head.get("expert_count", 0))
    active = 1.0
    if experts:
        active = min(1.0, 0.12 + int(head.get("expert_used_count", 1)) / experts)
    on_cards = sum(share.model for share in plan.devices) * active
    in_host = (plan.host.model if plan.offloaded < plan.layers else 0) * active
    bandwidth = sum(bandwidths) / len(bandwidths) if bandwidths else 500
    seconds = on_cards / (bandwidth * 0.6e9) + in_host / 30e9
    return 1 / max(seconds, 1 / 3000)
