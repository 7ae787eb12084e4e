"""The supervisor, with some of its patience taken away: constants named in OX_HASTE are set before it starts.

It also counts the rounds of its loop, in the file OX_ROUNDS: a loop that spins shows in their number, on any machine.
And it reads the wall clock, and how long the machine has slept, as the file OX_CLOCK says.
When it is replaced by an exec it is this program again; while there is a file `exec-gate` beside OX_ROUNDS the new one
waits, and says so in a file `exec-reached`. With a file `spin` there the loop computes without end.
"""

import importlib
import json
import mmap
import os
import selectors
import struct
import sys
import time

if sys.argv[1:2] == ["--again"]:
    OX_ROUNDS, OX_HASTE, OX_CLOCK = sys.argv[2:5]
    del sys.argv[1:5]
else:
    OX_ROUNDS, OX_HASTE, OX_CLOCK = (os.environ.pop(f"OX_{name}") for name in ("ROUNDS", "HASTE", "CLOCK"))

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

with open(OX_CLOCK, "r+b") as file:
    clock = mmap.mmap(file.fileno(), 24)
real_time, real_gettime = time.time, time.clock_gettime  # noqa: TID251 - what is to be set apart


def stepped_time():
    """Tell the wall clock as a test has set it."""
    return real_time() + struct.unpack("ddd", clock[:])[0]


def stepped_gettime(which):
    """Tell a clock; the one that goes on in suspend is ahead by what a test says, and by more at every look."""
    if which != time.CLOCK_BOOTTIME:
        return real_gettime(which)
    wall, asleep, each = struct.unpack("ddd", clock[:])
    clock[:] = struct.pack("ddd", wall, asleep + each, each)
    return real_gettime(which) + asleep + each


time.time, time.clock_gettime = stepped_time, stepped_gettime  # noqa: TID251
for name, value in json.loads(OX_HASTE).items():
    module, _, constant = name.rpartition(".")
    loaded = importlib.import_module(module)
    getattr(loaded, constant)
    setattr(loaded, constant, value)

from ollamux.supervisor import upgrade  # noqa: E402
from ollamux.supervisor.__main__ import main  # noqa: E402 - after the constants are set

upgrade.WORDS = ("-P", os.path.abspath(__file__), "--again", OX_ROUNDS, OX_HASTE, OX_CLOCK)

sys.exit(main([*sys.argv[1:], "--plain-fd", "1"], dict(os.environ)))
