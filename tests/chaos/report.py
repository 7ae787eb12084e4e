"""What a run found, as a table: faults by kind, violations by invariant, how long it took to be well again."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from tests.chaos.observer import Violation

INVARIANTS = {
    "I1": "two incarnations of one instance at once",
    "I2": "an orphan that nobody ends",
    "I3": "a signal to a stranger",
    "I4": "a lost intent",
    "I5": "not settled as wanted",
    "I6": "exit codes, tracebacks, leaks",
}


def table(
    kinds: Sequence[str],
    *,
    hits: Mapping[str, int],
    tries: Mapping[str, int],
    violations: Sequence[Violation],
    took: Sequence[float],
    absent: Mapping[str, str],
) -> str:
    """Return the table."""
    lines = ["", f"{'fault':<24} {'tried':>6} {'took effect':>12}"]
    lines += [f"{kind:<24} {tries.get(kind, 0):>6} {hits.get(kind, 0):>12}" for kind in kinds]
    lines += [f"{kind:<24} {'–':>6} {'cannot here':>12}   {why}" for kind, why in absent.items()]
    lines.append(f"{'all':<24} {sum(tries.values()):>6} {sum(hits.values()):>12}")
    counts = Counter(violation.invariant for violation in violations)
    lines += ["", f"{'invariant':<48} {'violations':>10}"]
    lines += [f"{name} {text:<45} {counts[name]:>10}" for name, text in INVARIANTS.items()]
    if took:
        lines += [
            "",
            f"rounds: {len(took)}; from the last fault to all READY: "
            f"median {statistics.median(took):.1f} s, longest {max(took):.1f} s",
        ]
    return "\n".join(lines)
