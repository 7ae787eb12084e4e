"""The picture of `ollamux plan`: what each model needs, how full each card gets, and what would help where it does not.

Layout only; the figures are the plan's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ollamux.domain.links import KINDS
from ollamux.domain.plan import ModelNeed, Placed, Plan, PlanCard, Remedy, Span, Unplaced
from ollamux.domain.text import format_gib, format_size
from ollamux.render import topology, words
from ollamux.render.cells import Spans
from ollamux.render.grid import Column, flat_table
from ollamux.render.overview import bar_width
from ollamux.render.pen import Pen

_WIDEST = 110
_CHANGES = {
    "kv_type": ("with a {} cache", "kv_cache_type = {!r}"),
    "parallel": ("with {} sequence at a time", "num_parallel = {}"),
    "context_length": ("with a context of {}", "context_length = {}"),
    "layers": ("with {} layers on the card, the rest in host memory", "num_gpu {}"),
}


def draw_plan(pen: Pen, plan: Plan) -> str:
    """Return the whole picture."""
    lines = [pen.line(pen.text("SIMULATED", "badge"))] if plan.simulated else []
    lines += _models(pen, plan) if plan.models else []
    lines += (
        ["", *_cards(pen, plan)] if plan.cards else ["", *_hanging(pen, "There is no GPU here to plan for.", "dim")]
    )
    for span in plan.spans:
        lines += ["", *_span(pen, plan, span)]
    for one in plan.unplaced:
        lines += ["", *_unplaced(pen, one, placed=any(each.model == one.model for each in plan.placement))]
    if plan.cards and not plan.unplaced:
        said = "It fits." if len(plan.models) == 1 else "All of them fit."
        lines += ["", *_hanging(pen, said, "good")]
    notes = [*plan.notes, *(f"{need.name}: {note}" for need in plan.models for note in need.notes)]
    notes += [note for need in plan.models for note in _near(need)]
    lines += ["", *(line for note in notes for line in _hanging(pen, note, "dim"))] if notes else []
    return "\n".join(lines) + "\n"


def _hanging(pen: Pen, text: str, style: str, lead: str = "") -> list[str]:
    return pen.hanging(pen.text(text, style), indent=1, width=min(pen.width, _WIDEST), lead=lead)


def _models(pen: Pen, plan: Plan) -> list[str]:
    needs = plan.models

    def column(title: str, write: Callable[[ModelNeed], str], *, right: bool = True, rank: int = 0) -> Column:
        return Column(title=title, right=right, rank=rank, items=[pen.text(write(need)) for need in needs])

    columns = [
        Column(title="Model", name=True, items=[pen.name(words.short_model(need.name), "strong") for need in needs]),
        column(
            "Kind", lambda need: " ".join(filter(None, (need.architecture, need.quantization))), right=False, rank=7
        ),
        column("Context", lambda need: str(need.context_length), rank=3),
        column("Slots", lambda need: str(need.parallel), rank=3),
        column("KV", lambda need: need.kv_type, right=False, rank=6),
        column("Weights", lambda need: words.size(need.weights_bytes), rank=1),
        column("Cache", lambda need: words.size(need.kv_bytes), rank=1),
        column("Compute", lambda need: words.size(need.compute_bytes), rank=4),
        column("Other", lambda need: words.size(need.projector_bytes + need.overhead_bytes), rank=5),
        *_totals(pen, needs),
    ]
    if plan.cards:
        columns.append(Column(title="Fits on", rank=2, items=[_fits(pen, plan, need) for need in needs]))
    return flat_table(pen, columns)[0]


def _totals(pen: Pen, needs: Sequence[ModelNeed]) -> list[Column]:
    """Return what is estimated and what was measured side by side; the one where nothing was measured."""
    if not any(need.estimated_bytes is not None for need in needs):
        return [Column(title="Total", right=True, items=[_total(pen, need) for need in needs])]
    measured = [
        pen.text(words.DASH, "dim")
        if need.estimated_bytes is None
        else pen.text(words.size(need.total_bytes), "strong")
        for need in needs
    ]
    return [
        Column(title="Estimate", right=True, items=[_total(pen, need) for need in needs]),
        Column(title="Measured", right=True, items=measured),
        Column(title="Off", right=True, rank=1, items=[pen.text(_off(need)) for need in needs]),
    ]


def _total(pen: Pen, need: ModelNeed) -> Spans:
    """Return the estimate; it is what is planned with unless it was measured."""
    if need.estimated_bytes is not None:
        return pen.text(words.size(need.estimated_bytes))
    bound = "at most " if need.source == "bound" else ""
    return pen.text(f"{bound}{words.size(need.total_bytes)}", "wait" if bound else "strong")


def _off(need: ModelNeed) -> str:
    """Return how much more, or less, was estimated than was measured."""
    if need.estimated_bytes is None or not need.total_bytes:
        return words.DASH
    return f"{(need.estimated_bytes - need.total_bytes) / need.total_bytes * 100:+.1f} %"


def _near(need: ModelNeed) -> list[str]:
    """Say what the same model took when it was loaded in another way."""
    load = need.measured
    if load is None or load.used == "all":
        return []
    way = f"a context of {load.context_length}" + (f" × {load.parallel}" if load.parallel > 1 else "")
    where = words.gpu_name(load.card) or "another card"
    took = f"{need.name}: with {way} and a {load.kv_type} cache it took {words.size(load.total_bytes)} of a {where}"
    return [f"{took}; the estimate is corrected by that" if load.used == "part" else took]


def _fits(pen: Pen, plan: Plan, need: ModelNeed) -> Spans:
    fitting = [card for card in plan.cards if card.room_bytes >= need.least_bytes]
    if not fitting and any(one.model == need.name and len(one.shares) > 1 for one in plan.placement):
        return pen.text("several", "wait")
    if not fitting:
        return pen.text("no card", "bad")
    if len(fitting) == len(plan.cards) > 1:
        return pen.text("every card", "good")
    if plan.cards[0].mark == "CPU":
        return pen.text("the host", "good")
    return pen.text("GPU " + ", ".join(card.mark for card in fitting), "good")


def _cards(pen: Pen, plan: Plan) -> list[str]:
    bar = bar_width(pen.width)
    free = [pen.text(words.size(card.headroom_bytes)) for card in plan.cards]
    columns = [
        Column(title="GPU", right=True, items=[pen.text(card.mark, "strong") for card in plan.cards]),
        Column(title="Name", rank=2, items=[pen.name(words.gpu_name(card.name)) for card in plan.cards]),
        Column(title="", items=[_bar(pen, plan, card, bar) for card in plan.cards]),
        Column(title="Planned", right=True, items=[_planned(pen, plan, card) for card in plan.cards]),
        Column(title="Kept free", right=True, rank=1, items=free),
    ]
    return flat_table(
        pen, columns if bar else columns[:2] + columns[3:], details=[_held(pen, plan, card) for card in plan.cards]
    )[0]


def _held(pen: Pen, plan: Plan, card: PlanCard) -> list[str]:
    """Say what goes on a card, and what is kept there besides."""
    planned = [text for placed in plan.placement if (text := _share(plan, placed, card))]
    kept = [f"{text} (kept there)" for placed in plan.kept if (text := _share(plan, placed, card))]
    others = [f"others {format_size(card.others_bytes)}"] if card.others_bytes and (planned or kept) else []
    text = ", ".join([*planned, *kept, *others])
    return pen.hanging(pen.text(text), indent=4, width=min(pen.width, _WIDEST), lead="└ ") if text else []


def _share(plan: Plan, placed: Placed, card: PlanCard) -> str | None:
    size = dict(placed.shares).get(card.uuid)
    if size is None:
        return None
    part = f" of {format_size(placed.size_bytes)}" if len(placed.shares) > 1 else ""
    several = sum(card.uuid in dict(one.shares) for one in (*plan.placement, *plan.kept)) > 1
    where = f" on {placed.instance}" if placed.instance is not None and (several or part) else ""
    return f"{words.short_model(placed.model)} {format_size(size)}{part}{where}"


def _used(plan: Plan, card: PlanCard) -> int:
    return plan.planned_bytes(card.uuid) + plan.kept_bytes(card.uuid) + card.others_bytes


def _bar(pen: Pen, plan: Plan, card: PlanCard, width: int) -> Spans:
    return pen.bar(_used(plan, card) / card.total_bytes if card.total_bytes else 0.0, width)


def _planned(pen: Pen, plan: Plan, card: PlanCard) -> Spans:
    return pen.text(f"{format_gib(_used(plan, card))}/{format_gib(card.total_bytes)} GiB")


def _span(pen: Pen, plan: Plan, span: Span) -> list[str]:
    """Say that a model is larger than every card, over which ones it goes, and what that takes."""
    models = [words.short_model(one.model) for one in plan.placement if set(dict(one.shares)) == set(span.cards)]
    marks = [card.mark for card in plan.cards if card.uuid in span.cards]
    way = "" if span.link not in KINDS[:-1] else f", {topology.way(span.link, span.nvlinks)}"
    which = f"{', '.join(marks[:-1])} and {marks[-1]}"
    said = f"{', '.join(models)} is larger than every card, and goes over GPU {which}{way}."
    if span.instance is None:
        said += " That takes an instance with these cards."
    else:
        said += f" No instance has them together: ollamux plan --apply adds one, {span.instance}."
    return _hanging(pen, said, "wait")


def _unplaced(pen: Pen, one: Unplaced, *, placed: bool) -> list[str]:
    said = "has too few cards" if placed else "has no card"
    lines = _hanging(pen, f"{one.model} {said}: {one.reason}.", "bad")
    if one.remedies:
        lines += _hanging(pen, "It would fit", "")
        for remedy in one.remedies:
            lines += pen.hanging(_change(pen, remedy), indent=3, width=min(pen.width, _WIDEST), lead="· ")
    return lines


def _change(pen: Pen, remedy: Remedy) -> Spans:
    said, key = _CHANGES[remedy.what]
    return (
        *pen.text(said.format(remedy.value)),
        *pen.text(f" ({key.format(remedy.value)})".replace("'", '"'), "key"),
        *pen.text(f": {format_size(remedy.total_bytes)}"),
    )
