"""Process numbers that come round again: a namespace of its own says which is next (only root may)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("pid_wrap.py")
ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", '"$@"; exit $?', "sh"]
"""A shell as init, which collects orphans while it waits."""


@pytest.fixture
def runtime() -> Iterator[str]:
    """A short path for the socket."""
    folder = tempfile.mkdtemp(prefix="ox-", dir="/tmp")
    yield folder + "/run"
    shutil.rmtree(folder, ignore_errors=True)


def alone(story: str, root: Path, runtime: str) -> dict[str, Any]:
    """Run a story of the script in a namespace of its own."""
    probe = [*ALONE, "sh", "-c", "echo 400 > /proc/sys/kernel/ns_last_pid"]
    if os.geteuid() != 0 or subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root, with unshare(1), may choose the next process number")
    command = [*ALONE, sys.executable, str(SCRIPT), str(root), runtime, story]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_R3_the_number_of_a_server_is_nobody_elses_until_all_of_it_is_gone(tmp_path: Path, runtime: str) -> None:
    assert alone("own-child", tmp_path, runtime) == {"taken": False, "unharmed": True}


def test_R3_whoever_has_the_number_of_an_adopted_server_now_is_not_stopped_in_its_place(
    tmp_path: Path, runtime: str
) -> None:
    told = alone("adopted", tmp_path, runtime)
    assert told == {"adopted": True, "taken": True, "stopped": True, "unharmed": True}
