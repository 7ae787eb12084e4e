"""The state diagram, drawn from the transition table, so that the picture in the documentation cannot drift from it.

Text in, text out; only `main` touches a file: `python -m ollamux.domain.diagram docs/architecture.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

from ollamux.domain.machine import TABLE
from ollamux.domain.phases import NO_PROCESS, SERVING, Phase
from ollamux.domain.rules import targets

BEGIN: Final = "<!-- state diagram: begin -->"
END: Final = "<!-- state diagram: end -->"

OVER: Final = frozenset({Phase.STOPPED, Phase.WAITING, Phase.STARTING, Phase.FAILED})
"""Where an instance can be once nothing of it is left. A rule that may lead to all of them goes through one node."""

_AFTERWARDS: Final = {
    Phase.STOPPED: "not wanted any more",
    Phase.STARTING: "restart asked, or the first failure",
    Phase.WAITING: "a further failure",
    Phase.FAILED: "too many failures, or not to be restarted",
}
_LIVES, _GONE = "LIVES", "GONE"
_Edges = dict[tuple[str, str], dict[str, list[Phase]]]


def state_diagram() -> str:
    """Return the Mermaid text of the table: edges bear the events, dashed phases have no process."""
    inner, outer = _edges()
    return "\n".join([
        "```mermaid",
        "stateDiagram-v2",
        "    direction TB",
        "    classDef noProcess stroke-dasharray: 5 5",
        f'    state "the leader lives" as {_LIVES} {{',
        f"        [*] --> {Phase.STARTING.name}",
        *(f"        {line}" for line in _draw(inner, within=frozenset())),
        "    }",
        f'    state "nothing of it is left" as {_GONE}',
        f"    [*] --> {Phase.STOPPED.name}",
        *(f"    {line}" for line in _draw(outer, within=SERVING)),
        *(f"    {_GONE} --> {_node(phase)}: {words}" for phase, words in _AFTERWARDS.items()),
        *(f"    class {phase.name} noProcess" for phase in Phase if phase in NO_PROCESS),
        f"    class {_GONE} noProcess",
        "```",
    ])  # fmt: skip


def replaced(document: str) -> str:
    """Return the document with a fresh diagram between the two markers."""
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks {BEGIN} or {END}")
    return f"{head}{BEGIN}\n{state_diagram()}\n{END}{tail}"


def _edges() -> tuple[_Edges, _Edges]:
    """Return the edges among the living phases, and all others with those drawn as the one node `LIVES`."""
    inner: _Edges = {}
    outer: _Edges = {}
    for (phase, event), rule in TABLE.items():
        aims = targets(rule)
        over = aims | {phase} >= OVER
        for aim in [aim for aim in Phase if aim in aims and aim is not phase and not (over and aim in OVER)]:
            if phase in SERVING and aim in SERVING:
                _note(inner, (phase.name, aim.name), event, phase)
            else:
                _note(outer, (_node(phase), _node(aim)), event, phase)
        if over:
            _note(outer, (_node(phase), _GONE), event, phase)
    return inner, outer


def _note(edges: _Edges, edge: tuple[str, str], event: type, phase: Phase) -> None:
    edges.setdefault(edge, {}).setdefault(event.__name__, []).append(phase)


def _node(phase: Phase) -> str:
    return _LIVES if phase in SERVING else phase.name


def _draw(edges: _Edges, *, within: frozenset[Phase]) -> Iterable[str]:
    order = [phase.name for phase in Phase if phase in NO_PROCESS] + [_LIVES, *(phase.name for phase in Phase)]
    for source, target in sorted(edges, key=lambda edge: order.index(edge[0])):
        yield f"{source} --> {target}: {_label(source, edges[source, target], within)}"


def _label(source: str, events: dict[str, list[Phase]], within: frozenset[Phase]) -> str:
    """Name the events; where only some of the phases in one node know an event, name those as well."""
    if source != _LIVES:
        return ", ".join(events)
    return ", ".join(
        name if len(phases) == len(within) else f"{name} ({', '.join(phase.name for phase in phases)})"
        for name, phases in events.items()
    )


def main(arguments: list[str]) -> int:
    """Rewrite the diagram in the document named; without a name, print it."""
    from pathlib import Path  # the one place in this layer that reads and writes

    if not arguments:
        sys.stdout.write(state_diagram() + "\n")
        return 0
    path = Path(arguments[0])
    path.write_text(replaced(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
