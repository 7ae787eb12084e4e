"""The lock of the supervisor: had by one alone, whatever file descriptors and names do meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

from ollamux.system.files import Lock


def test_R31_the_lock_is_had_by_one_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first, second = Lock(path), Lock(path)
    before = len(os.listdir("/proc/self/fd"))

    assert [first.take(), second.take(), second.take()] == [True, False, False]
    assert Path(path).read_text() == f"{os.getpid()}\n"
    assert len(os.listdir("/proc/self/fd")) == before + 1, "who did not get it keeps nothing open"


def test_R31_a_lock_whose_file_was_removed_is_no_longer_in_place_and_another_may_have_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first, second = Lock(path), Lock(path)
    assert first.take()

    os.unlink(path)

    assert not first.is_in_place()
    assert second.take()
    assert not first.put_back()
