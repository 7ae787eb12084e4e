"""How the cards are joined: a matrix where it fits, else one row a card, with the words explained below.

The words are for people: nvidia-smi's PIX, PXB, PHB, NODE and SYS are known to few.
"""

from __future__ import annotations

from collections.abc import Sequence

from ollamux.domain.links import KINDS, UNKNOWN, best_pair, linked_cards
from ollamux.domain.snapshot import GpuView, LinkView, Status
from ollamux.domain.text import format_gib
from ollamux.render import words
from ollamux.render.cells import Spans, pad, width_of
from ollamux.render.grid import GAP, Column, Grid, flat_table
from ollamux.render.groups import card_mark
from ollamux.render.pen import Pen

_WORDS = {
    "same-board": ("same board", "board", "two chips of one card"),
    "switch": ("switch", "switch", "behind one PCIe switch: next best"),
    "switches": ("switches", "hops", "over several PCIe switches"),
    "host-bridge": ("host bridge", "bridge", "over a PCIe host bridge of the CPU"),
    "socket": ("same socket", "socket", "over several host bridges of one CPU socket"),
    "system": ("across sockets", "across", "over the link between CPU sockets: slowest"),
    UNKNOWN: ("unknown", "?", "the driver does not tell"),
}
"""For each kind: its word, a short one, and what it means."""
_STYLES = {"nvlink": "good", "system": "wait", UNKNOWN: "dim"}


def draw_topology(pen: Pen, status: Status) -> tuple[list[str], int]:
    """Draw how each card reaches each other one, and what the words mean."""
    cards = linked_cards(status.gpus)
    links = {frozenset((link.a, link.b)): link for link in status.links}
    for short, tight in ((False, False), (True, False), (True, True)):
        columns = _matrix(pen, cards, links, short=short, tight=tight)
        # Names go first; a column of the matrix never.
        if Grid(pen, columns, pen.width - 1, indent=1).used() < pen.width:
            lines, width = flat_table(pen, columns)
            break
    else:
        short = False
        lines, width = flat_table(pen, [_numbers(pen, cards), _names(pen, cards)], details=_rows(pen, cards, links))
    legend = _legend(pen, [*links.values()], short=short)
    return [*lines, *([pen.rule(min(width, pen.width))] if legend else []), *legend], width


def _numbers(pen: Pen, cards: Sequence[GpuView]) -> Column:
    return Column(title="GPU", right=True, items=[pen.text(card_mark(card), "strong") for card in cards])


def _names(pen: Pen, cards: Sequence[GpuView]) -> Column:
    return Column(title="Name", rank=1, items=[pen.name(words.gpu_name(card.name)) for card in cards])


def _matrix(
    pen: Pen, cards: Sequence[GpuView], links: dict[frozenset[str], LinkView], *, short: bool, tight: bool
) -> list[Column]:
    """Return the columns; a tight matrix is all in one, with one blank between the cells."""
    rows = [
        [_cell(pen, links.get(frozenset((card.uuid, other.uuid))), card is other, short=short) for other in cards]
        for card in cards
    ]
    marks = [card_mark(card) for card in cards]
    if not tight:
        columns = zip(marks, zip(*rows, strict=True), strict=True)
        named = [_numbers(pen, cards), _names(pen, cards)]
        return [*named, *(Column(title=mark, items=items) for mark, items in columns)]
    widest = max((width_of(cell) for row in rows for cell in row), default=0)
    joined: list[Spans] = []
    for mark, row in zip(marks, rows, strict=True):
        line = pad(pen.text(mark, "strong"), 3, right=True)
        for cell in row:
            line = (*line, (" ", ""), *pad(cell, widest))
        joined.append(line)
    title = "GPU" + "".join(f" {mark:<{widest}}" for mark in marks)
    return [Column(title=title.rstrip(), items=joined)]


def _cell(pen: Pen, link: LinkView | None, itself: bool, *, short: bool) -> Spans:
    if itself:
        return pen.text(words.DASH, "dim")
    kind = UNKNOWN if link is None else link.kind
    return pen.text(_word(kind, link, short=short), _STYLES.get(kind, ""))


