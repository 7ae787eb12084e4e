"""The energy that the cards of a simulated box have used: their power, added up over time. As a counter in the card.

A box has no process of its own, so whoever changes what runs on it has the time until then counted first, and so has
whoever reads. What is lost is the moment between the end of a process that was killed and the next of these.
"""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import replace
from pathlib import Path

from ollamux.gpu.model import Gpu, Inventory
from ollamux.gpu.simulated import read_inventory, sample, write_atomically

_LOCK, _COUNTED = ".energy.lock", "energy.json"


def count_energy(box: Path) -> dict[str, float]:
    """Count the time since the last count at the power of now; return the joules of each card since its first."""
    with (box / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = time.monotonic()
        before, joules = _read(box)
        for card in sample(box):
            if card.power_w is not None:
                since = 0.0 if before is None else max(0.0, now - before)
                joules[card.uuid] = joules.get(card.uuid, 0.0) + card.power_w * since
        write_atomically(box / _COUNTED, json.dumps({"at": now, "joules": joules}))
    return joules


def _read(box: Path) -> tuple[float | None, dict[str, float]]:
    try:
        plain = json.loads((box / _COUNTED).read_text(encoding="utf-8"))
        return float(plain["at"]), {str(uuid): float(value) for uuid, value in plain["joules"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None, {}


def read_energy(box: Path) -> Inventory:
    """Return what the driver would tell, with the energy of each card. A slice has no counter of its own."""
    inventory = read_inventory(box)
    joules = count_energy(box)
    return replace(inventory, gpus=tuple(_with(gpu, joules) for gpu in inventory.gpus))


def _with(gpu: Gpu, joules: dict[str, float]) -> Gpu:
    if gpu.mig_parent is not None or gpu.vendor != "nvidia" or gpu.state != "ok":
        return gpu
    return replace(gpu, energy_j=joules.get(gpu.uuid))
