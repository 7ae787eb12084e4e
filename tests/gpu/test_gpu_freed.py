"""When the memory of an ended incarnation counts as back, from samples alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.gpu.freed import TOLERANCE_BYTES, Claim, claim_on, holds, still_held, unexplained
from ollamux.gpu.model import Gpu, GpuProcess

GIB = 1 << 30


def nobody(pid: int) -> bool:
    return False


def card(used: int | None, *processes: tuple[int, int | None], vendor: str = "nvidia", state: str = "ok") -> Gpu:
    listed = tuple(GpuProcess(pid=pid, memory_bytes=size) for pid, size in processes)
    return Gpu(uuid="GPU-1", index=1, vendor=vendor, state=state, memory_used_bytes=used, processes=listed)


def held(before: Gpu | None, alive: Gpu, after: Gpu, *, loaded: int = 0, pids: tuple[int, ...] = (812,)) -> object:
    claim = claim_on(alive, pids, before=None if before is None else unexplained(before), loaded=loaded)
    found = still_held(claim, after, nobody)
    return None if found is None else (found.size_bytes, found.pids)


@pytest.mark.parametrize(
    ("before", "alive", "after", "loaded", "expected"),
    [
        # The driver names processes.
        (card(0), card(6 * GIB, (812, 6 * GIB)), card(6 * GIB, (812, 6 * GIB)), 0, (6 * GIB, (812,))),
        (card(0), card(6 * GIB, (812, 6 * GIB)), card(0), 0, None),
        # It no longer names ours, whatever the card as a whole says: others took it, or the driver itself.
        (card(0), card(6 * GIB, (812, 6 * GIB)), card(9 * GIB), 0, None),
        (card(0), card(6 * GIB, (812, 6 * GIB)), card(9 * GIB, (99, 9 * GIB)), 0, None),
        # Ours was named only after its end: the model was loaded since the last sample.
        (card(0), card(0), card(5 * GIB, (812, 5 * GIB)), 0, (5 * GIB, (812,))),
        # The driver names nobody: the card against what it was before the start.
        (card(1 * GIB), card(7 * GIB), card(7 * GIB), 0, (6 * GIB, ())),
        (card(1 * GIB), card(7 * GIB), card(1 * GIB + TOLERANCE_BYTES), 0, None),
        # A stranger that is named never counts, whether it came before or after.
        (card(1 * GIB), card(7 * GIB), card(5 * GIB, (99, 4 * GIB)), 0, None),
        (card(5 * GIB, (99, 4 * GIB)), card(7 * GIB), card(1 * GIB), 0, None),
        # One that is not named, and grew while we ran, is told apart by what the models took.
        (card(1 * GIB), card(9 * GIB), card(3 * GIB), 6 * GIB, None),
        (card(1 * GIB), card(9 * GIB), card(9 * GIB), 6 * GIB, (6 * GIB, ())),
        # Nothing is known: nothing waits.
        (None, card(7 * GIB), card(7 * GIB), 6 * GIB, None),
        (card(None), card(7 * GIB), card(7 * GIB), 0, None),
        (card(0), card(None), card(7 * GIB), 0, None),
        (card(0), card(7 * GIB), card(None), 0, None),
        (card(0), card(7 * GIB, vendor="amd"), card(7 * GIB, vendor="amd"), 0, None),
        (card(0), card(7 * GIB, (812, 7 * GIB)), card(None, state="lost"), 0, None),
        # Processes are listed, their memory is not.
        (card(0), card(7 * GIB, (812, None)), card(7 * GIB, (812, None)), 0, (7 * GIB, ())),
        (card(0), card(7 * GIB, (812, None)), card(0, (812, None)), 0, None),
    ],
)
def test_what_is_still_held(before: Gpu | None, alive: Gpu, after: Gpu, loaded: int, expected: object) -> None:
    assert held(before, alive, after, loaded=loaded) == expected


def test_a_stranger_with_one_of_the_numbers_is_none_of_ours() -> None:
    claim = claim_on(card(6 * GIB, (812, 6 * GIB)), {812}, before=0, loaded=0)
    assert still_held(claim, card(6 * GIB, (812, 6 * GIB)), lambda pid: pid == 812) is None


def test_what_processes_explain_is_not_unexplained() -> None:
    assert unexplained(card(5 * GIB, (1, 2 * GIB), (2, None))) == 3 * GIB
    assert unexplained(card(1 * GIB, (1, 2 * GIB))) == 0
    assert unexplained(card(None, (1, 2 * GIB))) is None
    assert not holds(card(5 * GIB, (1, None)), {1})


SIZES = st.none() | st.integers(0, 24 * GIB)
PROCESSES = st.lists(st.tuples(st.integers(1, 6), SIZES), max_size=5, unique_by=lambda one: one[0])
CARDS = st.builds(lambda used, processes: card(used, *processes), SIZES, PROCESSES)


@given(alive=CARDS, after=CARDS, before=SIZES, pids=st.frozensets(st.integers(1, 6)), loaded=st.integers(0, 24 * GIB))
def test_only_what_is_ours_or_explained_by_nobody_holds_back(
    alive: Gpu, after: Gpu, before: int | None, pids: frozenset[int], loaded: int
) -> None:
    claim = claim_on(alive, pids, before=before, loaded=loaded)
    found = still_held(claim, after, nobody)
    if found is None:
        return
    assert found.size_bytes > 0
    assert set(found.pids) <= pids
    if not found.pids:
        assert before is not None and not claim.told
        assert found.size_bytes <= (unexplained(after) or 0) - before


@given(after=CARDS)
def test_a_claim_on_nothing_waits_for_nothing(after: Gpu) -> None:
    claim = Claim(uuid="GPU-1", pids=frozenset(), told=False, below_bytes=None)
    assert still_held(claim, after, nobody) is None
