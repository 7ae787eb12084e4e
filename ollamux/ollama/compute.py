"""How much memory a model needs to compute, beside weights and caches: the steps of one batch, run through an arena.

Pure. Which steps there are is read off the tensors that each layer has; how llama.cpp orders them is told by
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-graph.cpp. Every size is of 32-bit numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from ollamux.ollama.arena import Graph, Node
from ollamux.ollama.compute_feed import Feed
from ollamux.ollama.compute_states import Recurrent
from ollamux.ollama.compute_steps import Steps
from ollamux.ollama.memory import Wish, batch_of, has_flash, is_engine, kept_cells, parallel_of, seen_cells
from ollamux.ollama.shape import Layer, Shape
from ollamux.ollama.version import Era

_ROTATED = 64
"""A quantised cache is rotated first where heads are a multiple of this (llama-kv-cache.cpp)."""


def compute_bytes(shape: Shape, wish: Wish) -> int:
    """Return what one batch of tokens needs at most."""
    return _Batch(shape, wish).peak()


@dataclass(frozen=True, slots=True)
class _Cache:
    """What a batch tells each attention of one kind of cache."""

    mask: Node
    keys: Node
    values: Node
    turns: tuple[Node, ...]
    places: int


class _Batch(Steps):
    """The steps of one batch, in their order."""

    def __init__(self, shape: Shape, wish: Wish) -> None:
        self._shape = shape
        self._wish = wish
        self._is_server = wish.era is Era.LLAMA_SERVER
        self._flash = has_flash(shape, wish)
        self._sequences = parallel_of(shape, wish)
        # As many of each sequence.
        self._tokens = -(-batch_of(shape, wish) // self._sequences) * self._sequences
        super().__init__(Graph(), self._tokens)
        self._is_embedding = shape.family.is_embedding
        # Older runners make room for an answer to every token of a batch.
        self._outputs = self._sequences if self._is_server and not self._is_embedding else self._tokens
        self._ids = self._input(self._tokens * 4)
        if self._is_server:
            self._input(shape.width * self._tokens * 4)
        self._positions = self._input(self._tokens * 4)
        self._selected = self._input(self._outputs * 4)
        self._caches = {sliding: self._cache(sliding=sliding) for sliding in self._kinds()}
        self._small: Node | None = None
        self._feed = Feed(shape, self._graph, self._tokens)
        self._recurrent = Recurrent(shape, self._graph, self._tokens, self._sequences)

    def peak(self) -> int:
        now = self._op(self._shape.width, self._ids)
        if any(tensor.name == "position_embd.weight" for tensor in self._shape.input):
            now = self._over(self._op(self._shape.width, self._positions), now)
        if any(tensor.name == "token_embd_norm.weight" for tensor in self._shape.input) and self._is_embedding:
            now = self._plain_norm(now)
        self._small = self._each_layer(now)
        computed = [layer for layer in self._shape.layers if not layer.is_draft]
        last = computed[-1] if computed else None
        for layer in computed:
            now = (
                self._after_norms(now, layer) if self._is_embedding else self._layer(now, layer, is_last=layer is last)
            )
        if self._is_embedding:
            self._pool(now)
        else:
            now = self._norm(now)
            if self._selects_late:
                now = self._select(now)
            self._op(self._shape.vocabulary, now)
        return self._graph.peak()

    # Inputs

    def _kinds(self) -> list[bool]:
        return sorted({layer.is_sliding for layer in self._shape.layers if layer.heads_kv})

    def _input(self, size: int) -> Node:
        return self._graph.input(size)

    def _cache(self, *, sliding: bool) -> _Cache:
        shape, wish, tokens = self._shape, self._wish, self._tokens
        places = tokens if self._is_embedding else seen_cells(shape, wish, sliding=sliding)
        widest = max(layer.heads_kv * layer.value_size for layer in shape.layers)
        halved = self._flash and (self._is_server or is_engine(shape, wish))
        mask = self._input(places * tokens * (2 if halved else 4))
        if self._flash and not halved:
            mask = self._graph.op(places * tokens * 2, mask)
        return _Cache(
            mask=mask,
            keys=self._input(0 if self._is_embedding else tokens * 8),
            values=self._input(
                0 if self._is_embedding or shape.is_latent else tokens * 8 * (1 if self._flash else widest)
            ),
            turns=tuple(self._input(4 * _ROTATED**2) for _ in range(2)) if self._is_rotated(sliding=sliding) else (),
            places=places,
        )

    def _is_rotated(self, *, sliding: bool) -> bool:
        sizes = {layer.key_size for layer in self._shape.layers if layer.heads_kv and layer.is_sliding == sliding}
        whole = len(sizes) == 1 and not min(sizes) % _ROTATED
        return self._is_server and self._wish.cache_type != "f16" and whole and not self._shape.is_latent

    # Steps

    @property
    def _selects_late(self) -> bool:
        return self._shape.family.recurrent == "interval" or self._small is not None

    def _plain_norm(self, now: Node) -> Node:
        """Normalise with a mean, which is never done in place; then scale and shift."""
        return self._over(self._over(self._graph.op(now.size, now)))

    def _select(self, now: Node) -> Node:
        self.rows, before = self._outputs, self.rows
        return self._graph.op(now.size // before * self.rows, now, self._selected)

    def _layer(self, now: Node, layer: Layer, *, is_last: bool) -> Node:
        if layer.is_recurrent:
            done = self._recurrent.layer(layer, now)
        else:
            done = self._mix(layer, self._norm(now))
        if is_last and not self._selects_late:
            rows = self.rows
            done = self._select(done)
            self.rows = rows
            now = self._select(now)
        if layer.has("post_attention_norm.weight") and layer.has("ffn_norm.weight"):
            done = self._norm(done)
        middle = self._over(done, now)
        if not layer.has("ffn_norm.weight") and not layer.has("post_attention_norm.weight"):
            return middle
        fed = self._fed(layer, self._norm(middle))
        if layer.has("post_ffw_norm.weight"):
            fed = self._norm(fed)
        return self._with_small(layer, self._over(fed, middle))

    def _each_layer(self, now: Node) -> Node | None:
        """Prepare the small embeddings that some kinds mix into every layer (gemma4.cpp)."""
        table = next((one for one in self._shape.input if one.name == "per_layer_token_embd.weight"), None)
        if table is None:
            return None
        looked = self._over(self._view(self._op(table.shape[0], self._input(self._tokens * 4))))
        mixed = self._view(self._over(self._op(table.shape[0], now)))
        mixed = self._over(self._over(self._over(self._op(table.shape[0], mixed)), looked))
        return self._op(table.shape[0], self._view(mixed))

    def _with_small(self, layer: Layer, now: Node) -> Node:
        if self._small is None or not layer.has("inp_gate.weight"):
            return now
        inner = self._over(self._op(layer.out("inp_gate.weight"), now))
        inner = self._op(self._shape.width, self._over(inner, self._view(self._small)))
        now = self._over(now, self._norm(inner))
        return self._over(now) if layer.has("layer_output_scale.weight") else now

    def _after_norms(self, now: Node, layer: Layer) -> Node:
        """Return one layer of an encoder: the norms come behind."""
        done = self._mix(layer, now)
        if layer is self._shape.layers[-1]:
            done, now = self._select(done), self._select(now)
        middle = self._plain_norm(self._over(done, now))
        return self._plain_norm(self._over(self._fed(layer, middle), middle))

    def _pool(self, now: Node) -> None:
        turned = self._op(self._shape.width, self._view(now))
        self._graph.op(self._shape.width * self._sequences * 4, turned, self._input(self._tokens * self._sequences * 4))

    def _fed(self, layer: Layer, now: Node) -> Node:
        self._feed.rows = self.rows
        return self._feed.layer(layer, now)

    # Attention

    def _mix(self, layer: Layer, now: Node) -> Node:
        if layer.has("attn_kv_a_mqa.weight") and self._shape.is_latent and layer.heads_kv:
            return self._latent(layer, now)
        if not layer.heads_kv or not (layer.has("attn_q.weight") or layer.has("attn_qkv.weight")):
            return self._unknown(layer, now)
        return self._attention(layer, now)

    def _attention(self, layer: Layer, now: Node) -> Node:
        size = layer.heads * layer.key_size
        key_size, value_size = layer.heads_kv * layer.key_size, layer.heads_kv * layer.value_size
        cache = self._caches[layer.is_sliding]
        gate = None
        if layer.has("attn_qkv.weight"):
            mixed = self._op(size + key_size + value_size, now)
            query, key, value = self._view(mixed), self._view(mixed), self._view(mixed)
            query = self._turned(layer, "attn_q_norm.weight", query, size)
        else:
            wide = self._op(layer.out("attn_q.weight") or size, now)
            wide = self._over(wide) if layer.has("attn_q.bias") else wide
            gate = self._view(wide) if layer.out("attn_q.weight") == 2 * size else None
            query = self._turned(layer, "attn_q_norm.weight", self._view(wide), size)
            query = self._mixed(cache, 0, query)
            if not layer.has("attn_k.weight"):
                return self._op(self._shape.width, self._seen(layer, cache, query, ()))
            value = self._op(value_size, now)
            value = self._view(self._over(value) if layer.has("attn_v.bias") else value)
            value = self._op(value_size, value) if self._shape.family.has_value_norm else value
            value = self._mixed(cache, 1, value)
            key = self._op(key_size, now)
            key = self._view(self._over(key) if layer.has("attn_k.bias") else key)
        key = self._mixed(cache, 0, self._turned(layer, "attn_k_norm.weight", key, key_size))
        done = self._look(layer, cache, query, (key, value))
        done = self._view(self._mixed(cache, 1, done)) if cache.turns else done
        if gate is not None:
            done = self._over(self._op(size, gate), done)
        done = self._op(self._shape.width, done)
        return self._over(done) if layer.has("attn_output.bias") else done

    def _mixed(self, cache: _Cache, which: int, now: Node) -> Node:
        """Rotate what is kept in, or was found in, a quantised cache."""
        return self._view(self._graph.op(now.size, cache.turns[which], self._view(now))) if cache.turns else now

    def _unknown(self, layer: Layer, now: Node) -> Node:
        """Stand in for steps that we do not know: all that comes out of the layer's matrices at once, and once more."""
        wide = sum(layer.out(name) for name in layer.tensors if not name.startswith("ffn_"))
        seen = self._caches[layer.is_sliding].places if layer.heads_kv and not self._flash else 0
        return self._op(self._shape.width, self._op(wide + layer.heads * seen, self._op(wide, now)))

    def _turned(self, layer: Layer, norm: str, now: Node, size: int) -> Node:
        """Normalise and give a position, each where there is such a thing. Nothing is written over a view."""
        if layer.has(norm):
            now = self._over(self._op(size, now))
        if self._is_embedding and any(tensor.name == "position_embd.weight" for tensor in self._shape.input):
            return now
        return self._graph.op(size * self.rows * 4, now, self._positions, inplace=True)

    def _look(self, layer: Layer, cache: _Cache, query: Node, fresh: tuple[Node, Node]) -> Node:
        """Store keys and values, and look at all that are there."""
        if self._is_embedding:
            return self._seen(layer, cache, query, fresh)
        key, value = fresh
        self._graph.op(0, self._view(key), cache.keys)
        if layer.has("attn_qkv.weight") and not self._flash:
            value = self._op(layer.heads_kv * layer.value_size, value)
        self._graph.op(0, self._view(value), cache.values)
        return self._seen(layer, cache, query, ())

    def _seen(self, layer: Layer, cache: _Cache, query: Node, fresh: tuple[Node, ...]) -> Node:
        query = self._view(self._view(query))
        fresh = tuple(self._view(node) for node in fresh)
        out = layer.heads * layer.value_size
        last = layer.heads * self._shape.numbers["attention.value_length_mla"] if self._shape.is_latent else 0
        if self._flash:
            halves = [self._graph.op(node.size // 2, node) for node in fresh]
            found = self._op(out, query, *halves, cache.mask)
            if last:
                found = self._op(last, self._view(self._op(last, self._view(found))))
            return self._view(found)
        values = self._turned_values(layer, cache, fresh)
        scores = self._over(self._op(layer.heads * cache.places, query, *fresh[:1]), cache.mask)
        found = self._op(out, *values, scores)
        found = self._op(last, found) if last else found
        return self._op(last or out, self._view(found))

    def _turned_values(self, layer: Layer, cache: _Cache, fresh: tuple[Node, ...]) -> tuple[Node, ...]:
        """Transpose values that are not kept so: what was just computed, or those that are a part of the keys."""
        if fresh:
            return (self._op(layer.heads_kv * layer.value_size, fresh[1]),)
        if self._shape.is_latent and self._is_server:
            kept = layer.heads_kv * layer.value_size * kept_cells(self._shape, self._wish, sliding=layer.is_sliding)
            return (self._graph.op(kept * 2),)
        return ()

    def _latent(self, layer: Layer, now: Node) -> Node:
        """Return multi-head latent attention, in which all heads look at one compressed key."""
        numbers = self._shape.numbers
        heads, rank, rope = layer.heads, numbers["attention.kv_lora_rank"], numbers["rope.dimension_count"]
        if layer.has("attn_q_a.weight"):
            query = self._op(layer.out("attn_q_b.weight"), self._norm(self._op(layer.out("attn_q_a.weight"), now)))
        else:
            query = self._op(layer.out("attn_q.weight"), now)
        query = self._view(query)
        plain, turned = self._view(query), self._view(query)
        absorbed = self._view(self._op(rank * heads, self._view(plain)))
        turned = self._op(rope * heads, turned, self._positions)
        query = self._op((rank + rope) * heads, absorbed, turned)
        both = self._op(rank + rope, now)
        short = self._view(self._over(self._op(rank, self._view(both))))
        key = self._op(rank + rope, short, self._op(rope, self._view(both), self._positions))
        cache = self._caches[layer.is_sliding]
        self._graph.op(0, self._view(key), cache.keys)
        found = self._seen(layer, cache, query, ())
        return self._op(self._shape.width, found)
