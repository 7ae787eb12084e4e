"""What the tests of the doctor share with others: a place of one's own, and a driver that answers as it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "cli"), str(TESTS / "gpu")]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for NVIDIA's library."""
    from standin_rig import built

    return built(tmp_path_factory.mktemp("standin") / "new")


@pytest.fixture
def box(library: Path) -> Iterator[object]:
    """A machine on which nothing is wrong."""
    from doctor_rig import Box

    made = Box(library)
    yield made
    made.close()
