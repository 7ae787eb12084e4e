"""How many tests run at once: most of their time they wait for processes, so one more than there are processors."""

from __future__ import annotations

import os

import pytest

_MOST = 4


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return it for `--numprocesses=auto`."""
    return min(_MOST, len(os.sched_getaffinity(0)) + 1)
