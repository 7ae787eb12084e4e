"""Lines on a terminal that are drawn over again while something goes on; nothing at all in a pipe."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ollamux.cli import screen


class Block:
    """The lines that are on the screen now. `frame` counts how often they were drawn, for what turns."""

    def __init__(self, *, quiet: bool) -> None:
        self.live = screen.is_drawable(os.environ) and not quiet
        self.frame = 0
        self._height = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Put these in the place of the ones before."""
        if self.live:
            self.frame += 1
            self.clear()
            screen.write("".join(line + "\n" for line in lines))
            self._height = len(lines)

    def clear(self) -> None:
        """Take them away."""
        if self._height:
            screen.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0
