"""A few descriptors kept back, so that processes can be looked at and signalled also when none is left otherwise.

Without one /proc reads as empty, and "nothing is left of it" would be believed of a runner that holds its GPU.
"""

from __future__ import annotations

import os
from contextlib import ContextDecorator

_COUNT = 3
"""A folder of /proc, a handle on a process, and a file about it: no look needs more at once."""
_kept: list[int] = []
_base = -1
"""Never given up: what the others are copies of, which takes the kernel less than to open a file."""
_wanted = 0
_depth = 0


def keep() -> None:
    """Put descriptors back, from now on; where none can be had now, the next look tries again."""
    global _wanted
    _wanted = _COUNT
    _refill()


def _refill() -> None:
    global _base
    try:
        if _base < 0 and _wanted:
            _base = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        while len(_kept) < _wanted:
            _kept.append(os.dup(_base))
    except OSError:
        return  # the next look tries again


class _Spare(ContextDecorator):
    """Written out: whoever waits for a restart waits for this, and a generator takes twice as long."""

    def __enter__(self) -> None:
        global _depth
        _depth += 1
        while _kept:
            os.close(_kept.pop())

    def __exit__(self, *error: object) -> None:
        global _depth
        _depth -= 1
        if not _depth:
            _refill()


_SPARE = _Spare()


def spare() -> _Spare:
    """Give the reserve up for a look that must not fail, and take it back afterwards. Also a decorator."""
    return _SPARE
