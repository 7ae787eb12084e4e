"""Measure what cards use, over and over, through a helper process of one's own. A driver that hangs is soon given up.

Cards that count their energy are asked at the beginning and the end; of the others the power is to be sampled between.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from pathlib import Path

from ollamux.domain.energy import Energy, Reading, used
from ollamux.gpu.client import GpuReader
from ollamux.gpu.helper import ENERGY
from ollamux.gpu.spawn import helper_spawn

SAMPLE_S = 0.2


class Meter:
    """Measures some cards between `begin` and `end`. `is_sampling`: `look` is to be called meanwhile."""

    def __init__(self, source: str, box: Path | None) -> None:
        self._reader = GpuReader(request=ENERGY)
        self._reader.start(helper_spawn(source, box))
        self._readings: dict[str, list[Reading]] = {}
        self._looked_at = 0.0

    @property
    def is_sampling(self) -> bool:
        """Whether one of the cards does not count, so that its power is all there is."""
        return any(readings and readings[-1].counted_j is None for readings in self._readings.values())

    def begin(self, uuids: Sequence[str]) -> None:
        """Begin to measure these cards."""
        self._readings = {uuid: [] for uuid in uuids}
        self.look()

    def tick(self) -> None:
        """Take a sample where one is needed and due."""
        if self.is_sampling and time.monotonic() - self._looked_at >= SAMPLE_S:
            self.look()

    def end(self) -> dict[str, Energy | None]:
        """Return what each card used since `begin`."""
        self.look()
        return {uuid: used(readings) for uuid, readings in self._readings.items()}

    def look(self) -> None:
        """Ask the cards now."""
        reader, now = self._reader, time.monotonic()
        self._looked_at = now
        if not self._readings or not reader.ask(now):
            return
        while (deadline := reader.deadline()) is not None and reader.fileno() >= 0:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                reader.expire(time.monotonic())
                return
            if select.select([reader.fileno()], [], [], left_s)[0]:
                inventory = reader.on_readable(time.monotonic())
                if inventory is not None:
                    break
        else:
            return
        at = time.monotonic()
        for gpu in inventory.gpus:
            if gpu.uuid in self._readings and gpu.mig_parent is None:  # what a slice uses, its card alone could tell
                self._readings[gpu.uuid].append(Reading(at=at, counted_j=gpu.energy_j, power_w=gpu.power_w))

    def close(self) -> None:
        """End the helper."""
        self._reader.stop()
