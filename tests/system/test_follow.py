"""Following a file across rotations: every byte once, and where one is missing it is said."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.system import logfile
from ollamux.system.follow import Follower
from ollamux.system.logfile import rotate


class Log:
    """A log that is written in numbered lines, and a follower of it."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.path = folder / "a.log"
        self.path.touch()
        self.keep = keep
        self.count = 0
        self.follower = Follower(str(self.path))
        self.follower.begin()
        self.seen: list[int] = []

    def write(self, lines: int) -> None:
        with self.path.open("ab") as file:
            for _ in range(lines):
                file.write(b"a line with the number %d\n" % self.count)
                self.count += 1

    def rotate(self) -> None:
        rotate(str(self.path), keep=self.keep)

    def rename(self) -> None:
        for number in range(self.keep, 1, -1):
            if Path(f"{self.path}.{number - 1}").exists():
                os.replace(f"{self.path}.{number - 1}", f"{self.path}.{number}")
        os.replace(self.path, f"{self.path}.1")
        self.path.touch()

    def look(self) -> None:
        self.seen += [int(line.split()[-1]) for line in self.follower.lines()]

    def look_to_the_end(self) -> None:
        self.look()
        while self.follower.behind:
            self.look()
        self.look()


ACTIONS = st.lists(st.one_of(st.integers(1, 40), st.sampled_from(["rotate", "rename", "look"])), max_size=40)


@settings(max_examples=300, deadline=None)
@given(actions=ACTIONS, keep=st.integers(1, 4))
def test_every_line_comes_once_in_order_unless_it_is_said_to_be_lost(actions: list[int | str], keep: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder), keep=keep)
        since_look = 0
        may_lose = False
        for action in [*actions, "look"]:
            if isinstance(action, int):
                log.write(action)
            elif action == "look":
                log.look_to_the_end()
                since_look = 0
            elif log.path.stat().st_size:
                getattr(log, action)()
                since_look += 1
                may_lose = may_lose or since_look >= keep  # at so many it cannot always be told
        lost = log.follower.take_lost()
        assert log.seen == sorted(set(log.seen)), "none twice, none out of order"
        if not lost:
            assert log.seen == list(range(log.count)) or may_lose
        assert may_lose or not lost
        log.follower.close()


def test_what_is_copied_and_not_cut_yet_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path, keep=2)
    log.write(100)
    log.look()
    log.write(100)
    real = os.ftruncate

    def looked_at(fd: int, length: int) -> None:
        log.look()
        log.write(1)
        log.look()
        real(fd, length)

    monkeypatch.setattr(logfile.os, "ftruncate", looked_at)
    log.rotate()
    log.write(5)
    log.look_to_the_end()

    assert log.seen == list(range(206))
    assert not log.follower.take_lost()


def test_what_is_no_longer_there_is_said_to_be_lost(tmp_path: Path) -> None:
    log = Log(tmp_path, keep=1)
    log.write(10)
    log.look()
    for _ in range(3):
        log.write(10)
        log.rotate()

    log.look_to_the_end()

    assert log.follower.take_lost()
    assert not log.follower.take_lost()
    assert log.seen == [*range(10), *range(30, 40)]


def test_a_log_that_is_cut_by_somebody_is_read_on_from_its_beginning(tmp_path: Path) -> None:
    log = Log(tmp_path, keep=0)
    log.write(10)
    log.look()
    log.rotate()
    log.write(10)  # as long as before
    log.look_to_the_end()

    assert log.seen == list(range(20))
    assert log.follower.take_lost(), "nobody can tell"


def test_a_log_that_is_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = Log(tmp_path, keep=1)
    log.write(10)
    log.look()
    log.path.rename(tmp_path / "a.log-yesterday")
    log.write(20)
    log.look_to_the_end()

    assert log.seen == list(range(30))
    assert not log.follower.take_lost()


def test_a_copy_without_its_beginning_is_gone_on_with_where_we_were(tmp_path: Path) -> None:
    log = Log(tmp_path, keep=1)
    log.write(100)
    log.look()
    log.write(10)
    rotate(str(log.path), keep=1, most=1000)
    log.write(10)

    log.look_to_the_end()

    assert log.seen == list(range(120))
    assert not log.follower.take_lost()


def test_one_who_must_keep_up_leaves_out_what_is_far_behind(tmp_path: Path) -> None:
    log = Log(tmp_path, keep=1)
    log.follower = Follower(str(log.path), patience=10_000)
    log.look()
    log.write(5000)

    assert len(log.follower.read(1000)) == 1000
    assert log.follower.read(1000) == b""
    assert log.follower.take_lost()


def test_half_a_line_is_left_for_later_and_a_line_without_end_is_not_kept_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\ntw")
    follower = Follower(str(path))
    assert follower.lines() == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\n")
        file.flush()
        assert follower.lines() == [b"two"]
        file.write(b"x" * (1 << 20))
    found = [line for _ in range(4) for line in follower.lines()]
    assert b"".join(found) == b"x" * (1 << 20)
    assert Follower(str(tmp_path / "nowhere")).lines() == []


def test_a_follower_holds_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    log = Log(tmp_path, keep=3)
    for _ in range(20):
        log.write(20)
        log.rotate()
        log.write(1)
        log.look_to_the_end()
    assert len(os.listdir("/proc/self/fd")) == before
    assert log.seen == list(range(log.count))


def _open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_a_look_for_which_no_descriptor_is_left_leaves_nothing_open_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path, keep=2)
    log.write(50)
    log.look()
    log.write(50)
    rotate(str(log.path), keep=2, most=1500)
    before = _open_descriptors()

    def none_left(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr("mmap.mmap", none_left)
        for _ in range(3):
            log.look()
        assert _open_descriptors() == before
    assert log.seen == list(range(50))
    log.look_to_the_end()

    assert log.seen == list(range(100))
    assert _open_descriptors() == before


def test_one_who_is_behind_gives_back_what_it_holds_when_it_is_closed(tmp_path: Path) -> None:
    log = Log(tmp_path, keep=2)
    log.write(50)
    log.look()
    log.write(50)
    log.rotate()
    before = _open_descriptors()

    assert log.follower.read(10)
    assert len(_open_descriptors()) == len(before) + 1
    log.follower.close()

    assert _open_descriptors() == before
