"""The supervisor, with some of its patience taken away: constants named in OX_HASTE are set before it starts.

It also counts the rounds of its loop, in the file OX_ROUNDS: a loop that spins shows in their number, on any machine.
When it is replaced by an exec it is this program again; while there is a file `exec-gate` beside OX_ROUNDS the new one
waits, and says so in a file `exec-reached`. With a file `spin` there the loop computes without end.
"""

import importlib
import json
import mmap
import os
import selectors
import sys
import time

if sys.argv[1:2] == ["--again"]:
    OX_ROUNDS, OX_HASTE = sys.argv[2:4]
    del sys.argv[1:4]
else:
    OX_ROUNDS, OX_HASTE = os.environ.pop("OX_ROUNDS"), os.environ.pop("OX_HASTE")

GATE = os.path.join(os.path.dirname(OX_ROUNDS), "exec-gate")
SPIN = os.path.join(os.path.dirname(OX_ROUNDS), "spin")
if "--handover" in sys.argv and os.path.exists(GATE):
    with open(GATE + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(GATE + ".new", GATE.replace("-gate", "-reached"))
    while os.path.exists(GATE):
        time.sleep(0.01)

with open(OX_ROUNDS, "r+b") as file:
    rounds = mmap.mmap(file.fileno(), 8)


class CountingSelector(selectors.EpollSelector):
    """Counts how often it was asked."""

    def select(self, timeout=None):
        while os.path.exists(SPIN):
            open(SPIN + "ning", "w").close()
        rounds[:] = (int.from_bytes(rounds[:], "little") + 1).to_bytes(8, "little")
        return super().select(timeout)


selectors.DefaultSelector = CountingSelector
for name, value in json.loads(OX_HASTE).items():
    module, _, constant = name.rpartition(".")
    loaded = importlib.import_module(module)
    getattr(loaded, constant)
    setattr(loaded, constant, value)

from ollamux.supervisor import upgrade  # noqa: E402
from ollamux.supervisor.__main__ import main  # noqa: E402 - after the constants are set

upgrade.WORDS = ("-P", os.path.abspath(__file__), "--again", OX_ROUNDS, OX_HASTE)

sys.exit(main([*sys.argv[1:], "--plain-fd", "1"], dict(os.environ)))
