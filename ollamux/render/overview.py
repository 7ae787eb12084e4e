"""The body of the whole-box table: one row a card, below it its instances, and what is the matter with them.

Two grids share the edge at which memory and models begin, so that the eye finds both in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ollamux.domain.snapshot import GpuView, InstanceModelView, InstanceView, Status
from ollamux.render import words
from ollamux.render.cells import Spans, cells, cut, pad, width_of
from ollamux.render.grid import GAP, Column, Grid
from ollamux.render.groups import Group, Member
from ollamux.render.pen import Pen

INDENT = 6
_LONGEST_BAR = 24
_MODELS_NAMED = 8
# A name column wider than that tears the name from its figures.
_WIDEST_EXTRA = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The drawn body and how wide it came out."""

    titles: list[str]
    rows: list[str]
    width: int


def bar_width(width: int) -> int:
    """Return how long the memory bars are at least, on a screen of that width."""
    return 0 if width < 52 else 7 if width < 72 else 10


def draw_body(pen: Pen, status: Status, groups: Sequence[Group], *, wide: bool, now: float | None, fill: int) -> Body:
    """Draw the cards and their instances, at least `fill` columns wide where the screen is."""
    members = [member for found in groups for member in found.members]
    cards = any(found.gpu for found in groups)
    figures = max([cells(pen.plain(words.memory(g.gpu))) for g in groups if g.gpu], default=0)
    bar = bar_width(pen.width) if cards else 0
    models = [_model_names(pen, member.instance.models) for member in members]
    block = max((bar + GAP if bar else 0) + figures, 12)
    left = pen.width - INDENT - GAP - block
    card_grid = Grid(pen, _card_columns(pen, status, groups, wide=wide, now=now) if cards else [], left, indent=INDENT)
    member_grid = Grid(pen, _member_columns(pen, members, wide=wide, now=now), left, indent=INDENT)
    used = max(card_grid.used(), member_grid.used())
    longest_models = max((width_of(names) for names in models), default=0)
    wanted = max(longest_models, _LONGEST_BAR + GAP + figures if bar else 0, fill - used - INDENT - GAP)
    block += max(min(left - used, wanted - block), 0)
    if bar:
        bar = min(block - figures - GAP, _LONGEST_BAR)
    for grid in (card_grid, member_grid):
        grid.widen_name(min(used - grid.used(), _WIDEST_EXTRA))
    drawing = _Drawing(pen=pen, status=status, now=now, used=used, block=block, bar=bar, figures=figures)
    rows: list[str] = []
    number = 0
    for position, found in enumerate(groups):
        rows += drawing.card(found, card_grid.row(position) if cards else [pen.name(found.name, "strong")])
        for member in found.members:
            rows += drawing.member(member, member_grid.row(number), models[number])
            number += 1
    titles = [drawing.titled(" GPU", card_grid, "Memory")] if cards else []
    titles.append(drawing.titled("", member_grid, "Models"))
    return Body(titles=titles, rows=rows, width=min(INDENT + used + GAP + block, pen.width))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    pen: Pen
    status: Status
    now: float | None
    used: int
    block: int
    bar: int
    figures: int

    def titled(self, mark: str, grid: Grid, last: str) -> str:
        start = ((f"{mark:<{INDENT}}", "dim"), *pad(grid.titles(), self.used + GAP))
        title = self.pen.text(last, "dim")
        return self.pen.line((*start, *title))

    def card(self, found: Group, lines: list[Spans]) -> list[str]:
        blank = (" " * INDENT, "")
        mark = (*pad(self.pen.text(found.mark, "strong"), 4, right=True), ("  ", ""))
        if found.gpu is None:
            absent = self.pen.text("  not found", "bad") if found.mark == "?" else ()
            return [self.pen.line((*mark, *_card_name(self.pen, found), *absent))]
        whole = [(*(mark if number == 0 else (blank,)), *line) for number, line in enumerate(lines)]
        memory, note = self._memory(found.gpu)
        whole[-1] = (*pad(whole[-1], INDENT + self.used + GAP), *memory)
        return [self.pen.line(line) for line in whole] + self.detail(note)

    def _memory(self, gpu: GpuView) -> tuple[Spans, Spans]:
        """Return the bar and the figures, and what did not fit beside them."""
        age = words.age(gpu, self.status, self.now)
        seen = words.coarse(age) if age is not None and age > words.STALE_AFTER_S else None
        if gpu.state == "lost":
            lost, ago = self.pen.text("lost", "bad"), self.pen.text(f"last seen {seen} ago" if seen else "", "dim")
            fits = width_of(lost) + width_of(ago) + GAP <= self.block
            return ((*lost, ("  ", ""), *ago), ()) if fits else (lost, ago)
        figure = self.pen.text(words.memory(gpu), "dim" if seen else "")
        total, in_use = gpu.memory_total_bytes, gpu.memory_used_bytes
        bar: Spans = ()
        note: Spans = ()
        if seen:
            old = self.pen.text(f"{seen} old", "wait")
            bar, note = (old, ()) if width_of(old) + GAP <= self.block - width_of(figure) else ((), old)
        elif total and in_use is not None and self.bar:
            # The mark at its end shows how much room is left on a card of any size.
            bar = (*self.pen.bar(in_use / total, self.bar), *self.pen.text("▏" if self.pen.unicode else "", "dim"))
        space = self.block - width_of(figure)
        return (*pad(bar, max(space, 0)), *figure), note

    def member(self, member: Member, lines: list[Spans], models: Spans) -> list[str]:
        indent = (" " * INDENT, "")
        drawn = [self.pen.line((indent, *line)) for line in lines[:-1]]
        last = pad((indent, *lines[-1]), INDENT + self.used + GAP)
        if member.first is not None:
            where = self.pen.text(f"see GPU {member.first}", "dim")
            return [*drawn, self.pen.line((*last, *where))]
        drawn.append(self.pen.line((*last, *_fit_models(self.pen, member.instance.models, models, self.block))))
        for spans in explain(self.pen, member.instance, self.now):
            drawn += self.detail(spans)
        return drawn

    def detail(self, spans: Spans) -> list[str]:
        if not spans:
            return []
        width = INDENT + self.used + GAP + self.block
        return self.pen.hanging(spans, indent=INDENT, width=min(width, self.pen.width), lead="└ ")


