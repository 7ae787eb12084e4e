"""The supervisor, with some of its patience taken away: constants named in OX_HASTE are set before it starts.

It also counts the rounds of its loop, in the file OX_ROUNDS: a loop that spins shows in their number, on any machine.
"""

import importlib
import json
import mmap
import os
import selectors
import sys

with open(os.environ.pop("OX_ROUNDS"), "r+b") as file:
    rounds = mmap.mmap(file.fileno(), 8)


class CountingSelector(selectors.EpollSelector):
    """Counts how often it was asked."""

    def select(self, timeout=None):
        rounds[:] = (int.from_bytes(rounds[:], "little") + 1).to_bytes(8, "little")
        return super().select(timeout)


selectors.DefaultSelector = CountingSelector
for name, value in json.loads(os.environ.pop("OX_HASTE")).items():
    module, _, constant = name.rpartition(".")
    loaded = importlib.import_module(module)
    getattr(loaded, constant)
    setattr(loaded, constant, value)

from ollamux.supervisor.__main__ import main  # noqa: E402 - after the constants are set

sys.exit(main([*sys.argv[1:], "--plain-fd", "1"], dict(os.environ)))
