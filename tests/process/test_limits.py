"""A user who may have no more processes, and a supervisor that may open too few files.

The first limit does not bind root, so root tests it as somebody else.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest
from process_box import COMMAND, Box, wait_for

NOBODY = 54321
"""A user without a name and without any other process."""


def lowly(box: Box) -> list[str]:
    """Return what stands before the command of a supervisor that the limit binds, and let that user have the box."""
    if os.geteuid() != 0:
        return []
    # All it keeps of root is the right to read, since an interpreter may live in root's home.
    kept = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    launcher = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *kept, "--"]
    look = [*launcher, sys.executable, "-P", "-c", "import ollamux.supervisor.boot"]
    if subprocess.run(look, capture_output=True, check=False, cwd="/").returncode != 0:
        pytest.skip("the limit does not bind root, and setpriv(1) may not make another user of it here")
    for path in (box.root, *box.root.rglob("*"), box.runtime.parent):
        os.chown(path, NOBODY, NOBODY)
    return launcher


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit(1)")
def test_R18_without_a_process_to_spare_a_start_is_tried_again(open_box: Box) -> None:
    box = open_box
    box.config("a", "b")
    launcher = lowly(box)
    supervisor = box.up(launcher=launcher)
    other = box.instance("b")["pid"]
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)

    def allow(processes: int) -> None:
        """Set the limit as the user it binds: root without CAP_SYS_RESOURCE may not."""
        limit = "unlimited" if processes == resource.RLIM_INFINITY else str(processes)
        subprocess.run([*launcher, "prlimit", f"--pid={supervisor.pid}", f"--nproc={limit}:"], check=True)

    allow(1)

    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    told = "could not be started: Resource temporarily unavailable"
    wait_for(lambda: sum(told in reason for reason in box.reasons()) >= 2, "it is told, and tried again")
    assert supervisor.runs
    assert box.instance("b")["pid"] == other
    assert box.instance("b")["phase"] == "READY"
    assert "FAILED" not in box.changes("a")
    allow(soft)
    assert box.wait_started("a", 2)["phase"] == "READY"


@pytest.mark.parametrize("words", [("up",), ("up", "-d")])
@pytest.mark.parametrize("most", [8, 12])
def test_R19_a_supervisor_that_may_open_too_few_files_says_so(box: Box, words: tuple[str, ...], most: int) -> None:
    """It is no internal error: the machine would not give what a start needs."""
    box.config("a")
    limited = ["prlimit", f"--nofile={most}", str(COMMAND), *words, "--config", str(box.config_path)]

    done = subprocess.run(limited, env=box.env, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 6, done.stderr
    assert "the supervisor could not start: Too many open files" in done.stderr
    assert "ulimit -n 1024 raises it" in done.stderr
    assert box.starts("a") == []
