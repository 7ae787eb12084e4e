"""The steps behind attention: feed-forward networks, dense or of experts, for the account of what a batch needs. Pure.

Order of steps: `build_ffn` and `build_moe_ffn` in https://github.com/ggml-org/llama.cpp/blob/master/src/llama-graph.cpp.
"""

from __future__ import annotations

from ollamux.ollama.arena import Graph, Node
from ollamux.ollama.compute_steps import Steps
from ollamux.ollama.shape import Layer, Shape

_MOST_EXPERTS = 256


class Feed(Steps):
    """Feed-forward networks of one batch."""

    def __init__(self, shape: Shape, graph: Graph, rows: int) -> None:
        super().__init__(graph, rows)
        self._shape = shape

    def layer(self, layer: Layer, now: Node) -> Node:
        """Add one layer's; return its result before the residual is added."""
        if not layer.has("ffn_gate_inp.weight"):
            return self._dense(layer, now, "")
        mixed = self._experts(layer, now)
        if not layer.has("ffn_up_shexp.weight"):
            return mixed
        shared = self._dense(layer, now, "_shexp")
        if layer.has("ffn_gate_inp_shexp.weight"):
            shared = self._over(shared, self._over(self._op(1, now)))
        return self._over(mixed, shared)

    def _dense(self, layer: Layer, now: Node, suffix: str) -> Node:
        up = layer.out(f"ffn_up{suffix}.weight")
        if layer.has(f"ffn_gate{suffix}.weight"):
            gate = self._op(layer.out(f"ffn_gate{suffix}.weight"), now)
            inner = self._op(up, gate, self._op(up, now))
        else:
            inner = self._op(up, now)
            inner = self._over(inner) if layer.has("ffn_up.bias") else inner
            # Gate and up in one matrix, or no gate at all.
            inner = self._op(up // 2, inner) if up == 2 * layer.feed else self._over(inner)
        done = self._op(self._shape.width, inner)
        return self._over(done) if layer.has(f"ffn_down{suffix}.bias") else done

    def _experts(self, layer: Layer, now: Node) -> Node:
        count = self._shape.numbers["expert_count"]
        used = min(max(self._shape.numbers["expert_used_count"], 1), _MOST_EXPERTS)
        merged = layer.has("ffn_gate_up_exps.weight")
        inner = layer.out("ffn_gate_up_exps.weight") // 2 if merged else layer.out("ffn_up_exps.weight")
        chances = self._over(self._op(count, now))
        best = self._view(self._op(count, chances))
        weights = self._view(self._op(used, self._view(chances), best))
        weights = self._view(self._op(used, weights, self._over(self._op(1, weights))))
        now = self._view(now)
        if merged:
            both = self._op(2 * inner * used, now, best)
            done = self._op(inner * used, self._view(both), self._view(both))
        else:
            gate = self._op(inner * used, now, best) if layer.has("ffn_gate_exps.weight") else None
            up = self._op(inner * used, now, best)
            done = self._over(up) if gate is None else self._op(inner * used, gate, up)
        done = self._over(self._op(self._shape.width * used, done, best), weights)
        views = [self._view(done) for _ in range(used)]
        if used == 1:
            return self._op(self._shape.width, views[0])
        total = self._op(self._shape.width, views[0], views[1])
        for view in views[2:]:
            total = self._over(total, view)
        return total
