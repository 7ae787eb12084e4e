"""`python -m tests.faults`: writes the page of faults; with `--guards` tries whether the tests would notice each."""

from __future__ import annotations

import argparse
import sys

from .catalogue import PAGE, ROOT, all_entries, page, tests_by_id
from .guards import judge_all, main_jobs


def main() -> int:
    """Return the exit code: 1 where a guard survived or nothing was proven."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--guards", nargs="*", metavar="ID", help="take out guards, of all entries or of these")
    parser.add_argument("--jobs", type=int, default=main_jobs(), help="so many copies side by side")
    words = parser.parse_args()
    if words.guards is None:
        (ROOT / PAGE).write_text(page(), encoding="utf-8")
        return 0
    entries = all_entries()
    if unknown := [name for name in words.guards if name not in entries]:
        parser.error(f"no such entry: {', '.join(unknown)}")
    chosen = [entry for name, entry in entries.items() if entry.guards and name in (words.guards or entries)]
    tests = tests_by_id()
    untested = [entry.id for entry in chosen if entry.id not in tests]
    work = [(entry, tests[entry.id]) for entry in chosen if entry.id in tests]
    good = bool(work) and judge_all(work, jobs=max(1, words.jobs), tell=lambda text: print(text, flush=True))
    print(f"{len(work)} entries tried; without a test: {', '.join(untested) or 'none'}")
    return 0 if good and not untested else 1


sys.exit(main())
