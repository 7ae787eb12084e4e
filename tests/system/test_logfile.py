"""Rotating logs, and keeping them within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ollamux.system.follow import Follower
from ollamux.system.logfile import BEING_COPIED, keep_below, open_log, rotate, rotated, size


def test_a_follower_misses_nothing_when_the_log_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    follower = Follower(str(path))
    assert follower.read() == b"one\n"

    with path.open("ab") as log:
        log.write(b"two\n")
        log.flush()
        rotate(str(path), keep=2)
        log.write(b"3\n")

    assert follower.read() == b"two\n3\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"one\ntwo\n"


def test_a_child_goes_on_at_the_end_of_the_cut_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a.log")
    fd = open_log(path)
    with open(fd, "wb", buffering=0) as log:
        log.write(b"x" * 1000)
        rotate(path, keep=1)
        log.write(b"new\n")

    assert size(path) == 4
    assert Path(path).read_bytes() == b"new\n"


def test_no_more_rotated_files_are_kept_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    for number in range(5):
        path.write_text(f"{number}\n")
        rotate(str(path), keep=2)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert (tmp_path / "a.log.1").read_text() == "4\n"
    assert (tmp_path / "a.log.2").read_text() == "3\n"


@pytest.mark.parametrize("keep", [0, 1])
def test_copies_go_when_fewer_are_kept_than_before(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.log"
    for number in range(5):
        path.write_text(f"{number}\n")
        rotate(str(path), keep=3)
    (tmp_path / "a.log.notes").touch()
    path.write_text("new\n")

    rotate(str(path), keep=keep)

    assert rotated(str(path)) == list(range(1, keep + 1))
    assert (tmp_path / "a.log.notes").exists()


def test_of_a_log_that_grew_too_fast_the_newest_is_kept_and_this_said(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"".join(b"%06d\n" % number for number in range(1000)))

    rotate(str(path), keep=1, most=70)

    lines = (tmp_path / "a.log.1").read_bytes().splitlines()
    assert lines[0] == b"[ollamux: 6930 bytes were dropped here; the log grew too fast]"
    assert lines[1:] == [b"%06d" % number for number in range(990, 1000)]
    assert path.read_bytes() == b""


def test_a_rotation_that_was_killed_before_the_cut_is_finished_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    (tmp_path / "a.log.1").write_text("old\n")
    path.write_text("one\n" * 500)
    os.replace(tmp_path / "a.log.1", tmp_path / "a.log.2")
    (tmp_path / "a.log.1").write_text("one\n" * 500)  # here it was killed
    with path.open("a") as log:
        log.write("two\n")

    rotate(str(path), keep=3)

    assert rotated(str(path)) == [1, 2]
    assert (tmp_path / "a.log.1").read_text() == "one\n" * 500 + "two\n"
    assert (tmp_path / "a.log.2").read_text() == "old\n"


def test_on_a_full_disk_nothing_is_renumbered_and_the_oldest_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.log"
    path.write_text("new\n")
    for number in (1, 2, 3):
        (tmp_path / f"a.log.{number}").write_text(f"{number}\n")
    real, tries = os.sendfile, []

    def full(*words: object) -> int:
        tries.append(len(rotated(str(path))))
        if tries[-1] > 1 and Path(f"{path}{BEING_COPIED}").exists():
            raise OSError(28, "No space left on device")
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "sendfile", full)
    rotate(str(path), keep=3)

    assert tries[:3] == [3, 2, 1]
    assert [(tmp_path / f"a.log.{number}").read_text() for number in rotated(str(path))] == ["new\n", "1\n"]
    path.write_text("newer\n")
    monkeypatch.setattr(os, "sendfile", lambda *words: _no_space())
    with pytest.raises(OSError, match="No space"):
        rotate(str(path), keep=3)
    assert path.read_text() == "newer\n"
    assert os.listdir(tmp_path) == ["a.log"]
    assert not (tmp_path / f"a.log{BEING_COPIED}").exists()


def _no_space() -> int:
    raise OSError(28, "No space left on device")


def test_the_oldest_copies_of_all_logs_go_first_and_the_logs_themselves_stay(tmp_path: Path) -> None:
    for name, age in (
        ("a.log", 0),
        ("a.log.1", 50),
        ("a.log.2", 90),
        ("b.log", 99),
        ("b.log.1", 70),
        ("gone.log.1", 80),
    ):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "notes.1").write_bytes(b"x" * 100)

    assert keep_below(str(tmp_path), 700) == []
    assert [Path(path).name for path in keep_below(str(tmp_path), 550)] == ["a.log.2", "gone.log.1"]
    assert [Path(path).name for path in keep_below(str(tmp_path), 1)] == ["b.log.1", "a.log.1"]
    assert sorted(os.listdir(tmp_path)) == ["a.log", "b.log", "notes.1"]
    assert keep_below(str(tmp_path / "nowhere"), 1) == []
