"""How many columns text takes on a terminal, and cutting, padding and wrapping by that measure.

No colours and no meaning here. rich has such a table too, but importing it costs more than the drawing of a status.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

Span = tuple[str, str]
"""Text that is safe to print, and the name of its style ("" for none)."""

Spans = tuple[Span, ...]

_ZERO = frozenset(["Mn", "Me", "Cf"])


@lru_cache(maxsize=4096)
def _character(character: str) -> int:
    if unicodedata.category(character) in _ZERO:
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cells(text: str) -> int:
    """Return how many columns the text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_character, text))


def width_of(spans: Iterable[Span]) -> int:
    """Return how many columns the spans take together."""
    return sum(cells(text) for text, _ in spans)


def take(text: str, width: int) -> tuple[str, str]:
    """Split the text after as many characters as fit the width."""
    if text.isascii():
        return text[:width], text[width:]
    used = 0
    for position, character in enumerate(text):
        used += _character(character)
        if used > width:
            return text[:position], text[position:]
    return text, ""


def cut(text: str, width: int, mark: str) -> str:
    """Return the text, shortened to the width with the mark at its end where it is longer."""
    if cells(text) <= width:
        return text
    if width <= cells(mark):
        return mark[: max(width, 0)]
    return take(text, width - cells(mark))[0].rstrip() + mark


def cut_spans(spans: Spans, width: int, mark: str) -> Spans:
    """Return the spans, shortened to the width with the mark at their end where they are longer."""
    if width_of(spans) <= width:
        return spans
    kept: list[Span] = []
    left = width
    for text, style in spans:
        taken = cells(text)
        # The last span that fits must leave room for the mark: what follows it does not fit whole.
        if taken > left - cells(mark):
            shorter = take(text, max(left - cells(mark), 0))[0].rstrip() + mark
            kept.append((take(shorter, left)[0], style))
            break
        kept.append((text, style))
        left -= taken
    return tuple(kept)


def pad(spans: Spans, width: int, *, right: bool = False) -> Spans:
    """Return the spans with blanks up to the width, before them where they are right-aligned."""
    missing = width - width_of(spans)
    if missing <= 0:
        return spans
    blank: Span = (" " * missing, "")
    return (blank, *spans) if right else (*spans, blank)


def wrap(spans: Spans, width: int) -> list[Spans]:
    """Break the spans into lines by words; a word longer than a line is broken where the line ends."""
    width = max(width, 2)
    lines: list[list[Span]] = [[]]
    used = 0
    for text, style in spans:
        # A span that starts without a blank continues the word before it.
        for number, word in enumerate(text.split(" ")):
            joined = number == 0 or not used
            if used + cells(word) + (not joined) > width and used:
                lines.append([])
                used, joined = 0, True
            while cells(word) > width:
                piece, word = take(word, width)
                lines[-1].append((piece, style))
                lines.append([])
            if not joined:
                word = " " + word
            if word:
                lines[-1].append((word, style))
                used += cells(word)
    return [tuple(line) for line in lines if line]
