"""The tables of `ollamux bench`: each instance alone, several together, and beside another run. Layout only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ollamux.domain.bench import Figure, Row
from ollamux.domain.benchdiff import in_words
from ollamux.domain.benchrun import BenchInstance, Run, queued
from ollamux.domain.text import format_duration, format_size
from ollamux.render import words
from ollamux.render.cells import Spans
from ollamux.render.grid import Column, flat_table
from ollamux.render.pen import Pen

_WIDEST = 110
_MS = 1000.0
_FIGURES = {
    "first_token_s": ("First ms", _MS),
    "prompt_each": ("Prompt t/s", 1.0),
    "each": ("Each t/s", 1.0),
    "total": ("All t/s", 1.0),
    "joules_per_token": ("J/token", 1.0),
}
_SIZES = ("size_bytes", "size_vram_bytes", "memory_total_bytes")
_VERDICTS = {
    "better": ("better", "good"),
    "worse": ("worse", "bad"),
    "within the spread": ("as before", "dim"),
    "too few rounds": ("?", "wait"),
    "other question": ("?", "wait"),
}
_LONGEST = 40


def draw_bench(pen: Pen, run: Run, comparison: Mapping[str, Any] | None, saved: str | None) -> str:
    """Return the whole picture."""
    rows = run.rows()
    alone, several = ([row for row in rows if (len(row.instances) > 1) is many] for many in (False, True))
    lines = _head(pen, run)
    lines += ["", *_setup(pen, run)]
    if alone:
        lines += ["", *_alone(pen, run, alone)]
    if several:
        lines += ["", *_together(pen, run, several)]
    lines += ["", *_foot(pen, run, rows)]
    if comparison is not None:
        lines += ["", *_comparison(pen, comparison)]
    if saved is not None:
        lines += ["", *_hanging(pen, f"saved as {saved}", "dim")]
    return "\n".join(lines) + "\n"


def _hanging(pen: Pen, text: str, style: str = "", lead: str = "") -> list[str]:
    return pen.hanging(pen.text(text, style), indent=1, width=min(pen.width, _WIDEST), lead=lead)


def _head(pen: Pen, run: Run) -> list[str]:
    lines = [pen.line((("  ", ""), *pen.text("SIMULATED", "badge")))] if run.simulated else []
    asked = run.asked
    rounds = "1 round" if asked.rounds == 1 else f"{asked.rounds} rounds"
    what = f": prompts of {asked.prompt_tokens} tokens, {asked.tokens} tokens each, {rounds}"
    lines += pen.hanging((*pen.name(run.model, "strong"), *pen.text(what)), indent=1, width=min(pen.width, _WIDEST))
    if run.state != "complete":
        lines += _hanging(pen, f"PARTIAL: {run.reason or 'it was not finished'}", "bad")
    return lines


def _setup(pen: Pen, run: Run) -> list[str]:
    cards = {card.uuid: card for card in run.cards}

    def column(title: str, write: Callable[[BenchInstance], str], *, right: bool = False, rank: int = 0) -> Column:
        items = [pen.name(write(one), "" if one.error is None else "dim") for one in run.instances]
        return Column(title=title, items=items, right=right, rank=rank)

    def card_of(one: BenchInstance) -> str:
        known = [words.gpu_name(cards[uuid].name) if uuid in cards else uuid for uuid in one.gpus]
        return ", ".join(known) or "CPU"

    columns = [
        Column(title="Instance", name=True, items=[pen.name(one.name, "strong") for one in run.instances]),
        column("Card", card_of, rank=2),
        column("ollama", lambda one: one.ollama_version or words.DASH, rank=3),
        column("Context", lambda one: words.number(one.context_length), right=True, rank=1),
        column("Slots", lambda one: words.number(one.slots), right=True),
        column("On card", _on_card, right=True, rank=4),
        column("Load", lambda one: "was loaded" if one.load_s is None else format_duration(one.load_s), right=True),
    ]
    details = [_error(pen, one.error) for one in run.instances]
    return flat_table(pen, columns, details=details)[0]


def _on_card(one: BenchInstance) -> str:
    if not one.size_bytes or one.size_vram_bytes is None:
        return words.DASH
    return f"{min(one.size_vram_bytes * 100 // one.size_bytes, 100)} %"


def _error(pen: Pen, error: str | None) -> list[str]:
    return [] if error is None else _hanging(pen, f"left out: {error}", "bad", "└ ")


# The figures


def _alone(pen: Pen, run: Run, rows: Sequence[Row]) -> list[str]:
    columns = [
        Column(title="Instance", name=True, items=[pen.name(row.instances[0], "strong") for row in rows]),
        _at_once(pen, run, rows),
        _numbers(pen, "First ms", [row.first_token_s for row in rows], factor=_MS),
        _numbers(pen, "p95 ms", [row.first_token_tail_s for row in rows], factor=_MS, rank=5),
        _numbers(pen, "Prompt t/s", [row.prompt_each for row in rows], rank=3),
        _numbers(pen, "All prompts t/s", [row.prompt_all for row in rows], rank=7),
        _numbers(pen, "Each t/s", [row.each for row in rows]),
        _numbers(pen, "All t/s", [row.total for row in rows], style="strong"),
        _spread(pen, rows),
        _numbers(pen, "J/token", [row.joules_per_token for row in rows], rank=4),
    ]
    return flat_table(pen, columns, details=[_failed(pen, row) for row in rows])[0]


def _together(pen: Pen, run: Run, rows: Sequence[Row]) -> list[str]:
    names = [f"{len(row.instances)}: {', '.join(row.instances)}" for row in rows]
    columns = [
        Column(title="Together", name=True, items=[pen.name(name, "strong") for name in names]),
        _at_once(pen, run, rows),
        _numbers(pen, "First ms", [row.first_token_s for row in rows], factor=_MS, rank=2),
        _numbers(pen, "p95 ms", [row.first_token_tail_s for row in rows], factor=_MS, rank=5),
        _numbers(pen, "Each t/s", [row.each for row in rows], rank=3),
        _numbers(pen, "All t/s", [row.total for row in rows], style="strong"),
        _spread(pen, rows),
        _numbers(pen, "Scaling %", [row.scaling for row in rows], factor=100.0),
        _numbers(pen, "J/token", [row.joules_per_token for row in rows], rank=4),
    ]
    return flat_table(pen, columns, details=[_failed(pen, row) for row in rows])[0]


def _at_once(pen: Pen, run: Run, rows: Sequence[Row]) -> Column:
    waiting = [bool(queued(run, row)) for row in rows]
    mark = " q" if any(waiting) else ""
    texts = [f"{row.concurrency}{mark if waits else ' ' * len(mark)}" for row, waits in zip(rows, waiting, strict=True)]
    styles = ["wait" if waits else "" for waits in waiting]
    items = [pen.text(text, style) for text, style in zip(texts, styles, strict=True)]
    return Column(title="At once", items=items, right=True)


def _numbers(
    pen: Pen, title: str, figures: Sequence[Figure | None], *, factor: float = 1.0, rank: int = 0, style: str = ""
) -> Column:
    """Return a column whose numbers all have as many decimals as the least of them needs for three digits."""
    values = [None if figure is None else figure.value * factor for figure in figures]
    return _column(pen, title, values, rank=rank, style=style)


def _column(pen: Pen, title: str, values: Sequence[float | None], *, rank: int = 0, style: str = "") -> Column:
    least = min((abs(value) for value in values if value), default=0.0)
    digits = 0 if least >= 100 else 1 if least >= 10 else 2
    items = [
        pen.text(words.DASH, "dim") if value is None else pen.text(f"{value:.{digits}f}", style) for value in values
    ]
    return Column(title=title, items=items, right=True, rank=rank)


def _spread(pen: Pen, rows: Sequence[Row]) -> Column:
    """Return how far the speed of all together moved from round to round, of one round nothing."""
    known = [row.total if row.total is not None and row.total.rounds > 1 else None for row in rows]
    values = [None if one is None else (one.most - one.least) / one.value * 100 for one in known]
    return _column(pen, "Spread %", values, rank=6)


def _failed(pen: Pen, row: Row) -> list[str]:
    if not row.failed:
        return []
    return _hanging(pen, f"{row.failed} of {row.requests} failed: {row.first_error}", "bad", "└ ")


def _foot(pen: Pen, run: Run, rows: Sequence[Row]) -> list[str]:
    said = ["t/s: tokens a second; First: time to the first token, the median; Each: one request; All: all at once."]
    if any(row.scaling for row in rows):
        said.append("Scaling: beside the sum of what the same instances do each alone.")
    if any(queued(run, row) for row in rows):
        said.append("q: more at once than slots; the others wait for their turn.")
    answered = sum(row.requests - row.failed for row in rows)
    early = sum(row.stopped_early for row in rows)
    if early:
        said.append(
            f"{early} of {answered} answers ended before {run.asked.tokens} tokens: where several ran at once, the last"
            " of them had less beside them."
        )
    lines = [line for text in said for line in _hanging(pen, text, "dim")]
    return lines + [line for note in run.notes for line in _hanging(pen, note, "wait")]


# Beside another run


def _comparison(pen: Pen, comparison: Mapping[str, Any]) -> list[str]:
    partial = "" if comparison["state"] == "complete" else ", which is partial"
    lines = _hanging(pen, f"Beside the run of {_moment(comparison['time'])}{partial}:", "strong")
    figures = comparison["figures"]
    if figures:
        lines += _figures(pen, figures)
        lines += [line for text in _judging(figures) for line in _hanging(pen, text, "dim")]
    else:
        lines += _hanging(pen, "No instances were measured in the same way in both.", "wait")
    for difference in comparison["setup"]:
        lines += _hanging(pen, _difference(difference), "wait")
    if not comparison["setup"]:
        lines += _hanging(pen, "The set-up is the same.", "dim")
    return lines


def _figures(pen: Pen, figures: Sequence[Mapping[str, Any]]) -> list[str]:
    def cell(one: Mapping[str, Any], key: str) -> Spans:
        value = one[key] * _FIGURES[one["figure"]][1]
        return pen.text(f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}")

    names = [", ".join(map(str, one["instances"])) for one in figures]
    verdicts = [pen.text(*_VERDICTS[one["verdict"]]) for one in figures]
    columns = [
        Column(title="Instance", name=True, items=[pen.name(name, "strong") for name in names]),
        Column(title="At once", right=True, items=[pen.text(str(one["concurrency"])) for one in figures]),
        Column(title="What", items=[pen.text(_FIGURES[one["figure"]][0]) for one in figures]),
        Column(title="Before", right=True, rank=1, items=[cell(one, "before") for one in figures]),
        Column(title="Now", right=True, items=[cell(one, "now") for one in figures]),
        Column(title="%", right=True, items=[pen.text(f"{one['percent']:+.1f}") for one in figures]),
        Column(title="Verdict", items=verdicts),
    ]
    return flat_table(pen, columns)[0]


def _judging(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how the verdicts came to be."""
    verdicts = {one["verdict"] for one in figures}
    said = []
    if "other question" in verdicts:
        said.append("?: other requests were sent, so the figures cannot be compared.")
    if "too few rounds" in verdicts:
        said.append("?: fewer than 3 rounds do not tell how much a figure moves by itself.")
    if "within the spread" in verdicts:
        said.append("as before: it moved by less than from round to round, or by less than 2 %.")
    return said


def _moment(time: object) -> str:
    return f"{words.day(time)} {words.clock(time)}"


def _difference(difference: Mapping[str, Any]) -> str:
    what = difference["what"]
    where = "" if what in ("instances", "cards") else f"{difference['where']}: " if difference["where"] else ""
    name = f"{in_words(what)} {difference['where']}" if what in ("instances", "cards") else in_words(what)
    return f"{where}{name}: {_shown(what, difference['before'])} → {_shown(what, difference['now'])}"


def _shown(what: str, value: Any) -> str:
    if value is None:
        return words.DASH
    if what in _SIZES and isinstance(value, int):
        return format_size(value)
    if what == "digest":
        return str(value)[:12]
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())[:_LONGEST] or "none"
    return str(value)[:_LONGEST]
