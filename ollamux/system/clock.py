"""Time: monotonic for every decision, the wall clock for display only."""

from __future__ import annotations

import time

monotonic = time.monotonic


def wall() -> float:
    """Return seconds since the epoch. Never used to decide when something happens: it can be set."""
    return time.time()  # noqa: TID251 - the one place


def rfc3339(epoch_s: float) -> str:
    """Write a moment as UTC with milliseconds, "2026-01-31T12:00:00.000Z"."""
    milliseconds = round(epoch_s * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{whole}.{milliseconds % 1000:03d}Z"


def asleep_s() -> float:
    """Return how long the machine has been suspended since boot, as far as the kernel tells."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if boottime is None else time.clock_gettime(boottime) - time.monotonic()
