"""The head and the foot of every screen: what runs here, in which versions, how it is, and what to do next.

SIMULATED stands first in the head of every screen of a simulation. No tables here.
"""

from __future__ import annotations

from ollamux.domain.snapshot import InstanceView, Status
from ollamux.render import words
from ollamux.render.cells import Spans, cells, width_of
from ollamux.render.pen import Pen

_GAPS = (4, 3, 2)


def draw_head(pen: Pen, status: Status, *, now: float | None) -> list[str]:
    """Return the head: what runs and since when, and the versions below it; on one line where that fits."""
    ours, versions = _items(pen, status, now)
    host = pen.name(status.host.name, "dim")
    named = (host,) if host else ()
    # The machine's name is not worth a narrower gap.
    arrangements = (
        ([(*ours, *versions, *named)], _GAPS[:1]),
        ([(*ours, *versions)], _GAPS),
        ([(*ours, *named), versions], _GAPS[:1]),
        ([ours, versions], _GAPS),
    )
    for lines, gaps in arrangements:
        for gap in gaps:
            drawn = [_joined(line, gap) for line in lines]
            if all(width_of(line) < pen.width for line in drawn):
                return [pen.line(((" ", ""), *line)) for line in drawn if line]
    return _packed(pen, (*ours, *versions))


def _items(pen: Pen, status: Status, now: float | None) -> tuple[tuple[Spans, ...], tuple[Spans, ...]]:
    ours: list[Spans] = [pen.text("SIMULATED", "badge-text")] if status.simulated else []
    ours += [pen.name(f"ollamux {status.version}", "strong"), _supervisor(pen, status, now)]
    versions: list[Spans] = []
    ollama = sorted({i.ollama_version for i in status.instances if i.ollama_version})
    if ollama:
        versions.append(pen.name("ollama " + ", ".join(ollama)))
    if status.host.driver:
        versions.append(pen.name(f"driver {status.host.driver}"))
    if status.host.cuda:
        versions.append(pen.name(f"CUDA {status.host.cuda}"))
    return tuple(ours), tuple(versions)


def _supervisor(pen: Pen, status: Status, now: float | None) -> Spans:
    supervisor = status.supervisor
    if supervisor is None:
        return pen.text("not running", "bad")
    if supervisor.state != "running":
        return pen.name(supervisor.state, "wait")
    taken = words.epoch(status.time)
    later = max(now - taken, 0.0) if now is not None and taken is not None else 0.0
    return pen.text(f"up {words.whole_seconds(supervisor.uptime_s + later)}")


def _joined(items: tuple[Spans, ...], gap: int) -> Spans:
    line: Spans = ()
    for item in items:
        line = (*line, (" " * gap, ""), *item) if line else item
    return line


def _packed(pen: Pen, items: tuple[Spans, ...]) -> list[str]:
    lines: list[Spans] = [()]
    for item in items:
        longer = _joined((lines[-1], item), 2) if lines[-1] else item
        if lines[-1] and width_of(longer) >= pen.width:
            lines.append(item)
        else:
            lines[-1] = longer
    return [pen.line(((" ", ""), *line)) for line in lines]


def draw_foot(pen: Pen, status: Status, *, width: int) -> list[str]:
    """Return the foot: how many are READY, and the command that shows why where some are not."""
    if status.supervisor is None:
        start = "ollamux up --simulate N" if status.simulated else "ollamux up"
        return _say(pen, width, pen.text("No supervisor is running.", "bad"), start, "starts it")
    wanted = [i for i in status.instances if i.wanted != "down"]
    ready = [i for i in wanted if words.is_well(i)]
    sorry = [i for i in wanted if not words.is_well(i)]
    lines: list[str] = []
    if not status.instances:
        lines += _say(pen, width, pen.text("No instances."), "ollamux init", "writes a configuration")
    else:
        noun = "instance" if len(wanted) == 1 else "instances"
        style = "good" if not sorry else "bad" if any(words.state(i)[1] == "bad" for i in sorry) else "wait"
        text = pen.text(f"{len(ready)} of {len(wanted)} {noun} READY.", style)
        down = len(status.instances) - len(wanted)
        if down:
            text = (*text, *pen.text(f"  {down} stopped as asked.", "dim"))
        lines += _say(pen, width, text, _why(pen, status, sorry), "shows why" if sorry else "")
    if status.supervisor.config_changed:
        changed = pen.text("The configuration has changed.", "wait")
        lines += _say(pen, width, changed, _command(status, "reload"), "applies it")
    return lines


def _why(pen: Pen, status: Status, sorry: list[InstanceView]) -> str:
    if not sorry:
        return ""
    named = _command(status, "logs " + " ".join(pen.plain(i.name) for i in sorry))
    return named if len(sorry) <= 3 and cells(named) <= 40 else _command(status, "events")


def _command(status: Status, words_of_it: str) -> str:
    return f"ollamux {words_of_it}{' --simulated' if status.simulated else ''}"


def _say(pen: Pen, width: int, text: Spans, command: str, purpose: str) -> list[str]:
    """Return a sentence and the command that follows from it, on one line where they fit."""
    order = pen.text(command, "key")
    if not order:
        return pen.hanging(text, indent=1, width=width)
    rest = (*order, *pen.text(f"  {purpose}"))
    if width_of(text) + width_of(rest) + 3 <= width:
        return [pen.line(((" ", ""), *text, ("  ", ""), *rest))]
    return [*pen.hanging(text, indent=1, width=width), *pen.hanging(rest, indent=1, width=width)]
