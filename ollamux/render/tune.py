"""The picture of a tune: every step in a table, speed and memory over the values as a plot, and what was found.

Layout only; the figures are the search's.
"""

from __future__ import annotations

from collections.abc import Sequence

from ollamux.domain.text import format_duration, format_size
from ollamux.domain.tune import Outcome, Step, Task, Tuned, What
from ollamux.render import words
from ollamux.render.cells import Spans, cells, pad
from ollamux.render.grid import Column, flat_table
from ollamux.render.pen import Pen

_WIDEST = 110
_TITLES = {What.LAYERS: "num_gpu", What.CONTEXT: "num_ctx", What.PARALLEL: "Slots"}
_UNITS = {What.LAYERS: "layers", What.CONTEXT: "tokens", What.PARALLEL: "slots"}
_KEYS = {What.LAYERS: "num_gpu", What.CONTEXT: "num_ctx", What.PARALLEL: "num_parallel"}
_OUTCOMES = {
    Outcome.WORKS: ("works", "good"),
    Outcome.NO_MEMORY: ("no memory", "bad"),
    Outcome.SPILLED: ("spills", "wait"),
    Outcome.TOO_FULL: ("too full", "wait"),
    Outcome.FAILED: ("fails", "bad"),
    Outcome.TOO_SLOW: ("too slow", "wait"),
}
_WIDEST_BAR = 30
_SHOWN = 6
"""So many steps are shown while it goes on: what is higher than a screen cannot be drawn over."""


def draw_tuned(pen: Pen, tuned: Tuned) -> str:
    """Return the whole picture."""
    lines = [pen.line(pen.text("SIMULATED", "badge"))] if tuned.simulated else []
    lines += _hanging(pen, _head(tuned.task), "strong")
    if tuned.steps:
        lines += ["", *steps_table(pen, tuned.task, tuned.steps)]
    if any(step.works for step in tuned.steps):
        lines += ["", *_plot(pen, tuned.task, tuned.steps)]
    lines += ["", *_conclusion(pen, tuned)]
    return "\n".join(lines) + "\n"


def _head(task: Task) -> str:
    model, unit = words.short_model(task.model), _UNITS[task.what]
    kept = [] if task.what is What.CONTEXT else [f"a context of {task.context}"]
    kept += [] if task.what is What.PARALLEL or task.parallel == 1 else [f"{task.parallel} slots"]
    kept += [f"a {task.cache_type} cache"]
    kept += [] if task.headroom_bytes is None else [f"{format_size(task.headroom_bytes)} kept free"]
    return f"{model} on {task.instance}: the most {unit}, with {', '.join(kept)}"


def steps_table(pen: Pen, task: Task, steps: Sequence[Step]) -> list[str]:
    """Return a line for each step, in the order they were tried."""
    columns = [
        Column(title=_TITLES[task.what], right=True, items=[_value(pen, step) for step in steps]),
        Column(title="", items=[pen.text(*_OUTCOMES[step.outcome]) for step in steps]),
        _right(pen, "Load", [_seconds(step.load_s) for step in steps], 3),
        _right(pen, "Prompt/s", [_rate(step.prompt_rate) for step in steps], 2),
        _right(pen, "Tokens/s", [_rate(step.rate) for step in steps], 0),
        _right(pen, "Took", [_seconds(step.seconds) for step in steps], 5),
    ]
    if task.cards:
        columns[2:2] = [
            _right(pen, "On card", [_layers(step) for step in steps], 4),
            _right(pen, "Used", [words.size(step.memory_used_bytes) for step in steps], 1),
            _right(pen, "Free", [words.size(step.memory_free_bytes) for step in steps], 3),
        ]
    elif any(step.host_buffers_bytes is not None for step in steps):
        columns[2:2] = [_right(pen, "Buffers", [words.size(step.host_buffers_bytes) for step in steps], 1)]
    return flat_table(pen, columns, details=[_why(pen, step) for step in steps])[0]


def _right(pen: Pen, title: str, texts: Sequence[str], rank: int) -> Column:
    return Column(title=title, right=True, rank=rank, items=[pen.text(text) for text in texts])


def _value(pen: Pen, step: Step) -> Spans:
    return (*(pen.text("created ", "dim") if step.verifies else ()), *pen.text(str(step.value), "strong"))


def _layers(step: Step) -> str:
    return words.DASH if step.layers_offloaded is None else f"{step.layers_offloaded}/{step.layers_total}"


def _seconds(value: float | None) -> str:
    return words.DASH if value is None else f"{value:.1f} s" if value < 60 else format_duration(value)


def _rate(value: float | None) -> str:
    return words.DASH if value is None else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _why(pen: Pen, step: Step) -> list[str]:
    if step.reason is None:
        return []
    return pen.hanging(pen.text(step.reason, "dim"), indent=4, width=min(pen.width, _WIDEST), lead="└ ")


# The plot


