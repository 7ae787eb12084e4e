"""How often and how long each figure is taken, and the word about it on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    respawn_fleets: int = 5
    starts_of_64: int = 9
    starts_of_256: int = 5
    commands: int = 25
    stops: int = 9
    stubborn_stops: int = 3
    rest_s: float = 60.0


THOROUGH = Effort()
QUICK = Effort(respawn_fleets=2, starts_of_64=5, starts_of_256=3, commands=9, stops=4, stubborn_stops=1, rest_s=20.0)


def rounds(count: int, what: str) -> Iterator[int]:
    """Count the rounds, and say on stderr which one it is."""
    for number in range(count):
        say(f"{what}: round {number + 1} of {count}")
        yield number


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)
