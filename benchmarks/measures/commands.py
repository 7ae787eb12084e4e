"""How long the commands take that people type, as whole processes, beside the bare interpreter."""

from __future__ import annotations

import sys

from benchmarks.fleet import command, ollamux, wait_ready
from benchmarks.ground import Ground
from benchmarks.measures.rounds import Effort, rounds
from benchmarks.processes import timed
from benchmarks.rows import Row, Target

INSTANCES = 8
COMMANDS = {
    ("status",): 3.0,
    ("status", "-o", "json"): 3.0,
    ("--help",): 7.0,
    ("restart", "--help"): 7.0,
}


def measure(ground: Ground, effort: Effort) -> list[Row]:
    """Run every command in turn with `python -c pass`, its output thrown away."""
    supervised = ollamux(ground, ground.ports(INSTANCES))
    supervised.start()
    wait_ready(supervised)
    least = [sys.executable, "-c", "pass"]
    limit: dict[tuple[str, ...], list[float]] = {words: [] for words in COMMANDS}
    ours: dict[tuple[str, ...], list[float]] = {words: [] for words in COMMANDS}
    for words in COMMANDS:  # compiled and in the page cache, as for every run but the first after an installation
        timed(command(supervised, *words), supervised.env)
    for _ in rounds(effort.commands, "commands"):
        for words in COMMANDS:
            limit[words].append(timed(least, supervised.env) * 1000)
            ours[words].append(timed(command(supervised, *words), supervised.env) * 1000)
    supervised.stop()
    return [
        Row(
            group="commands",
            what="ollamux " + " ".join(words),
            limit=limit[words],
            ollamux=ours[words],
            target=Target(most=most),
        )
        for words, most in COMMANDS.items()
    ]
