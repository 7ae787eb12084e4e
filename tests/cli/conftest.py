"""Places for the tests of the command line, and the certainty that nothing is left in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from cli_rig import Place

_open: list[Place] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """End by pid whatever a test left running in a place of its own, and fail the test for it."""
    yield
    with contextlib.ExitStack() as closing:
        while _open:
            closing.callback(_open.pop().close)


@pytest.fixture
def place(nothing_is_left: None) -> Place:
    _open.append(Place())
    return _open[-1]


@pytest.fixture(scope="module")
def shared_place() -> Iterator[Place]:
    """A place that the tests of one module share."""
    made = Place()
    yield made
    made.close()


@pytest.fixture(scope="module")
def simulation(shared_place: Place) -> Place:
    """Three simulated GPUs, ready."""
    shared_place.simulate(3)
    return shared_place
