"""Make a Python process look like the program it stands for, and start one as a Go program does. Linux only."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_ARG_START_FIELD = 45


def take_name(name: str) -> None:
    """Take the name that ps shows; its first fifteen bytes count."""
    try:
        Path("/proc/self/comm").write_text(name, encoding="utf-8")
    except OSError:
        pass


def show_argument(old: str, new: str) -> None:
    """Replace a part of the own command line by one of the same length; where that is not possible, nothing happens.

    A module cannot have a hyphen in its name, but llama-server has one in its command line.
    """
    if len(old) != len(new):
        return
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8")
        start = int(stat[stat.rfind(")") + 2 :].split()[_ARG_START_FIELD])
        at = Path("/proc/self/cmdline").read_bytes().find(old.encode())
        if at < 0:
            return
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start + at)
            memory.write(new.encode())
    except (OSError, ValueError, IndexError):
        pass


def spawn(argv: Sequence[str], env: Mapping[str, str], *, stdout: int, stderr: int, stdin: int | None = None) -> int:
    """Start a program in our own group and session and return its pid.

    As with Go's exec, every descriptor without close-on-exec goes along.
    """
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    if stdin is None:
        actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
    else:
        actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
    actions += [(os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2)]
    return os.posix_spawn(
        argv[0],
        list(argv),
        dict(env),
        file_actions=actions,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2],
    )


def program(programs: Path | None, path: str, module: str) -> list[str]:
    """Return how a simulated program is started: by its wrapper, or as a module where there is none."""
    if programs is not None:
        return [str(programs / path)]
    return [sys.executable, "-P", "-m", f"ollamux.simulation.{module}"]


def sleep_through_signals() -> NoReturn:
    """Sleep for ever in the main thread, and run Python's handlers whichever thread a signal was given to."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    while True:
        os.read(reader, 64)


def exit_text(status: int) -> str:
    """Return how Go tells the end of a process."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        words = {signal.SIGKILL: "killed", signal.SIGTERM: "terminated", signal.SIGABRT: "aborted"}
        return f"signal: {words.get(signal.Signals(number), signal.strsignal(number) or str(number))}"
    return f"exit status {os.WEXITSTATUS(status)}"
