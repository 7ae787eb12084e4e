"""Fixtures for tests with real processes: a box of its own for each test, and the certainty that nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pinned_rig import Pinned
from process_box import Box, end_leftovers, left_behind
from standin_rig import Driver, built


@pytest.fixture(autouse=True, scope="session")
def under_nohup() -> None:
    """Let what the tests start hear SIGHUP, though it be ignored here: a handler of ours is not inherited."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A place of its own for state, sockets, logs, home and programs; everything in it is gone afterwards."""
    with _box(tmp_path) as made:
        yield made


@pytest.fixture
def open_box() -> Iterator[Box]:
    """A box that another user can reach: pytest's own folders are closed to all others."""
    root = Path(tempfile.mkdtemp(prefix="oxb-", dir="/tmp"))
    root.chmod(0o755)
    try:
        with _box(root) as made:
            yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _box(root: Path) -> Iterator[Box]:
    runtime = Path(tempfile.mkdtemp(prefix="ox-", dir="/tmp"))  # short: the address of a socket holds 107 bytes
    made = Box(root, runtime / "run")
    try:
        yield made
        made.close()
        left = left_behind(made)
        overlaps = [path.read_text() for path in root.glob("knobs/*/overlap")]
        bugs = [event["reason"] for event in made.events() if "internal error" in (event["reason"] or "")]
    finally:
        os.umask(0o022)
        told = end_leftovers(made)
        shutil.rmtree(runtime, ignore_errors=True)
    assert not left, f"processes were left behind: {told}"
    assert not overlaps, f"two incarnations at once: {overlaps}"
    assert not bugs, "\n".join(bugs)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("standin") / "new")


@pytest.fixture
def pinned(box: Box, library: Path) -> Pinned:
    return Pinned(box, Driver(box.root, library))
