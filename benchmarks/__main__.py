"""`python -m benchmarks`: measure the installed command and print what came out. Decides nothing about the figures."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType
from typing import NoReturn

from benchmarks.errors import BenchError
from benchmarks.ground import Ground
from benchmarks.measures import cold_start, commands, respawn, rest, stop
from benchmarks.measures.rounds import QUICK, THOROUGH
from benchmarks.report import as_json, as_table, machine

MEASURES = {
    "respawn": respawn.measure,
    "cold-start": cold_start.measure,
    "commands": commands.measure,
    "stop": stop.measure,
    "rest": rest.measure,
}


def main() -> int:
    """Measure what was asked for; exit 0 whether or not the targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure ollamux beside its limits.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and 20 s of rest instead of 60")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="NAME", help=", ".join(MEASURES))
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table", help="table (default) or json")
    asked = parser.parse_args()
    if not sys.platform.startswith("linux"):
        print("the benchmarks read /proc and use pidfds: they run on Linux only", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    before = machine()
    try:
        with Ground() as ground:
            names = asked.only or list(MEASURES)
            effort = QUICK if asked.quick else THOROUGH
            rows = [row for name in MEASURES if name in names for row in MEASURES[name](ground, effort)]
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        return 130
    before["load"] = f"{before['load']} to {machine()['load']}"
    show = as_json if asked.output == "json" else as_table
    print(show(rows, before=before, quick=asked.quick))
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Turn SIGTERM into an orderly end, as Ctrl-C is."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
