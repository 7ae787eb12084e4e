"""The list of all models, and the one line that shows how far a load or a pull is. Strings only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ollamux.domain.modellist import TROUBLED, Row
from ollamux.domain.text import format_duration, format_size
from ollamux.render import words
from ollamux.render.cells import Spans
from ollamux.render.grid import Column, flat_table
from ollamux.render.pen import Pen

_BAR_CELLS = 24
_NO_LIMIT = 1 << 30
_BY = {"hand": " by hand", "placement": " by plan"}


def models_table(rows: Sequence[Row], *, width: int, color: bool, unicode: bool, now: float, simulated: bool) -> str:
    """Draw the list, below each model what is the matter with it."""
    pen = Pen(width=width, color=color, unicode=unicode)
    several = len({row.store for row in rows}) > 1

    def column(title: str, write: Callable[[Row], str], *, right: bool = False, rank: int = 0) -> Column:
        said = [write(row) for row in rows]
        items = [pen.text(text or words.DASH, "" if text else "dim") for text in said]
        return Column(title=title, items=items, right=right, rank=rank)

    columns = [
        Column(title="Model", name=True, items=[pen.name(row.name, "strong") for row in rows]),
        column("Size", lambda row: "" if row.size_bytes is None else format_size(row.size_bytes), right=True, rank=1),
        Column(title="Loaded on", items=[_loaded(pen, row) for row in rows]),
        column("Until", lambda row: ", ".join(words.until(each["expires_at"], now) for each in row.loaded), rank=2),
        Column(title="Kept on", items=[_kept(pen, row) for row in rows]),
    ]
    if several:
        columns.append(Column(title="Store", name=True, rank=3, items=[pen.name(row.store) for row in rows]))
    lines, _ = flat_table(pen, columns, details=[_details(pen, row, now) for row in rows])
    if simulated:
        lines.insert(0, pen.line((("", ""), *pen.text("SIMULATED", "badge-text"))))
    if not rows:
        lines = [*lines[: simulated and 1], "no models: ollamux pull NAME fetches one"]
    return "\n".join(lines) + "\n"


def _loaded(pen: Pen, row: Row) -> Spans:
    names = [each["instance"] for each in row.loaded]
    if row.loading:
        return pen.text(", ".join([*names, *(f"{each['instance']} (loading)" for each in row.loading)]), "wait")
    return pen.text(", ".join(names)) if names else pen.text(words.DASH, "dim")


def _kept(pen: Pen, row: Row) -> Spans:
    if not row.pins and row.no_place is None:
        return pen.text(words.DASH, "dim")
    kinds = dict.fromkeys(each["by"] for each in row.pins)
    said = [", ".join(each["instance"] for each in row.pins if each["by"] == by) + _BY.get(by, "") for by in kinds]
    return pen.text(("! " if row.troubled else "") + (", ".join(said) or "no place"), "bad" if row.troubled else "")


def _details(pen: Pen, row: Row, now: float) -> list[str]:
    said: list[Spans] = []
    if row.installed is False and row.loaded:
        said.append(pen.text("gone from the store: requests for it are refused", "wait"))
    elif row.installed is False and row.pull is None and row.no_place is None:
        said.append(pen.text(f"not in the store: ollamux pull {row.name}", "bad"))
    if row.pull is not None:
        said.append(pen.text(f"is being fetched: {pull_text(row.pull)}", "wait"))
    if row.no_place is not None:
        said.append(pen.text(f"no place: {row.no_place}", "bad"))
    for pin in row.pins:
        if pin["state"] in ("kept", "over", "loading", "fetching") or pin["reason"] is None:
            continue
        when = words.epoch(pin["next_at"])
        again = "" if when is None else f"; it is tried again in {format_duration(max(0.0, when - now))}"
        style = "bad" if pin["state"] in TROUBLED else "wait"
        said.append(pen.text(f"{pin['instance']}: {pin['state']}: {pin['reason']}{again}", style))
    return [line for spans in said for line in pen.hanging(spans, indent=1, width=min(pen.width, 100), lead="└ ")]


def pull_text(pull: Mapping[str, Any]) -> str:
    """Say in a few words how far a pull is."""
    done, total = pull["completed_bytes"], pull["total_bytes"]
    if not total or done is None:
        return str(pull["status"] or "asked for")
    return f"{done * 100 // total} % of {format_size(total)}"


def load_line(name: str, on: str, seconds: float | None, *, pen: Pen, frame: int) -> str:
    """Draw the line that shows that something is being loaded."""
    since = "" if seconds is None else f"  {words.whole_seconds(seconds)}"
    what = "waits for its turn on" if seconds is None else "is being loaded on"
    return pen.line((*pen.text(pen.spinner(frame), "wait"), (" ", ""), *pen.text(f"{name} {what} {on}{since}")))


def pull_line(name: str, pull: Mapping[str, Any], *, pen: Pen, frame: int, speed: float | None) -> str:
    """Draw how far a pull is: a bar, the bytes, the speed and the time that is left."""
    done, total = pull["completed_bytes"], pull["total_bytes"]
    head: Spans = (*pen.text(pen.spinner(frame), "wait"), (" ", ""), *pen.name(name, "strong"), ("  ", ""))
    if not total or done is None:
        return pen.line((*head, *pen.text(str(pull["status"] or "asked for"))))
    bar = pen.bar(done / total, _BAR_CELLS) if pen.width >= 72 else ()
    told = f"  {done * 100 // total:3d} %  {format_size(done)} of {format_size(total)}"
    if done >= total:
        told += f"  {pull['status']}"
    elif speed:
        told += f"  {format_size(int(speed))}/s  {format_duration((total - done) / speed)} left"
    return pen.line((*head, *bar, *pen.text(told)))
