"""Make the process a supervisor runs in a fit parent, before anything is started. Nothing here knows an instance."""

from __future__ import annotations

import os
import resource
import signal
import sys

from ollamux.system import child, reserve


def settle_process(state: str) -> None:
    """Make this process a fit parent: nothing leaks to children, orphans fall to us, many descriptors are allowed."""
    child.close_on_exec_from(3)
    os.chdir(state)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an inherited "ignore" would reap behind our back
    if sys.platform == "linux":
        child.become_subreaper()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
        except (ValueError, OSError):
            pass  # a few instances do with what there is
    reserve.keep()
