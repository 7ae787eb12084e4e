"""The screen of `ollamux top`: what is known in, exactly as many lines as the screen has out.

Cards with the history of their use and memory, instances with the history of their state, what is the matter with the
chosen one, and a line for keys, questions and answers. Readable without colour: every meaning has a sign, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ollamux.domain import top as core
from ollamux.domain.cards import troubles
from ollamux.domain.snapshot import GpuView, InstanceView
from ollamux.domain.top import Top, selected, shown_cards, shown_instances, vram_bytes
from ollamux.domain.trail import STEP_S, Series
from ollamux.render import words
from ollamux.render.cells import Span, Spans, cut_spans, pad, width_of
from ollamux.render.grid import GAP, Column, Grid
from ollamux.render.groups import card_mark, cards_of, gpu_marks
from ollamux.render.head import draw_head
from ollamux.render.overview import explain
from ollamux.render.pen import Pen

_Thing = TypeVar("_Thing")
_NARROWEST, _SHORTEST_SPARK, _LONGEST_SPARK = 20, 9, 60
_LONGEST_NAME, _LONGEST_MODELS = 20, 30
_ROOMY, _LONGEST_NAME_THERE = 110, 34
_FEWEST_ROWS = 3
_MOST_DETAILS = 3
_SIGNS = {
    core.STOPPED: ("_", "dim"),
    core.READY: ("━", "good"),
    core.CHANGING: ("~", "wait"),
    core.DEGRADED: ("!", "wait"),
    core.BAD: ("x", "bad"),
}
_HELP = (
    ("↑ ↓  j k", "choose an instance; PgUp, PgDn, Home and End go further"),
    ("r", "restart the chosen instance, after a question"),
    ("/", "show only what has these words in name, state, port or model; Esc shows all again"),
    ("s", "sort: as in the file, by name, the worst first, by memory, by use of the card"),
    ("q  Ctrl-C", "quit; the instances go on"),
    ("Ctrl-Z", "suspend; fg comes back"),
)


def draw_top(top: Top, *, width: int, height: int, color: bool, unicode: bool, now: float) -> list[str]:
    """Draw the screen, at most `height` lines. `now` is monotonic, as the times in `top`."""
    pen = Pen(width=max(width, _NARROWEST), color=color, unicode=unicode)
    foot = _foot(pen, top)
    head = _head(pen, top, now)
    if top.mode == "help":
        body = _help(pen, top)
    elif top.status is None:
        body = []
    else:
        body = _body(pen, top, max(height - len(head) - len(foot), 0))
    room = max(height - len(head) - len(foot), 0)
    lines = [*head, *body[:room], *[""] * max(room - len(body), 0), *foot]
    return lines[:height]


def _head(pen: Pen, top: Top, now: float) -> list[str]:
    lines: list[str] = []
    if top.status is not None:
        lines = draw_head(pen, top.status, now=words.epoch(top.status.time))[:1]
        ready = [one for one in top.status.instances if one.wanted != "down"]
        well = sum(words.is_well(one) for one in ready)
        style = "good" if well == len(ready) else "wait"
        count = pen.text(f"{well} of {len(ready)} READY", style)
        if top.wanted:
            shown, every = len(shown_instances(top)), len(top.status.instances)
            count = (*count, *pen.text(f"   {shown} of {every} shown: {top.wanted}", "key"))
        if top.order != "file":
            count = (*count, *pen.text(f"   sorted by {top.order}", "dim"))
        lines.append(pen.line(((" ", ""), *count)))
    if top.status is not None and top.status.host.gpus_error is not None and top.status.gpus:
        lines += pen.hanging(pen.text(f"GPUs: {top.status.host.gpus_error}", "bad"), indent=1, width=pen.width)[:2]
    if top.trouble is not None:
        ago = "" if top.told_at is None else f"; what is shown is {words.coarse(now - top.told_at)} old"
        lines += pen.hanging(pen.text(f"{top.trouble}{ago}", "bad"), indent=1, width=pen.width)[:3]
    return lines


def _foot(pen: Pen, top: Top) -> list[str]:
    if top.mode == "filter":
        return [pen.line((*pen.text(" /", "key"), *pen.text(top.wanted), *pen.text("_", "key")))]
    if top.mode == "confirm":
        return [pen.line(((" ", ""), *pen.text(_question(top), "wait")))]
    if top.message is not None:
        return [pen.line(((" ", ""), *pen.text(top.message, "bad" if top.message_is_bad else "good")))]
    shown: Spans = ()
    for key, does in (("q", "quit"), ("r", "restart"), ("/", "filter"), ("s", "sort"), ("?", "help"), ("↑↓", "choose")):
        shown = (*shown, (" ", ""), *pen.text(key, "key"), *pen.text(f" {does} ", "dim"))
    return [pen.line(shown)]


def _question(top: Top) -> str:
    status = top.status
    asked = next((one for one in status.instances if one.name == top.asking), None) if status is not None else None
    models = ", ".join(words.short_model(model.name) for model in asked.models) if asked is not None else ""
    loaded = f" It has {models} loaded, and answers under way are cut off." if models else ""
    return f"Restart {top.asking}? y / n.{loaded}"


def _help(pen: Pen, top: Top) -> list[str]:
    lines = ["", pen.line(pen.text(" Keys", "strong"))]
    widest = max(len(key) for key, _ in _HELP)
    for key, does in _HELP:
        lines += pen.hanging(pen.text(does), indent=2, width=pen.width, lead=f"{key:<{widest}}  ")
    signs = ((core.READY, "READY"), (core.CHANGING, "starting, stopping or waiting"), (core.DEGRADED, "degraded"))
    lines += ["", pen.line(pen.text(" History of an instance", "strong"))]
    for sign, means in (*signs, (core.BAD, "unhealthy, failed or stuck"), (core.STOPPED, "stopped")):
        lines.append(pen.line((("  ", ""), *pen.text(*_SIGNS[sign]), *pen.text(f"  {means}"))))
    said = f"Each mark stands for {STEP_S:g} s, the newest at the right; of use and memory it shows the highest. "
    said += (
        "A dot is from before top was opened, a gap is what nobody knows."
        if pen.unicode
        else "A gap is what nobody knows."
    )
    return [*lines, "", *pen.hanging(pen.text(said, "dim"), indent=1, width=pen.width), " Any key goes back."]


def _body(pen: Pen, top: Top, room: int) -> list[str]:
    cards, instances = shown_cards(top), shown_instances(top)
    chosen = selected(top)
    details = _details(pen, top, chosen)[: min(_MOST_DETAILS, max(room - 8, 0))]
    room -= len(details)
    # Without room for both the cards go, for the keys act on instances.
    left = room - 2
    if left < 2 * _FEWEST_ROWS and len(cards) + len(instances) > left:
        cards, left = (), room - 1
    most = max(left // 2, left - len(instances))
    focus = next((place for place, gpu in enumerate(cards) if chosen is not None and gpu.uuid in chosen.gpus), 0)
    lines = _cards(pen, top, _window(cards, min(len(cards), most), focus)) if cards else []
    place = next((number for number, one in enumerate(instances) if one is chosen), 0)
    shown = _window(instances, max(room - len(lines) - 1, 0), place)
    below = _instances(pen, top, shown, chosen)
    # What is left of the room sets the parts off from each other.
    free = room - len(lines) - len(below)
    gap = [""] * (cards != () and free > 0)
    return [*[""] * (free > 1), *lines, *gap, *below, *[""] * (bool(details) and free > 2), *details]


def _window(things: Sequence[_Thing], room: int, focus: int) -> Sequence[_Thing]:
    """Return as many as there is room for, with the one in focus among them."""
    start = min(max(focus - room // 2, 0), max(len(things) - room, 0))
    return things[start : start + room]


def _series(top: Top, kind: str, name: str) -> Series:
    return top.trail.series.get(f"{kind} {name}", ())


def _cards(pen: Pen, top: Top, cards: Sequence[GpuView]) -> list[str]:
    assert top.status is not None  # noqa: S101 - the caller's
    status = top.status

    def column(title: str, write: Callable[[GpuView], str], *, rank: int = 0) -> Column:
        values = [write(gpu) for gpu in cards]
        items = [pen.text(value, "dim" if value == words.DASH else "") for value in values]
        return Column(title=title, right=True, rank=rank, items=items)

    def use(gpu: GpuView) -> Spans:
        age = words.age(gpu, status, words.epoch(status.time))
        if gpu.state != "ok":
            return pen.text(gpu.state, "bad")
        old = age is not None and age > words.STALE_AFTER_S
        return pen.text(f"{words.coarse(age or 0.0)} old", "wait") if old else pen.text(words.utilization(gpu))

    def columns(spark: int) -> list[Column]:
        return [
            column("GPU", card_mark),
            Column(title="Name", rank=4, items=[_cut(pen, words.gpu_name(gpu.name)) for gpu in cards]),
            Column(title="Util", right=True, items=[use(gpu) for gpu in cards]),
            _history(spark, [pen.spark(_series(top, "use", gpu.uuid), spark) for gpu in cards], rank=2),
            column("Memory", words.memory, rank=1),
            _history(spark, [pen.spark(_series(top, "memory", gpu.uuid), spark) for gpu in cards], rank=3),
            column("Temp", words.temperature, rank=5),
            column("Power", words.power, rank=6),
        ]

    grid = _fitted(pen, columns, pen.width - 1)
    margin: Span = (" ", "")
    return [
        pen.line((margin, *line)) for line in (grid.titles(), *(grid.row(place)[-1] for place in range(len(cards))))
    ]


def _history(width: int, items: Sequence[Spans], *, rank: int) -> Column:
    return Column(title=f"last {words.coarse(width * STEP_S)}", right=True, rank=rank, items=items)


def _fitted(pen: Pen, columns: Callable[[int], list[Column]], width: int) -> Grid:
    """Return the grid whose histories take what the other columns leave."""
    grid = Grid(pen, columns(_SHORTEST_SPARK), width, indent=1)
    histories = sum(column.title.startswith("last ") for column in grid.columns)
    if not histories:
        return grid
    more = min(max(width - grid.used(), 0) // histories, _LONGEST_SPARK - _SHORTEST_SPARK)
    kept = {column.rank for column in grid.columns}
    wider = [column for column in columns(_SHORTEST_SPARK + more) if column.rank in kept]
    return Grid(pen, wider, width, indent=1)


def _cut(pen: Pen, text: str) -> Spans:
    return cut_spans(pen.name(text), _LONGEST_NAME if pen.width < _ROOMY else _LONGEST_NAME_THERE, pen.mark)


def _instances(pen: Pen, top: Top, shown: Sequence[InstanceView], chosen: InstanceView | None) -> list[str]:
    assert top.status is not None  # noqa: S101 - the caller's
    time = words.epoch(top.status.time)
    marks = gpu_marks(top.status)
    names = [(*pen.text(">" if one is chosen else " ", "key"), *_cut(pen, one.name)) for one in shown]
    models = [pen.text(", ".join(words.short_model(m.name) for m in one.models) or words.DASH) for one in shown]

    def column(title: str, write: Callable[[InstanceView], str], *, rank: int) -> Column:
        return Column(title=title, right=True, rank=rank, items=[pen.text(write(one)) for one in shown])

    def columns(spark: int) -> list[Column]:
        return [
            Column(title=" Instance", items=names),
            column("GPU", lambda one: cards_of(one, marks), rank=4),
            column("Port", lambda one: str(one.port), rank=6),
            Column(title="State", items=[pad(pen.text(*words.state(one)), 9) for one in shown]),
            column("Since", lambda one: words.since(one, time), rank=3),
            column("Restarts", lambda one: str(one.restarts), rank=7),
            _history(spark, [_strip(pen, top, one, spark) for one in shown], rank=2),
            column("VRAM", lambda one: words.gib(vram_bytes(one) if one.models else None), rank=5),
        ]

    wish = min(max([width_of(spans) for spans in models], default=0), _LONGEST_MODELS)
    grid = _fitted(pen, columns, pen.width - 1 - GAP - max(wish, len("Models")))
    rows = [grid.titles(), *(grid.row(place)[-1] for place in range(len(shown)))]
    last = [pen.text("Models", "dim"), *models]
    return [pen.line(((" ", ""), *row, (" " * GAP, ""), *end)) for row, end in zip(rows, last, strict=True)]


def _strip(pen: Pen, top: Top, instance: InstanceView, width: int) -> Spans:
    known = _series(top, "state", instance.name)[-width:]
    spans: list[Span] = [pen.unseen(width - len(known))]
    for value in known:
        sign, style = (" ", "") if value is None else _SIGNS.get(int(value), (" ", ""))
        spans.append((pen.plain(sign), style))
    return tuple(spans)


def _details(pen: Pen, top: Top, chosen: InstanceView | None) -> list[str]:
    """Say what is the matter with the chosen instance, and with its cards."""
    if top.status is None or chosen is None:
        none = pen.text("No instance has these words." if top.wanted else "No instances.", "dim")
        return [pen.line(((" ", ""), *none))]
    said = [(chosen.name, spans) for spans in explain(pen, chosen, words.epoch(top.status.time))]
    for gpu in top.status.gpus:
        if gpu.uuid in chosen.gpus:
            for trouble in troubles(gpu):
                style = "bad" if trouble.broken else "wait"
                said.append((f"GPU {card_mark(gpu)}", pen.text(trouble.words, style)))
    lines: list[str] = []
    for name, spans in said:
        lines += pen.hanging((*pen.name(f"{name}: ", "strong"), *spans), indent=1, width=pen.width)
    return lines
