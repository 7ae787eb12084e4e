"""The four steps that every kind of layer is made of, for the account of what a batch needs. Pure."""

from __future__ import annotations

from ollamux.ollama.arena import Graph, Node


class Steps:
    """Steps of one batch. `rows` is how many tokens are still computed; after the last layer few are."""

    def __init__(self, graph: Graph, rows: int) -> None:
        self._graph = graph
        self.rows = rows

    def _op(self, size: int, *parents: Node) -> Node:
        return self._graph.op(size * self.rows * 4, *parents)

    def _over(self, *parents: Node) -> Node:
        """Write over the first operand that allows it."""
        return self._graph.op(parents[0].size, *parents, inplace=True)

    def _view(self, parent: Node) -> Node:
        return self._graph.view(parent)

    def _norm(self, now: Node) -> Node:
        return self._over(self._over(now))
