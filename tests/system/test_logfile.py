"""Following a log across its rotation."""

from __future__ import annotations

from pathlib import Path

from ollamux.system.logfile import Follower, open_log, rotate, size


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
