"""What shall happen, and when: decided by the seed alone, long before it does. Knows kinds by name only."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

STEPS_A_ROUND = 9
ROUND_S = 3.0
STOP_EVERY = 5
"""Each fifth round is one with on_death = "stop"."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault or command. `instance` and `spice` are numbers; what they mean depends on what is there by then."""

    at: float
    kind: str
    instance: int
    spice: float
    hold_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """Some seconds of faults; then all is healed and has to become well."""

    number: int
    on_death: str
    steps: tuple[Step, ...]


def rounds(seed: int, kinds: Sequence[str]) -> Iterator[Round]:
    """Yield rounds for ever. A kind that was planned seldom is likelier, so that all come in the first few rounds."""
    rng = random.Random(seed)
    planned: Counter[str] = Counter()
    number = 0
    while True:
        number += 1
        chosen: list[str] = []
        for _ in range(STEPS_A_ROUND):
            fewest = min(planned[kind] for kind in kinds)
            weights = [0.25 ** min(planned[kind] - fewest, 8) for kind in kinds]
            kind = rng.choices(kinds, weights)[0]
            planned[kind] += 1
            chosen.append(kind)
        moments = sorted(rng.uniform(0.0, ROUND_S) for _ in chosen)
        steps = tuple(
            Step(at, kind, rng.randrange(1 << 16), rng.random(), rng.uniform(0.3, 2.0))
            for at, kind in zip(moments, chosen, strict=True)
        )
        yield Round(number, "stop" if number % STOP_EVERY == 0 else "keep", steps)