def _word(kind: str, link: LinkView | None, *, short: bool) -> str:
    if kind == "nvlink":
        return f"NV{link.nvlinks}" if link is not None and link.nvlinks else "NV"
    return _WORDS.get(kind, _WORDS[UNKNOWN])[short]


def _rows(pen: Pen, cards: Sequence[GpuView], links: dict[frozenset[str], LinkView]) -> list[list[str]]:
    """Return for each card the others by the way that leads to them, the shortest first."""
    rows = []
    for card in cards:
        ways: dict[tuple[int, int, str], list[int]] = {}
        for place, other in enumerate(cards):
            if other is not card:
                link = links.get(frozenset((card.uuid, other.uuid)))
                kind = link.kind if link is not None and link.kind in KINDS else UNKNOWN
                nvlinks = link.nvlinks or 0 if link is not None and kind == "nvlink" else 0
                ways.setdefault((KINDS.index(kind), -nvlinks, _word(kind, link, short=False)), []).append(place)
        said = [
            (*pen.text(word, _STYLES.get(KINDS[number], "")), *pen.text(f": {_runs(places, cards)}"))
            for (number, _, word), places in sorted(ways.items())
        ]
        rows.append(_packed(pen, said))
    return rows


def _packed(pen: Pen, said: Sequence[Spans]) -> list[str]:
    """Put as many ways on a line as fit, none of them torn."""
    lines: list[Spans] = []
    for way in said:
        if lines and width_of(lines[-1]) + GAP + width_of(way) < pen.width:
            lines[-1] = (*lines[-1], (" " * GAP, ""), *way)
        else:
            lines.append(((" " * (4 + GAP), ""), *way))
    return [pen.line(line) for line in lines]


def _runs(places: Sequence[int], cards: Sequence[GpuView]) -> str:
    """Write the numbers of cards, with a dash for a run of three or more: "0, 4–7"."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    marks = [[card_mark(cards[place]) for place in run] for run in runs]
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(run) for run in marks)


def _legend(pen: Pen, links: Sequence[LinkView], *, short: bool) -> list[str]:
    """Say what the words mean that are used."""
    used = {link.kind if link.kind in KINDS else UNKNOWN for link in links}
    rows = [(_word(kind, None, short=short), _WORDS[kind][2]) for kind in KINDS if kind in used and kind != "nvlink"]
    if "nvlink" in used:
        rows.insert(0, ("NV", "that many NVLinks between them: fastest"))
    widest = max((len(word) for word, _ in rows), default=0)
    return [
        line
        for word, meaning in rows
        for line in pen.hanging(pen.text(meaning, "dim"), indent=1, width=pen.width, lead=f"{word:<{widest}}  ")
    ]


def draw_best_pair(pen: Pen, status: Status, *, width: int) -> list[str]:
    """Say which two cards suit a model that is split over two, and why."""
    cards = linked_cards(status.gpus)
    if len(cards) < 2:
        return pen.hanging(pen.text("A model over two cards needs two of them.", "dim"), indent=1, width=width)
    best = best_pair(status.gpus, status.links)
    if best is None:
        said = (
            "Which pair suits a model over two cards is not known: the driver tells of no way between two usable cards."
        )
        return pen.hanging(pen.text(said, "wait"), indent=1, width=width)
    sizes = [card.memory_total_bytes for card in (best.one, best.other)]
    known = [size for size in sizes if size is not None]
    reasons = [
        f"all pairs are joined alike, {way(best.link.kind, best.link.nvlinks)}"
        if best.alike
        else way(best.link.kind, best.link.nvlinks)
    ]
    reasons.append("equal cards" if best.one.name == best.other.name else "the slower card sets the pace")
    if len(known) == 2:
        reasons.append(f"{format_gib(sum(known))} GiB together")
    pair = f"GPU {card_mark(best.one)} and {card_mark(best.other)}"
    spans = (
        *pen.text("Best pair for a model over two cards: "),
        *pen.text(pair, "good"),
        *pen.text(f" ({'; '.join(reasons)})."),
    )
    return pen.hanging(spans, indent=1, width=width)


def way(kind: str, nvlinks: int | None) -> str:
    """Say in words how two cards reach each other."""
    if kind == "nvlink":
        return f"{nvlinks or 'some'} NVLink{'' if nvlinks == 1 else 's'} between them"
    return _WORDS[kind][2].partition(":")[0]
