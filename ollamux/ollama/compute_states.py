"""The steps of layers that keep a state instead of a cache, for the account of what a batch needs. Pure.

Order of steps: https://github.com/ggml-org/llama.cpp/blob/master/src/models/mamba-base.cpp, `delta-net-base.cpp`,
`qwen3next.cpp` and `lfm2.cpp` beside it.
"""

from __future__ import annotations

from ollamux.ollama.arena import Graph, Node
from ollamux.ollama.compute_steps import Steps
from ollamux.ollama.shape import Layer, Shape


class Recurrent(Steps):
    """Recurrent layers of one batch. They are computed for all tokens, also in the last layer."""

    def __init__(self, shape: Shape, graph: Graph, tokens: int, sequences: int) -> None:
        super().__init__(graph, tokens)
        self._shape = shape
        self._tokens = tokens
        self._sequences = sequences
        self._copies = graph.input(sequences * 4) if any(layer.is_recurrent for layer in shape.layers) else None

    def layer(self, layer: Layer, now: Node) -> Node:
        """Add one layer; return its result before the residual is added."""
        if layer.has("shortconv.conv.weight"):
            return self._short(layer, now)
        if layer.has("attn_qkv.weight") or layer.has("ssm_ba.weight"):
            return self._delta(layer, now)
        return self._mamba(layer, now) if layer.has("ssm_x.weight") else self._mamba2(layer, now)

    def _rows(self, size: int) -> Node:
        copies = () if self._copies is None else (self._copies,)
        return self._graph.op(size * self._sequences * 4, *copies)

    def _convolved(self, old: Node, new: Node, width: int, kept: int) -> Node:
        """Put what came before in front, keep the end for the next batch, and convolve."""
        long = self._graph.op((self._tokens + kept * self._sequences) * width * 4, self._view(old), self._view(new))
        self._graph.op(0, self._view(long))
        return self._op(width, long)

    def _number(self, name: str) -> int:
        return self._shape.numbers[name]

    def _scanned(self, inner: int, *parents: Node) -> Node:
        state = self._shape.states.state * self._sequences
        found = self._graph.op((inner * self._tokens + state) * 4, *parents)
        self._graph.op(0, self._view(found))
        return found

    def _mamba(self, layer: Layer, now: Node) -> Node:
        inner, rank, size = (
            self._number("ssm.inner_size"),
            self._number("ssm.time_step_rank"),
            self._number("ssm.state_size"),
        )
        old = self._rows(self._shape.states.convolution)
        both = self._op(2 * inner, self._view(self._norm(now)))
        x, gate = self._view(both), self._view(both)
        x = self._over(self._over(self._convolved(old, x, inner, self._number("ssm.conv_kernel") - 1)))
        seen = self._view(x)
        small = self._op(rank + 2 * size, x)
        parts = [self._view(small) for _ in range(3)]
        if layer.has("ssm_dt_norm.weight"):
            step = self._op(inner, self._over(self._op(rank, parts[0])))
            inputs = [self._over(self._op(size, part)) for part in parts[1:]]
        else:
            step, inputs = self._op(inner, self._op(rank, parts[0])), parts[1:]
        scanned = self._scanned(inner, seen, self._over(step), *inputs)
        return self._gated(layer, gate, scanned, x, inner)

    def _mamba2(self, layer: Layer, now: Node) -> Node:
        inner, heads = self._number("ssm.inner_size"), self._number("ssm.time_step_rank")
        width = inner + 2 * self._number("ssm.group_count") * self._number("ssm.state_size")
        old = self._rows(self._shape.states.convolution)
        mixed = self._view(self._op(inner + width + heads, self._norm(now)))
        gate, x, step = (self._view(mixed) for _ in range(3))
        x = self._over(self._over(self._convolved(old, x, width, self._number("ssm.conv_kernel") - 1)))
        parts = [self._view(x) for _ in range(3)]
        step = self._over(self._op(heads, step))
        scanned = self._scanned(inner, parts[0], step, *parts[1:])
        return self._gated(layer, gate, scanned, parts[0], inner)

    def _gated(self, layer: Layer, gate: Node, scanned: Node, x: Node, inner: int) -> Node:
        gate = self._op(inner, gate)
        found = self._view(scanned)
        direct = self._graph.op(inner * self._tokens * 4, x, inplace=True)
        found = self._op(inner, gate, self._graph.op(inner * self._tokens * 4, found, direct, inplace=True))
        if layer.has("ssm_norm.weight"):
            found = self._view(self._over(self._op(inner, self._view(found))))
        return self._view(self._op(self._shape.width, found))

    def _short(self, layer: Layer, now: Node) -> Node:
        width, kept = self._shape.width, self._number("shortconv.l_cache") - 1
        old = self._rows(self._shape.states.convolution)
        mixed = self._op(3 * width, self._view(self._norm(now)))
        first, gate, second = (self._view(mixed) for _ in range(3))
        found = self._convolved(old, self._op(width, first, second), width, kept)
        found = self._graph.op(width * self._tokens * 4, gate, found, inplace=True)
        return self._view(self._op(width, found))

    def _decay_and_beta(self, layer: Layer, now: Node, heads: int) -> tuple[Node, Node]:
        if layer.has("ssm_ba.weight"):
            both = self._view(self._op(2 * heads, now))
            decay, beta = self._op(heads, self._view(both)), self._op(heads, self._view(both))
        else:
            decay, beta = self._op(heads, now), self._op(heads, now)
        return self._view(self._over(self._over(self._over(decay)))), self._view(self._over(beta))

    def _delta(self, layer: Layer, now: Node) -> Node:
        size, groups, heads = (self._number(f"ssm.{name}") for name in ("state_size", "group_count", "time_step_rank"))
        inner = self._number("ssm.inner_size")
        key, width = size * groups, inner + 2 * size * groups
        now = self._norm(now)
        old = self._rows(self._shape.states.convolution)
        mixed = self._op(width, now)
        long = self._graph.op(
            (self._tokens + (self._number("ssm.conv_kernel") - 1) * self._sequences) * width * 4,
            self._view(old),
            self._view(self._view(mixed)),
        )
        self._graph.op(0, self._view(long))
        state = self._view(self._rows(self._shape.states.state))
        mixed = self._over(self._op(width, long))
        parts = [self._view(mixed) for _ in range(3)]
        looked = []
        for part in parts[:2]:
            found = self._op(key, part)
            looked.append(self._view(self._op(size * heads, self._view(found))) if groups != heads else found)
        decay, beta = self._decay_and_beta(layer, now, heads)
        scanned = self._scanned(inner, *looked, parts[2], decay, beta, state)
        found = self._over(self._op(inner, self._view(scanned)))
        gate = self._op(inner, self._view(self._op(inner, now)))
        return self._view(self._op(self._shape.width, self._view(self._over(found, gate))))
