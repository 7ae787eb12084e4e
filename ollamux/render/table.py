"""The table of `ollamux status` and its views: a snapshot in, the text of a screen out.

It puts head, body and foot together; each is drawn in a module of its own.
"""

from __future__ import annotations

from ollamux.domain.snapshot import VIEWS, Status
from ollamux.render import words
from ollamux.render.groups import group, loaded_models
from ollamux.render.head import draw_foot, draw_head
from ollamux.render.overview import draw_body
from ollamux.render.pen import Pen
from ollamux.render.topology import draw_best_pair, draw_topology
from ollamux.render.views import draw_gpus, draw_instances, draw_models, draw_processes

_NARROWEST = 20


def status_table(
    status: Status,
    *,
    width: int,
    color: bool,
    unicode: bool,
    view: str | None = None,
    wide: bool = False,
    now: float | None = None,
) -> str:
    """Draw the status of the box, or one view of it, for a screen of that width.

    `now` is the time of day in seconds since 1970; without it the snapshot's own time holds. The text ends without a
    line break, no line is longer than the width, and without `color` it holds no escape sequence.
    """
    pen = Pen(width=max(width, _NARROWEST), color=color, unicode=unicode)
    now = words.epoch(status.time) if now is None else now
    head = draw_head(pen, status, now=now)
    if view is None:
        parts = _whole(pen, status, wide=wide, now=now)
    else:
        parts = _view(pen, status, view if view in VIEWS else "instances", wide=wide, now=now)
    return "\n".join([*head, *parts])


def _whole(pen: Pen, status: Status, *, wide: bool, now: float | None) -> list[str]:
    groups = group(status)
    models, models_width = draw_models(pen, status, full=wide, now=now) if loaded_models(status) else ([], 0)
    fill = pen.width if pen.width <= 96 else max(models_width, 80)
    width, body = fill, []
    if groups:
        drawn = draw_body(pen, status, groups, wide=wide, now=now, fill=fill)
        width = min(max(drawn.width, models_width), pen.width)
        body = [*drawn.titles, pen.rule(width, double=True), *drawn.rows]
    lines = [pen.rule(width), *body, *_gpu_trouble(pen, status, width)]
    if models:
        lines += [pen.rule(width), *models]
    return [*lines, pen.rule(width), *draw_foot(pen, status, width=pen.width)]


def _gpu_trouble(pen: Pen, status: Status, width: int) -> list[str]:
    """Return the line that says why there are no cards, or why their figures may be wrong."""
    why = status.host.gpus_error
    if status.gpus and not why:
        return []
    if status.gpus:
        return pen.hanging((*pen.text("GPUs: ", "bad"), *pen.text(why or "")), indent=1, width=width)
    reason = f"No GPU found: {why}" if why else "No GPU found."
    return pen.hanging(pen.text(reason, "wait" if why else "dim"), indent=1, width=width)


def _other_cards(pen: Pen, status: Status) -> list[str]:
    """Say which cards are there that no instance can be pinned to, and what can be done with them all the same."""
    names = ", ".join(status.host.gpus_unsupported)
    what = f'Not supported: {names}. An instance with gpus = "any" may use what ollama finds there.'
    return pen.hanging(pen.text(what, "dim"), indent=1, width=pen.width) if names else []


def _view(pen: Pen, status: Status, view: str, *, wide: bool, now: float | None) -> list[str]:
    if view == "gpus":
        drawn, count = draw_gpus(pen, status, wide=wide, now=now), len(status.gpus)
    elif view == "instances":
        drawn, count = draw_instances(pen, status, wide=wide, now=now), len(status.instances)
    elif view == "models":
        drawn, count = draw_models(pen, status, full=True, now=now), len(loaded_models(status))
    elif view == "topology":
        drawn, count = draw_topology(pen, status), len(status.gpus)
    else:
        drawn, count = draw_processes(pen, status), len(status.processes)
    lines, width = drawn
    width = min(max(width, 80), pen.width)
    # Where the cards cannot be read, neither is who is on them new.
    told = view in ("gpus", "topology") or (view == "processes" and bool(status.gpus))
    trouble = _gpu_trouble(pen, status, pen.width) if told else []
    trouble += _other_cards(pen, status) if view == "gpus" else []
    if count:
        lines = [pen.rule(width), lines[0], pen.rule(width, double=True), *lines[1:], *trouble]
    else:
        none = {"instances": "No instances.", "models": "No model is loaded.", "processes": "No processes."}
        lines = [pen.rule(width), *(trouble or pen.hanging(pen.text(none.get(view, "")), indent=1, width=width))]
    if view == "topology":
        lines += [pen.rule(width), *draw_best_pair(pen, status, width=width)]
    if view == "instances" or status.supervisor is None:
        lines += [pen.rule(width), *draw_foot(pen, status, width=pen.width)]
    return lines