def _plot(pen: Pen, task: Task, steps: Sequence[Step]) -> list[str]:
    """Return speed and memory over the values, a line for each; of what does not work, as far as it got."""
    shown = sorted((step for step in steps if not step.verifies), key=lambda step: step.value)
    total = sum(card.total_bytes for card in task.cards)
    fastest = max((step.rate or 0.0 for step in shown), default=0.0)
    title = _TITLES[task.what]
    left = max(cells(title), *(len(str(step.value)) for step in shown))
    figures = (max(len(_rate(step.rate)) for step in shown), max(len(_memory(task, step)) for step in shown))
    room = min(pen.width, _WIDEST) - 1 - left - sum(figures) - 6
    bar = max(min(room // 2, _WIDEST_BAR), 0)
    most = total or max((_size(task, step) or 0 for step in shown), default=0)
    head = (
        *pad(pen.text(title, "dim"), left, right=True),
        *pen.text("  "),
        *pad(pen.text("Tokens/s", "dim"), bar + 1 + figures[0]),
        *pen.text("  "),
        *pen.text("Memory of the card" if total else "Buffers", "dim"),
    )
    lines = [pen.line((*pen.text(" "), *head))]
    for step in shown:
        size = _size(task, step)
        line = (
            *pen.text(" "),
            *pad(pen.text(str(step.value), "strong"), left, right=True),
            *pen.text("  "),
            *_bar(pen, (step.rate or 0.0) / fastest if fastest else 0.0, bar, known=step.rate is not None),
            *pen.text(" "),
            *pad(pen.text(_rate(step.rate)), figures[0], right=True),
            *pen.text("  "),
            *_bar(pen, (size or 0) / most if most else 0.0, bar, known=size is not None),
            *pen.text(" "),
            *pen.text(_memory(task, step)),
        )
        lines.append(pen.line(line))
    return lines


def _bar(pen: Pen, fraction: float, width: int, *, known: bool) -> Spans:
    return pen.bar(fraction, width) if known else pen.text(" " * width)


def _size(task: Task, step: Step) -> int | None:
    return step.memory_used_bytes if task.cards else step.host_buffers_bytes


def _memory(task: Task, step: Step) -> str:
    size = _size(task, step)
    if size is None or not step.works:
        return _OUTCOMES[step.outcome][0]
    return format_size(size)


# What was found


def _conclusion(pen: Pen, tuned: Tuned) -> list[str]:
    task, best = tuned.task, tuned.best
    loads = f"{_loads(tuned)}, {format_duration(tuned.seconds)}"
    key = _KEYS[task.what]
    if not tuned.complete:
        so_far = (
            "nothing has worked so far" if best is None else f"{key} {best.value} is the largest that worked so far"
        )
        return _hanging(pen, f"Not finished: {so_far} ({loads}).", "wait")
    if best is None:
        return _hanging(pen, f"Nothing works: not even {key} {task.values[0]} ({loads}).", "bad")
    lines = _hanging(pen, f"{key} {best.value} is the largest that works ({loads}): {_limit(tuned)}.", "good")
    if task.what is What.PARALLEL:
        lines += _hanging(pen, f"In the configuration, for {task.instance}: num_parallel = {best.value}", "")
    if tuned.created is not None:
        lines += _hanging(pen, f"{tuned.created} is created with it, and was loaded and asked as it is.", "good")
    return lines


def _loads(tuned: Tuned) -> str:
    return f"{tuned.loads} load{'' if tuned.loads == 1 else 's'}"


def _limit(tuned: Tuned) -> str:
    """Say why it is not more."""
    task, best, obstacle = tuned.task, tuned.best, tuned.obstacle
    if obstacle is not None:
        return f"{obstacle.value} {_PLAINLY[obstacle.outcome]}"
    if task.what is What.LAYERS:
        return "all layers are on the card"
    if task.what is What.CONTEXT and best is not None and best.value == task.trained_context:
        return "the model was trained for no more"
    return "no more was asked for"


_PLAINLY = {
    Outcome.WORKS: "works",
    Outcome.NO_MEMORY: "runs out of memory",
    Outcome.SPILLED: "does not go to the card as a whole",
    Outcome.TOO_FULL: "leaves less free than is to be kept",
    Outcome.FAILED: "fails",
    Outcome.TOO_SLOW: "is not done in time",
}


def summary(tuned: Tuned) -> list[str]:
    """Return what a Modelfile says of where its figures come from."""
    task, best = tuned.task, tuned.best
    if best is None:
        return []
    cards = ", ".join(words.gpu_name(card.name) for card in task.cards) or "the CPU"
    version = "" if task.ollama_version is None else f", ollama {task.ollama_version}"
    lines = [f"ollamux tune, {tuned.time[:10]}: {task.model} on {task.instance} ({cards}){version}"]
    lines.append(f"{_KEYS[task.what]} {best.value} is the largest that works, in {_loads(tuned)}: {_limit(tuned)}")
    slots = best.value if task.what is What.PARALLEL else task.parallel
    filled = f"context of {best.value if task.what is What.CONTEXT else task.context}, filled"
    measured = [filled if slots == 1 else f"{filled} in {slots} slots at once"]
    if best.layers_offloaded is not None:
        measured.append(f"{best.layers_offloaded} of {best.layers_total} layers on the card")
    if best.memory_used_bytes is not None and best.memory_free_bytes is not None:
        measured.append(f"{format_size(best.memory_used_bytes)} used, {format_size(best.memory_free_bytes)} free")
    if best.rate is not None:
        measured.append(f"{_rate(best.prompt_rate)} prompt tokens/s, {_rate(best.rate)} tokens/s")
    half = (len(measured) + 1) // 2
    return [*lines, f"measured: {', '.join(measured[:half])},", f"{', '.join(measured[half:])}"]


def progress(pen: Pen, task: Task, steps: Sequence[Step], doing: str, frame: int, value: int | None) -> list[str]:
    """Return what a terminal shows while it goes on."""
    lines = _hanging(pen, _head(task), "strong")
    lines += ["", *steps_table(pen, task, steps[-_SHOWN:])] if steps else []
    what = "" if value is None else f"{_KEYS[task.what]} {value}: "
    said = (*pen.text(f" {pen.spinner(frame)} ", "key"), *pen.text(f"{what}{doing}"))
    return [*lines, pen.line(said)]


def _hanging(pen: Pen, text: str, style: str) -> list[str]:
    return pen.hanging(pen.text(text, style), indent=1, width=min(pen.width, _WIDEST))
