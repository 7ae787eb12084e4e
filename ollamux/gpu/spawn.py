"""Start the helper process, kill it, reap it. Knows nothing of what it says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Spawn = Callable[[], tuple[int, socket.socket]]
"""Starts a helper; returns its pid and our end of the connection."""


def helper_spawn(source: str, box: Path | None = None) -> Spawn:
    """Return what starts a real helper for a source: "auto", "nvml", "simulated" (with its box) or "none"."""
    command = [sys.executable, "-P", "-m", "ollamux.gpu.helper", "--source", source]
    if box is not None:
        command += ["--box", os.path.abspath(box)]
    return lambda: spawn_command(command)


def spawn_command(command: list[str]) -> tuple[int, socket.socket]:
    """Start a helper that talks over its standard input and output; it gets no other descriptor of ours."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            # Popen because it closes inherited descriptors in the child, which posix_spawn cannot; the pid is all that
            # is kept of it, and a session of its own keeps Ctrl-C away.
            child = subprocess.Popen(  # noqa: TID251
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env=_environment(),
                close_fds=True,
                start_new_session=True,
                cwd="/",
            )
        except OSError:
            ours.close()
            raise
    # We reap by pid ourselves; a known return code keeps Popen from ever doing it behind our back.
    child.returncode = 0
    ours.setblocking(False)
    return child.pid, ours


def _environment() -> dict[str, str] | None:
    """Let the helper find this very program too where it is not installed, but was found in the current folder."""
    here = str(Path(__file__).resolve().parents[2])
    if not sys.path or os.path.realpath(sys.path[0] or ".") != here:
        return None
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": here + (os.pathsep + others if others else "")}


def kill_own_child(pid: int) -> None:
    """Kill a child that we have not reaped: until then its number belongs to nobody else."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def reaped(pid: int) -> bool:
    """Reap a child if it has ended; False while it lives."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        # Somebody else has reaped it.
        return True
