"""Rules about the supervisor that runs, and what it says of its instances. Pure: facts to findings."""

from __future__ import annotations

from collections.abc import Iterable

from ollamux.doctor.facts import Facts
from ollamux.doctor.findings import Finding, Severity
from ollamux.domain.cards import troubles
from ollamux.domain.phases import Phase
from ollamux.domain.snapshot import InstanceView


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
    for view in _wanted(facts):
        if view.phase == Phase.STUCK.value:
            fix = "sudo reboot"  # not even SIGKILL ends what hangs in the kernel
        elif view.phase in (Phase.FAILED.value, Phase.UNHEALTHY.value):
            fix = _command(facts, "restart", view.name)
        else:
            continue
        yield Finding(
            id="instance-failed",
            severity=Severity.BROKEN,
            title=f"{view.name} is {view.phase}",
            evidence=_evidence(facts, view),
            fix=fix,
        )


def instance_degraded(facts: Facts) -> Iterable[Finding]:
    """Report instances that serve, but not as they should: on the CPU, on another card, spilled.

    A restart is advised only where one may mend it, as `restart --if-unhealthy` judges: a model that did not fit
    does not fit after it either.
    """
    for view in _wanted(facts):
        if view.phase == Phase.READY.value and view.health == "degraded":
            fix, is_command = _remedy(facts, view)
            yield Finding(
                id="instance-degraded",
                severity=Severity.WARNING,
                title=f"{view.name} is DEGRADED",
                evidence=_evidence(facts, view),
                fix=fix,
                is_command=is_command,
            )


def _remedy(facts: Facts, view: InstanceView) -> tuple[str, bool]:
    """Return what to do about an instance that serves as it should not, and whether it is a command."""
    on_cpu = any(model.size_bytes > 0 and model.size_vram_bytes == 0 for model in view.models)
    if view.pinning in ("cpu", "wrong") or on_cpu:
        return _command(facts, "restart --if-unhealthy", view.name), True
    spilled = [model for model in view.models if model.size_vram_bytes < model.size_bytes]
    if spilled:
        names = ", ".join(model.name for model in spilled)
        more = " or unload what else is there" if len(view.models) > 1 else ""
        return f"ask for {names} with a smaller context (num_ctx){more}, or give it a larger card or two", False
    cards = [gpu for gpu in (() if facts.status is None else facts.status.gpus) if gpu.uuid in view.gpus]
    where = "gpus" if any(map(troubles, cards)) else "processes"
    return f"ollamux status {where}" + (" --simulated" if facts.simulated else ""), True


def _wanted(facts: Facts) -> list[InstanceView]:
    views = () if facts.status is None else facts.status.instances
    return [view for view in views if view.wanted != "down"]


def _evidence(facts: Facts, view: InstanceView) -> str:
    reason = (view.reason or "No reason is known").rstrip(".")
    return f"{reason[:1].upper()}{reason[1:]}. Its log: {_command(facts, 'logs', view.name)}"


def _command(facts: Facts, words: str, name: str) -> str:
    return f"ollamux {words} {name}" + (" --simulated" if facts.simulated else "")
