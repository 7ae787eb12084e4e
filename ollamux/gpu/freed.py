"""Whether the memory that an ended incarnation held on its cards is free again: arithmetic on samples. Pure.

The driver's own list of processes is believed first. Where it names none of ours, the use of the whole card is held
against what it was before the incarnation started; memory that the list explains by other processes never counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ollamux.gpu.model import Gpu

TOLERANCE_BYTES = 256 << 20
"""Displays and contexts of other programs come and go by as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is to come back on one card: `pids` are those of the incarnation.

    `told`: the driver has named their memory. `below_bytes`: else, the use, but for what others are known to hold, at
    which the memory counts as back; None where that is unknown.
    """

    uuid: str
    pids: frozenset[int]
    told: bool
    below_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Memory of an ended incarnation that a card still counts; no pids where only the use of the card tells."""

    gpu: Gpu
    size_bytes: int
    pids: tuple[int, ...]


def unexplained(gpu: Gpu) -> int | None:
    """Return the memory in use that the driver puts down to no process; None where it tells neither."""
    if gpu.memory_used_bytes is None:
        return None
    return max(0, gpu.memory_used_bytes - sum(process.memory_bytes or 0 for process in gpu.processes))


def holds(gpu: Gpu, pids: Iterable[int]) -> bool:
    """Whether the driver names memory of any of these processes."""
    known = frozenset(pids)
    return any(process.pid in known and process.memory_bytes for process in gpu.processes)


def claim_on(gpu: Gpu, pids: Iterable[int], *, before: int | None, loaded: int) -> Claim:
    """Return what is to come back on a card, from its last sample while the incarnation lived.

    `before` is what was unexplained before the start, None where unknown; `loaded` is what the models were said to
    take in the memory of the cards, so that what a stranger took meanwhile is not asked back.
    """
    below = None
    alive = unexplained(gpu)
    if before is not None and alive is not None and gpu.vendor != "amd":
        below = max(before, alive - loaded if loaded else before) + TOLERANCE_BYTES
    return Claim(uuid=gpu.uuid, pids=frozenset(pids), told=holds(gpu, pids), below_bytes=below)


def still_held(claim: Claim, gpu: Gpu, is_stranger: Callable[[int], bool]) -> Held | None:
    """Return what a sample of the card, taken after the end, still counts; None where it is back or nobody can tell.

    `is_stranger` tells of a process that got one of the numbers afterwards.
    """
    if gpu.state != "ok":
        return None
    named = {
        process.pid: process.memory_bytes
        for process in gpu.processes
        if process.pid in claim.pids and process.memory_bytes and not is_stranger(process.pid)
    }
    if named:
        return Held(gpu=gpu, size_bytes=sum(named.values()), pids=tuple(sorted(named)))
    used = unexplained(gpu)
    if claim.told or claim.below_bytes is None or used is None or used <= claim.below_bytes:
        return None
    return Held(gpu=gpu, size_bytes=used - (claim.below_bytes - TOLERANCE_BYTES), pids=())
