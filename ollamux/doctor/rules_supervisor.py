"""Rules about the supervisor that runs, and what it says of its instances. Pure: facts to findings."""

from __future__ import annotations

from collections.abc import Iterable

from ollamux.doctor.facts import Facts
from ollamux.doctor.findings import Finding, Severity
from ollamux.domain.phases import Phase

_BAD = (Phase.FAILED.value, Phase.STUCK.value, Phase.UNHEALTHY.value)


def supervisor_silent(facts: Facts) -> Iterable[Finding]:
    """Report a supervisor that holds its lock and answers nobody (`up --ensure` replaces one that hangs)."""
    if facts.silence is not None:
        evidence, fix = facts.silence
        yield Finding(
            id="supervisor-silent",
            severity=Severity.BROKEN,
            title="The supervisor does not answer",
            evidence=f"{evidence[:1].upper()}{evidence[1:].rstrip('.')}.",
            fix=fix,
        )


def instance_failed(facts: Facts) -> Iterable[Finding]:
    """Report instances that are wanted and do not serve. One that waits has a finding of its own for what it lacks."""
    for view in () if facts.status is None else facts.status.instances:
        if view.wanted != "down" and view.phase in _BAD:
            again = f"ollamux restart {view.name}" + (" --simulated" if facts.simulated else "")
            yield Finding(
                id="instance-failed",
                severity=Severity.BROKEN,
                title=f"{view.name} is {view.phase}",
                evidence=f"{view.reason or 'No reason is known'}. Its log: ollamux logs {view.name}",
                fix=again,
            )


def instance_degraded(facts: Facts) -> Iterable[Finding]:
    """Report instances that serve, but not as they should: on the CPU, on another card, spilled."""
    for view in () if facts.status is None else facts.status.instances:
        if view.wanted != "down" and view.phase == Phase.READY.value and view.health == "degraded":
            again = f"ollamux restart {view.name}" + (" --simulated" if facts.simulated else "")
            yield Finding(
                id="instance-degraded",
                severity=Severity.WARNING,
                title=f"{view.name} is DEGRADED",
                evidence=f"{view.reason or 'No reason is known'}. Its log: ollamux logs {view.name}",
                fix=again,
            )
