"""One process by its handle: what is gone is no error, and only the main thread starts any."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from ollamux.system.child import Child, spawn

SLEEP = ["/bin/sleep", "600"]


@pytest.fixture
def null() -> Iterator[int]:
    """A descriptor for the output of a child."""
    fd = os.open("/dev/null", os.O_WRONLY)
    yield fd
    os.close(fd)


def ended(child: Child) -> None:
    """Wait until it has ended, without collecting it."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_R2_a_signal_to_what_has_just_ended_is_no_error(null: int) -> None:
    child = spawn(SLEEP, os.environ, log_fd=null)
    handle = os.dup(child.pidfd)
    os.kill(child.pid, signal.SIGKILL)
    ended(child)

    assert child.signal(signal.SIGTERM), "it is there until it is collected, and feels nothing"
    child.reap()
    child.pidfd = handle
    assert not child.signal(signal.SIGTERM), "told, not raised"
    child.close()


def test_R2_of_two_who_collect_one_child_the_second_is_told(null: int) -> None:
    from ollamux.system.child import reap_orphan

    child = spawn(SLEEP, os.environ, log_fd=null)
    assert not reap_orphan(child.pid), "it lives"
    child.signal(signal.SIGKILL)
    ended(child)

    assert reap_orphan(child.pid)
    assert not reap_orphan(child.pid)
    child.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a parent-death signal is Linux's own")
def test_R25_only_the_main_thread_starts_a_child(null: int) -> None:
    told: list[BaseException] = []

    def try_it() -> None:
        try:
            child = spawn(SLEEP, os.environ, log_fd=null)
        except RuntimeError as error:
            told.append(error)
        else:
            child.signal(signal.SIGKILL)
            ended(child)
            child.reap()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()

    assert [str(error) for error in told] == ["a child may be started from the main thread only"]
    child = spawn(SLEEP, os.environ, log_fd=null)
    child.signal(signal.SIGKILL)
    ended(child)
    child.reap()
