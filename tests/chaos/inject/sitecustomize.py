"""Loaded by every Python of a chaos run, because its folder is on PYTHONPATH: patience, the clock, planted bugs.

The installed commands start the supervisor themselves, so what `tests/process/hastened.py` does in front of a program
is done here from inside. OX_HASTE names constants of the supervisor and their values, OX_CLOCK a file with seconds by
which the wall clock is off, OX_PLANT one bug of `plants`.
"""

import importlib
import json
import mmap
import os
import struct
import sys
import time


def step_the_clock(path):
    """Make time.time() tell what the file says; the kernel's clock is everybody's and stays as it is."""
    with open(path, "rb") as file:
        offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real = time.time  # noqa: TID251 - this is the clock that is stepped
    time.time = lambda: real() + struct.unpack("d", offset[:8])[0]  # noqa: TID251


def hasten(wanted):
    for name, value in wanted.items():
        module, _, constant = name.rpartition(".")
        loaded = importlib.import_module(module)
        getattr(loaded, constant)
        setattr(loaded, constant, value)


if "OX_CLOCK" in os.environ:
    step_the_clock(os.environ["OX_CLOCK"])
if "ollamux.supervisor" in sys.orig_argv:
    hasten(json.loads(os.environ.get("OX_HASTE", "{}")))
    if os.environ.get("OX_PLANT"):
        importlib.import_module("plants").plant(os.environ["OX_PLANT"])