def explain(pen: Pen, instance: InstanceView, now: float | None) -> list[Spans]:
    """Return what has to be said about an instance: the reason and what happens next, then its warnings."""
    said: list[Spans] = []
    if words.is_well(instance) and instance.phase == "READY" and instance.reason:
        said.append(pen.text(instance.reason, "wait"))  # it is lent
    elif not words.is_well(instance):
        style = words.state(instance)[1]
        reason = pen.text(instance.reason or "")
        step = pen.text(words.next_step(instance, now) or "", style)
        joint = pen.text("; ") if reason and step else ()
        if reason or step:
            said.append((*reason, *joint, *step))
    said += [pen.text(f"! {warning}", "wait") for warning in instance.warnings]
    return said


def _card_columns(pen: Pen, status: Status, groups: Sequence[Group], *, wide: bool, now: float | None) -> list[Column]:
    stale = {found.gpu.uuid for found in groups if found.gpu and words.is_stale(found.gpu, status, now)}

    def figures(write: Callable[[GpuView], str], *, lost: bool = True) -> list[Spans]:
        items: list[Spans] = []
        for found in groups:
            # What a lost card showed last is not what it does now; its address and name still hold.
            known = found.gpu and (lost or found.gpu.state != "lost")
            value = write(found.gpu) if found.gpu and known else words.DASH if found.gpu else ""
            faint = value == words.DASH or (found.gpu and found.gpu.uuid in stale)
            items.append(pen.text(value, "dim" if faint else ""))
        return items

    columns = [
        # A row that is no card has no figures beside its name, so that the name may be as long as it is.
        Column(title="Name", name=True, enough=16, items=[_card_name(pen, f) if f.gpu else () for f in groups]),
        Column(title="Temp", right=True, rank=3, items=figures(words.temperature, lost=False)),
        Column(title="Power", right=True, rank=4, items=figures(words.power, lost=False)),
        Column(title="Util", right=True, rank=2, items=figures(words.utilization, lost=False)),
    ]
    if wide:
        columns += [
            Column(title="PCI", rank=6, items=figures(lambda gpu: words.pci(gpu.pci))),
            Column(title="PCIe", rank=7, items=figures(words.pcie)),
            Column(title="UUID", rank=8, items=figures(lambda gpu: gpu.uuid)),
        ]
    return columns


def _card_name(pen: Pen, found: Group) -> Spans:
    name = words.gpu_name(found.name) if found.gpu else found.name
    return pen.name(name, "strong" if found.gpu or found.mark == "?" else "dim")


def _member_columns(pen: Pen, members: Sequence[Member], *, wide: bool, now: float | None) -> list[Column]:
    def once(member: Member, value: str) -> Spans:
        return () if member.first is not None else pen.text(value, "dim" if value == words.DASH else "")

    def names(member: Member) -> Spans:
        return pen.name(member.instance.name, "dim" if member.first is not None else "")

    state = [pen.text(*words.state(m.instance)) for m in members]
    columns = [Column(title="Instance", name=True, enough=12, items=[names(m) for m in members])]
    if wide:
        columns.append(Column(title="URL", rank=4, items=[once(m, m.instance.url) for m in members]))
        columns.append(
            Column(title="PID", right=True, rank=5, items=[once(m, words.number(m.instance.pid)) for m in members])
        )
    else:
        port = [once(m, str(m.instance.port)) for m in members]
        columns.append(Column(title="Port", right=True, rank=2, items=port))
    columns += [
        Column(title="State", items=state),
        Column(title="Since", right=True, rank=3, items=[once(m, words.since(m.instance, now)) for m in members]),
        Column(title="Restarts", right=True, rank=4, items=[once(m, str(m.instance.restarts)) for m in members]),
    ]
    if wide:
        columns += [
            Column(title="RSS", right=True, rank=6, items=[once(m, words.gib(m.instance.rss_bytes)) for m in members]),
            Column(title="Gen", right=True, rank=8, items=[once(m, str(m.instance.generation)) for m in members]),
            Column(title="Pinning", rank=7, items=[once(m, m.instance.pinning) for m in members]),
            Column(title="Ollama", rank=9, items=[once(m, m.instance.ollama_version or words.DASH) for m in members]),
        ]
    return columns


def _model_names(pen: Pen, models: Sequence[InstanceModelView]) -> Spans:
    if not models:
        return pen.text(words.DASH, "dim")
    return pen.name(", ".join(model.name for model in models[:_MODELS_NAMED]))


def _fit_models(pen: Pen, models: Sequence[InstanceModelView], whole: Spans, width: int) -> Spans:
    """Return as many names of models as fit, and how many more there are."""
    if width_of(whole) <= width and len(models) <= _MODELS_NAMED:
        return whole
    names = [pen.plain(words.short_model(model.name)) for model in models[:_MODELS_NAMED]]
    for count in range(len(names), 0, -1):
        rest = len(models) - count
        text = ", ".join(names[:count]) + (f" +{rest}" if rest else "")
        if cells(text) <= width:
            return pen.text(text)
    tail = f" +{len(models) - 1}" if len(models) > 1 else ""
    return pen.text(cut(names[0], max(width - len(tail), 4), pen.mark) + tail)
