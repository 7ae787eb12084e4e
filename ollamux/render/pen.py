"""The pen: turns text from anywhere into safe spans, and lines of spans into strings with or without colour.

Every string that comes from outside passes `Pen.text`; nothing else in this package makes spans of foreign text. No
figures and no layout here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from ollamux.domain.text import safe_text
from ollamux.render.cells import Span, Spans, cut_spans, wrap

_SGR = {
    "good": "32",
    "wait": "33",
    "bad": "1;31",
    "dim": "2",
    "strong": "1",
    "badge": "1;7;35",
    "badge-text": "1;35",
    "key": "1;36",
    "full": "33",
    "brim": "31",
    "fill": "36",
    "c0": "36",
    "c1": "33",
    "c2": "35",
    "c3": "34",
    "c4": "32",
    "c5": "1;36",
    "c6": "1;33",
    "c7": "1;35",
}

_ASCII = str.maketrans(
    {
        "–": "-",
        "—": "--",
        "…": "...",
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "→": "->",
        "↑": "^",
        "↓": "v",
        "└": "-",
        "×": "x",
        "·": ".",
        "─": "-",
        "═": "=",
        "━": "-",
        "✓": "+",
        "✗": "x",
        "█": "#",
        "│": "|",
        "\u00a0": " ",
        "\u202f": " ",
        "µ": "u",
    }
)

_EIGHTHS = " ▏▎▍▌▋▊▉"
_SPARK = "▁▂▃▄▅▆▇█"
_ASCII_SPARK = "_.,-=+*#"
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_SPINNER = "|/-\\"
_LONGEST = 2000
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """How to draw: the width of the screen, with or without colour, in Unicode or in ASCII."""

    width: int
    color: bool
    unicode: bool

    @property
    def mark(self) -> str:
        """Return what stands for text that was cut off."""
        return "…" if self.unicode else "~"

    def plain(self, text: str) -> str:
        """Return text from anywhere as it may be printed: no control characters, in ASCII where that is asked for."""
        if text.isascii() and text.isprintable() and len(text) <= _LONGEST:
            return text
        text = safe_text(text, limit=_LONGEST)
        if not self.unicode:
            return ascii_text(text)
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else _escape(c) for c in text)

    def text(self, text: str, style: str = "") -> Spans:
        """Return text from anywhere as spans."""
        text = self.plain(text)
        return ((text, style),) if text else ()

    def name(self, text: str, style: str = "") -> Spans:
        """Return a name from anywhere as spans; one of absurd length is cut, so that it cannot fill the screen."""
        return self.text(safe_text(text, limit=_LONGEST_NAME), style)

    def line(self, spans: Spans) -> str:
        """Return one line for the screen: never longer than it, without trailing blanks."""
        kept = list(cut_spans(spans, self.width, self.mark))
        while kept:
            text, style = kept.pop()
            text = text.rstrip(" ")
            if text:
                kept.append((text, style))
                break
        if not self.color:
            return "".join(text for text, _ in kept)
        return "".join(
            f"\x1b[{_SGR[style]}m{text}\x1b[0m" if style and text.strip(" ") else text for text, style in _merged(kept)
        )

    def rule(self, width: int, *, double: bool = False) -> str:
        """Return a rule across the table."""
        return self.line(self.text(("═" if double else "─") * width, "dim"))

    def hanging(self, spans: Spans, *, indent: int, width: int, lead: str = "") -> list[str]:
        """Return the spans wrapped by words under one indent, with the lead before the first line."""
        first = self.plain(lead)
        hang = indent + len(first)
        blank: Span = (" " * hang, "")
        lines = wrap(spans, width - hang)
        return [
            self.line((((" " * indent + first), "dim"), *line) if number == 0 and lead else (blank, *line))
            for number, line in enumerate(lines)
        ]

    def bar(self, fraction: float, width: int) -> Spans:
        """Return a bar of that width, filled to the fraction of it, in eighths of a column where they can be drawn."""
        fraction = min(max(fraction, 0.0), 1.0)
        style = "fill" if fraction < 0.9 else "full" if fraction < 0.97 else "brim"
        if not self.unicode:
            filled = round(fraction * width)
            return (("#" * filled, style), ("-" * (width - filled), "dim"))
        whole, eighth = divmod(round(fraction * width * 8), 8)
        # A card that holds anything shows it: an empty bar means empty.
        if fraction > 0 and not whole and not eighth:
            eighth = 1
        filled_text = "█" * whole + (_EIGHTHS[eighth] if eighth else "")
        return ((filled_text, style), (" " * (width - len(filled_text)), ""))

    def spark(self, percents: Sequence[float | None], width: int) -> Spans:
        """Return a line of that width for the last of the values, the newest at the right; the unknown is a gap."""
        kept = percents[-width:] if width > 0 else ()
        marks = _SPARK if self.unicode else _ASCII_SPARK
        last = len(marks) - 1
        drawn = "".join(" " if v is None else marks[min(max(round(v * last / 100), 0), last)] for v in kept)
        return (self.unseen(width - len(drawn)), (drawn, "fill"))

    def unseen(self, width: int) -> Span:
        """Return what stands before the first of the values, and leads the eye to them."""
        return (("·" if self.unicode else " ") * max(width, 0), "dim")

    def spinner(self, frame: int) -> str:
        """Return the sign of something in progress."""
        frames = _SPINNER if self.unicode else _ASCII_SPINNER
        return frames[frame % len(frames)]


def ascii_text(text: str) -> str:
    """Write text in ASCII, as near to what it was as that goes."""
    text = text.replace(" °", " ").replace("°", "").translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _merged(spans: list[Span]) -> Iterator[Span]:
    """Join neighbours of one style: a line with fewer escapes is quicker to draw and easier to grep."""
    for style, run in groupby(spans, key=itemgetter(1)):
        yield "".join(text for text, _ in run), style


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
