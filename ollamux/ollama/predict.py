"""What a server itself takes a model to need, by which it decides whether to load it beside others. Pure.

From 0.30 on (server/sched.go, llm/llama_server.go `PredictServerVRAM`, 0.32.15): the size of the file, and a cache in
f16 for all layers, whatever the cache really is. A further model is loaded beside others only if that is at most 80 %
of what is free; else those that are idle are evicted first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_F16_BYTES = 2


def cache_per_token(metadata: Mapping[str, Any]) -> int:
    """Return the bytes of cache that a server expects for each token of context."""
    architecture = metadata.get("general.architecture")

    def number(key: str, pick: Any) -> int:
        value = metadata.get(f"{architecture}.{key}")
        values = list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        counts = [each for each in values if isinstance(each, int) and not isinstance(each, bool)]
        return pick(counts) if counts else 0

    heads = number("attention.head_count", max) or 1
    kv_heads = number("attention.head_count_kv", min) or 1
    return 2 * number("block_count", max) * kv_heads * (number("embedding_length", max) // heads) * _F16_BYTES
