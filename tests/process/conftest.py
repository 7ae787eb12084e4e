"""Fixtures for tests with real processes: a box of its own for each test, and the certainty that nothing is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_box import Box, end_leftovers, left_behind


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A place of its own for state, sockets, logs, home and programs; everything in it is gone afterwards."""
    runtime = Path(tempfile.mkdtemp(prefix="ox-", dir="/tmp"))  # short: the address of a socket holds 107 bytes
    made = Box(tmp_path, runtime / "run")
    try:
        yield made
        made.close()
        left = left_behind(made)
        overlaps = [path.read_text() for path in tmp_path.glob("knobs/*/overlap")]
        bugs = [event["reason"] for event in made.events() if "internal error" in (event["reason"] or "")]
    finally:
        os.umask(0o022)
        told = end_leftovers(made)
        shutil.rmtree(runtime, ignore_errors=True)
    assert not left, f"processes were left behind: {told}"
    assert not overlaps, f"two incarnations at once: {overlaps}"
    assert not bugs, "\n".join(bugs)
