"""How much memory a graph of operations needs at most, when results go where dead ones were. Pure.

An account of what ggml's graph allocator does (https://github.com/ggml-org/ggml/blob/master/src/ggml-alloc.c): inputs
first; then, in order, each result into the smallest hole that holds it, or over an operand that nobody needs any more
where the operation allows; an operand's place is free once its last reader has run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ALIGNMENT = 32


@dataclass(slots=True, eq=False)
class Node:
    """A result or an input of a graph. A view owns nothing: `base` is whose bytes it shows."""

    size: int
    parents: tuple[Node, ...] = ()
    inplace: bool = False
    base: Node | None = None
    layout: object = None
    readers: int = 0
    views: int = 0
    place: int | None = None
    held: bool = False


@dataclass(slots=True)
class Graph:
    """Operations in the order in which they run."""

    inputs: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def input(self, size: int) -> Node:
        """Add what is filled in from outside."""
        node = Node(size)
        self.inputs.append(node)
        return node

    def op(self, size: int, *parents: Node, inplace: bool = False, layout: object = None) -> Node:
        """Add an operation; one that may write over an operand does so over one of the same size and layout."""
        node = Node(size, parents, inplace, None, layout)
        self.nodes.append(node)
        return node

    def view(self, parent: Node, layout: object = None) -> Node:
        """Add another look at a result."""
        base = parent if parent.base is None else parent.base
        node = Node(parent.size, (parent,), False, base, layout)
        self.nodes.append(node)
        return node

    def peak(self) -> int:
        """Return the bytes that the graph needs at most."""
        return _Run(self).peak()


class _Run:
    """One walk through a graph with an allocator."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._holes: list[tuple[int, int]] = [(0, 1 << 62)]
        self._most = 0

    def peak(self) -> int:
        for node in (*self._graph.inputs, *self._graph.nodes):
            node.readers, node.views, node.place, node.held = 0, 0, None, False
        for node in self._graph.nodes:
            if node.base is not None:
                node.base.views += 1
            for parent in node.parents:
                parent.readers += 1
        for node in self._graph.inputs:
            self._take(node)
        for node in self._graph.nodes:
            if node.base is None:
                self._place(node)
            for parent in node.parents:
                parent.readers -= 1
                if parent.readers == 0 and parent.views == 0:
                    self._done(parent)
        return self._most

    def _place(self, node: Node) -> None:
        for parent in node.parents if node.inplace else ():
            # A view counts as nobody's own there, so nothing is written over one.
            same = _padded(parent.size) == _padded(node.size) and parent.layout == node.layout
            if parent.held and same and parent.readers == 1 and not parent.views:
                node.place, node.held, parent.held = parent.place, True, False
                return
        self._take(node)

    def _done(self, node: Node) -> None:
        base = node.base
        if base is None:
            self._give(node)
            return
        base.views -= 1
        if base.views == 0 and base.readers == 0:
            self._give(base)

    def _take(self, node: Node) -> None:
        size = _padded(node.size)
        fitting = [(hole, number) for number, (_, hole) in enumerate(self._holes[:-1]) if hole >= size]
        smallest = min((hole for hole, _ in fitting), default=None)
        number = max((number for hole, number in fitting if hole == smallest), default=len(self._holes) - 1)
        start, hole = self._holes[number]
        if hole == size:
            del self._holes[number]
        else:
            self._holes[number] = (start + size, hole - size)
        node.place, node.held = start, True
        self._most = max(self._most, start + size)

    def _give(self, node: Node) -> None:
        if not node.held or node.place is None:
            return
        node.held = False
        merged: list[tuple[int, int]] = []
        for start, size in sorted([*self._holes, (node.place, _padded(node.size))]):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((start, size))
        self._holes = merged


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
