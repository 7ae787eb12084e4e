"""Ask what may never be answered: a file system or a directory of users on the network that is dead.

Such a call hangs in the kernel or in a library, and with it the loop and every health check. So it is made by a thread
of its own, waited for a moment, and left behind where it does not return. Nobody asks the same thing again meanwhile.
What was seen to lie on a disk of this machine needs no thread: a respawn waits for some of these calls.
"""

from __future__ import annotations

import os
import signal
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Iterable
from typing import TypeVar

LIMIT_S = 1.0
_hanging: set[str] = set()
_near: dict[str, bool] = {}
_Answer = TypeVar("_Answer")


def patiently(
    what: str, ask: Callable[[], _Answer], *, at: Iterable[str] = (), limit_s: float | None = None
) -> _Answer:
    """Return what a call returns, or raise what it raises. Raises TimeoutError where it does not answer in time.

    `what` names the thing that is asked: while one call about it hangs, others are not even made. The call may touch
    nothing that the loop touches, since it may return at any later time. `at` are all the paths that it looks at, where
    they are known; once all were seen on a disk of this machine the call is simply made. `limit_s` is for
    whoever has more time than a loop.
    """
    if what in _hanging:
        raise TimeoutError
    paths = tuple(at)
    if paths and all(_near.get(path, False) and not os.path.islink(path) for path in paths):
        return ask()
    told: list[_Answer] = []
    failed: list[BaseException] = []
    over = allocate_lock()
    over.acquire()

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the loop
        try:
            told.append(ask())
            _near.update({path: _on_a_disk(path) for path in paths})
        except BaseException as error:  # noqa: BLE001 - raised again by the one who asked
            failed.append(error)
        finally:
            _hanging.discard(what)
            over.release()

    _hanging.add(what)
    try:
        start_new_thread(run, ())
    except RuntimeError:  # no thread to be had: then it is asked without
        _hanging.discard(what)
        return ask()
    if not over.acquire(timeout=LIMIT_S if limit_s is None else limit_s):
        raise TimeoutError
    if failed:
        raise failed[0]
    return told[0]


def _on_a_disk(path: str) -> bool:
    """Whether a path, or what there is above it, lies on a block device: what comes over a network never does.

    A link may lead anywhere, and elsewhere tomorrow.
    """
    while True:
        try:
            return os.major(os.lstat(path).st_dev) != 0 and not os.path.islink(path)
        except FileNotFoundError:
            above = os.path.dirname(path)
            if above == path:
                return False
            path = above
        except OSError:
            return False
