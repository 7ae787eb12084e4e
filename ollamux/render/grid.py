"""Columns: which of them fit, how wide each is, and the rows they make.

Layout only: a grid does not know what its cells mean. Columns go in a planned order where the screen is narrow, and a
name that is longer than its column gets a line of its own instead of being cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ollamux.render.cells import Spans, cells, pad, width_of, wrap
from ollamux.render.pen import Pen

GAP = 2
_NAME_AT_LEAST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. `rank` 0 stays always, the highest goes first; a column that is a `name` may spill."""

    title: str
    items: Sequence[Spans]
    right: bool = False
    rank: int = 0
    name: bool = False
    enough: int = 0

    def natural(self) -> int:
        """Return the width that holds everything in the column."""
        widest = max(map(width_of, self.items), default=0)
        # A title wider than anything below it would push the figures apart only where they are names.
        return max(widest, cells(self.title))

    def wish(self) -> int:
        """Return the width below which other columns go to make room for this one."""
        natural = self.natural()
        return min(natural, max(self.enough or 24, cells(self.title))) if self.name else natural


class Grid:
    """Columns laid out for a width."""

    def __init__(self, pen: Pen, columns: Sequence[Column], width: int, *, indent: int) -> None:
        self._pen = pen
        self._room = pen.width - indent
        self.columns = [c for c in columns if c.items or c.title]
        while self._wished() > width:
            last = max(self.columns, key=lambda column: column.rank)
            if last.rank == 0:
                break
            self.columns.remove(last)
        self.widths = [column.wish() for column in self.columns]
        self._spread(width)

    def _wished(self) -> int:
        return sum(c.wish() for c in self.columns) + GAP * (len(self.columns) - 1)

    def _spread(self, width: int) -> None:
        """Give names what is left, up to what they need; take from them what is missing."""
        for number, column in enumerate(self.columns):
            if column.name:
                left = width - self.used()
                wanted = min(self.widths[number] + left, column.natural())
                self.widths[number] = max(wanted, min(_NAME_AT_LEAST, self.widths[number]))

    def used(self) -> int:
        """Return the width of the grid."""
        return sum(self.widths) + GAP * max(len(self.widths) - 1, 0)

    def widen_name(self, extra: int) -> None:
        """Make the first name column wider, so that the grid fills a table."""
        for number, column in enumerate(self.columns):
            if column.name and extra > 0:
                self.widths[number] += extra
                return

    def titles(self) -> Spans:
        """Return the line of titles."""
        line: Spans = ()
        for number, (column, width) in enumerate(zip(self.columns, self.widths, strict=True)):
            gap = "" if number == 0 else " " * GAP
            line = (*line, (gap, ""), *pad(self._pen.text(column.title, "dim"), width, right=column.right))
        return line

    def row(self, index: int) -> list[Spans]:
        """Return the lines of one row: one, or more where a name spilled."""
        lines: list[Spans] = []
        line: Spans = ()
        at = 0
        for number, (column, width) in enumerate(zip(self.columns, self.widths, strict=True)):
            if number:
                line = (*line, (" " * GAP, ""))
                at += GAP
            item = column.items[index]
            if column.name and width_of(item) > width:
                folded = wrap(item, self._room - at)
                lines.append((*line, *folded[0]))
                lines.extend((((" " * at, ""), *rest)) for rest in folded[1:])
                line = ((" " * (at + width), ""),)
            else:
                line = (*line, *pad(item, width, right=column.right))
            at += width
        return [*lines, line]


def flat_table(
    pen: Pen, columns: Sequence[Column], *, indent: int = 1, details: Sequence[list[str]] = ()
) -> tuple[list[str], int]:
    """Return the title line and the rows of a table of its own, and how wide it is."""
    grid = Grid(pen, columns, pen.width - indent, indent=indent)
    margin = (" " * indent, "")
    lines = [pen.line((margin, *grid.titles()))]
    for index in range(max((len(column.items) for column in columns), default=0)):
        lines.extend(pen.line((margin, *line)) for line in grid.row(index))
        if index < len(details):
            lines.extend(details[index])
    return lines, min(grid.used() + indent, pen.width)
