"""`python -m tests.chaos --minutes N --seed S`: random faults against a real supervisor, until something breaks.

Ends with 0 where nothing was violated and every kind of fault took effect, else with 1; then all logs are kept.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys

from tests.chaos.faults import DISK_KINDS
from tests.chaos.ground import Ground
from tests.chaos.orders import kinds
from tests.chaos.plan import rounds
from tests.chaos.report import table
from tests.chaos.run import Run
from tests.chaos.world import World


def main() -> int:
    """Parse the words and run."""
    words = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    words.add_argument("--minutes", type=float, default=1.0)
    words.add_argument("--seed", type=int, default=None, help="decides the plan; drawn and told if left out")
    words.add_argument("--no-disks", action="store_true", help="leave out full disks, where nothing can be mounted")
    words.add_argument("--keep-going", action="store_true", help="do not end with the first violation")
    words.add_argument("--keep", action="store_true", help="keep the folder also if all went well")
    words.add_argument("--verbose", "-v", action="store_true", help="print every step")
    words.add_argument("--show-plan", type=int, metavar="ROUNDS", help="print so many rounds of the plan and end")
    words.add_argument("--planted", nargs="*", metavar="BUG", help="find bugs that are planted, all or those named")
    chosen = words.parse_args()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGINT))
    if chosen.planted is not None:
        from tests.chaos.planted import find_all

        return find_all(chosen.planted, verbose=chosen.verbose)
    return run(chosen)


def run(chosen: argparse.Namespace) -> int:
    """Run one seed."""
    seed = random.randrange(1 << 32) if chosen.seed is None else chosen.seed
    ground = Ground(disks=not chosen.no_disks)
    absent = DISK_KINDS if ground.disks_missing else frozenset()
    wanted = kinds(ground, without=absent)
    if chosen.show_plan is not None:
        ground.remove()
        for planned, _ in zip(rounds(seed, wanted), range(chosen.show_plan), strict=False):
            print(planned.number, planned.on_death, *planned.steps, sep="\n  ")
        return 0
    if ground.disks_missing and not chosen.no_disks:
        ground.remove()
        print(f"a small disk cannot be mounted here ({ground.disks_missing}); --no-disks leaves that out")
        return 1
    print(f"seed {seed}, {chosen.minutes:g} minutes, {len(wanted)} kinds of faults, in {ground.root}", flush=True)
    log = open(ground.root / "run.log", "w", encoding="utf-8")  # noqa: SIM115 - open for as long as the run
    log.write(f"seed {seed}\n")
    world = World(ground, log=log, verbose=chosen.verbose)
    made = Run(world, wanted, seed)
    interrupted = False
    try:
        made.go(seconds=chosen.minutes * 60.0, keep_going=chosen.keep_going)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the end must not be cut short
        world.end()
    why = "left out by --no-disks" if chosen.no_disks else str(ground.disks_missing)
    text = table(
        wanted,
        hits=world.hits,
        tries=world.tries,
        violations=world.violations,
        took=made.took,
        absent=dict.fromkeys(sorted(absent), why),
    )
    if disturbed := sum(stranger.disturbed for stranger in world.strangers.met):
        text += f"\nstrangers that somebody else on this machine has signalled, and that prove nothing: {disturbed}"
    print(text, flush=True)
    log.write(text + "\n")
    log.close()
    return _verdict(chosen, made, seed, interrupted=interrupted)


def _verdict(chosen: argparse.Namespace, made: Run, seed: int, *, interrupted: bool) -> int:
    world = made.world
    for violation in world.violations[:20]:
        print(f"{violation.invariant}: {violation.text[:2000]}")
    missed = [kind for kind in made.kinds if not world.hits[kind]]
    if missed and not world.violations and not interrupted:
        print(f"never took effect: {', '.join(missed)}")
    well = not world.violations and (interrupted or not missed)
    if well and not chosen.keep:
        world.ground.remove()
    else:
        world.ground.keep()
        print(f"kept: {world.ground.root} (run.log tells every step; seed {seed})")
    if interrupted:
        return 130 if well else 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
