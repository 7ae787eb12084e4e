"""Single lines: an event, the prefix of a log line, and the live block of `ollamux up`.

Nothing here imports rich: these lines are printed while instances start, by a process that must stay small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

from ollamux.domain.snapshot import InstanceView, Status
from ollamux.render import words
from ollamux.render.cells import Spans, cells, pad, width_of
from ollamux.render.pen import Pen

_NO_LIMIT = 1 << 30
_WIDEST_NAME = 24
_PHASE_CELLS = 9
_PALETTE = 8
_SETTLED = {"READY": ("✓", "good"), "DEGRADED": ("!", "wait"), "FAILED": ("✗", "bad"), "STUCK": ("✗", "bad")}


def event_line(
    event: Mapping[str, object],
    *,
    color: bool,
    width: int | None,
    unicode: bool = True,
    name_width: int = 0,
    date: bool = False,
) -> str:
    """Write one event: "12:00:04  gpu0  STARTING → READY    ready after 1.2 s".

    The time is the reader's. `name_width` aligns the names of several events, `date` puts the day before the time.
    """
    pen = Pen(width=_NO_LIMIT if width is None else width, color=color, unicode=unicode)
    time = words.clock(event.get("time"))
    if date:
        time = f"{words.day(event.get('time'))} {time}"
    instance = event.get("instance")
    name = pen.name("supervisor" if instance is None else str(instance), "strong")
    old, new = event.get("from"), event.get("to")
    change: Spans = ()
    if new is not None:
        before = pen.text("" if old is None else f"{old} → ", "dim")
        change = (*before, *pen.text(str(new), words.phase_style(str(new))))
    reason = event.get("reason")
    arrow = 3 if unicode else 4
    spans: Spans = (
        *pen.text(time, "dim"),
        ("  ", ""),
        *pad(name, min(max(name_width, 4), _WIDEST_NAME)),
        ("  ", ""),
        *pad(change, 2 * 8 + arrow),
        ("  ", ""),
        *pen.text("" if reason is None else str(reason)),
    )
    return pen.line(spans)


def log_prefix(name: str, names: Sequence[str], *, color: bool = False, unicode: bool = True) -> str:
    """Return what stands before a log line of an instance: its name, aligned with the others, in its own colour."""
    pen = Pen(width=_NO_LIMIT, color=color, unicode=unicode)
    widest = max((cells(pen.plain(other)) for other in (*names, name)), default=0)
    # The place in the list keeps neighbours apart; a name outside it still has the same colour every time.
    place = list(names).index(name) if name in names else crc32(name.encode(errors="replace"))
    style = f"c{place % _PALETTE}"
    bar = "│ " if unicode else "| "
    return pen.line((*pad(pen.name(name, style), min(widest, _WIDEST_NAME)), (" ", ""), (bar.rstrip(), style))) + " "


def progress_block(
    status: Status, *, width: int, color: bool, unicode: bool, elapsed_s: float, spinner: int
) -> list[str]:
    """Draw the live block of `ollamux up`: how many are ready, and one line for each instance."""
    pen = Pen(width=width, color=color, unicode=unicode)
    now = words.epoch(status.time)
    wanted = [instance for instance in status.instances if instance.wanted != "down"]
    ready = sum(words.is_well(instance) for instance in wanted)
    badge = pen.text("SIMULATED  ", "badge-text") if status.simulated else ()
    noun = "instance" if len(wanted) == 1 else "instances"
    spaced = (
        *badge,
        *pen.text(f"Starting {len(wanted)} {noun}", "strong"),
        *pen.text(f"  {ready} ready", "good" if ready == len(wanted) else ""),
        *pen.text(f"  {words.whole_seconds(elapsed_s)}", "dim"),
    )
    names = max((cells(pen.plain(instance.name)) for instance in wanted), default=0)
    names = min(names, _WIDEST_NAME, max(width - 24, 8))
    return [pen.line(spaced), *(_progress(pen, one, names=names, now=now, spinner=spinner) for one in wanted)]


def _progress(pen: Pen, instance: InstanceView, *, names: int, now: float | None, spinner: int) -> str:
    label, style = words.state(instance)
    sign, sign_style = _SETTLED.get(label, (pen.spinner(spinner), "wait"))
    address = instance.url if pen.width >= 72 else f":{instance.port}"
    line: Spans = (
        *pen.text(sign, sign_style),
        (" ", ""),
        *pad(pen.name(instance.name, "strong"), names),
        ("  ", ""),
        *pen.name(address, "" if label == "READY" else "dim"),
        ("  ", ""),
        *pad(pen.text(label, style), _PHASE_CELLS),
        ("  ", ""),
        *pad(pen.text(words.since(instance, now), "dim"), 6, right=True),
    )
    step = words.next_step(instance, now)
    said = [part for part in (instance.reason, None if words.is_well(instance) else step) if part]
    room = pen.width - width_of(line) - 2
    if said and room >= 8:
        line = (*line, ("  ", ""), *pen.text("; ".join(said)))
    return pen.line(line)
