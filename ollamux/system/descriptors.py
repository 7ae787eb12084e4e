"""The standard descriptors, where a caller left some of them closed. Light: every command begins with it."""

from __future__ import annotations

import os


def open_missing() -> None:
    """Put /dev/null where 0, 1 or 2 is closed, so that no socket or file of ours gets its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # the lowest free number, which is this one
