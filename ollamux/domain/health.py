"""Judge the answers of probes: pure bookkeeping between a single answer and "healthy" or "unhealthy".

Level 2 is the API (`/api/version`), level 3 the scheduler (`/api/ps`). A hung runner makes `/api/ps` slow once and
then look fine (seen on ollama 0.24.0 and 0.32.15), so what it says counts, not only that it answers: a model past its
`expires_at` is a suspicion, and hung means that its runner has besides used no CPU for a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

HUNG_AFTER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A model past its time: since when its runner has used no CPU, and how much it had used by then."""

    since: float
    cpu_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdueRunner:
    """The runner of a model whose `expires_at` has passed."""

    pid: int
    cpu_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the probes of one incarnation have shown so far."""

    api_misses: int = 0
    scheduler_misses: int = 0
    api_error: str | None = None
    scheduler_error: str | None = None
    suspicions: Mapping[str, Suspicion] = field(default_factory=dict)
    hung: tuple[str, int] | None = None


def api_answered(health: Health, error: str | None) -> Health:
    """Count an answer, or a missing one, of `/api/version`."""
    if error is None:
        return replace(health, api_misses=0, api_error=None)
    return replace(health, api_misses=health.api_misses + 1, api_error=error)


def scheduler_answered(
    health: Health, error: str | None, *, overdue: Mapping[str, OverdueRunner], now: float
) -> Health:
    """Count an answer, or a missing one, of `/api/ps`, and watch the runners of models past their time."""
    if error is not None:
        return replace(health, scheduler_misses=health.scheduler_misses + 1, scheduler_error=error)
    suspicions: dict[str, Suspicion] = {}
    hung = None
    for model, runner in overdue.items():
        known = health.suspicions.get(model)
        if known is None or known.cpu_ticks != runner.cpu_ticks:
            suspicions[model] = Suspicion(since=now, cpu_ticks=runner.cpu_ticks)
            continue
        suspicions[model] = known
        if now - known.since >= HUNG_AFTER_S:
            hung = (model, runner.pid)
    return replace(health, scheduler_misses=0, scheduler_error=None, suspicions=suspicions, hung=hung)


def rested(health: Health) -> Health:
    """Forget what the first round after a suspend would hold against the instance."""
    return replace(health, api_misses=0, scheduler_misses=0, suspicions={}, hung=None)


def complaint(health: Health, failures: int) -> tuple[str, int | None] | None:
    """Return (reason, pid of a hung runner or None) where the instance is unhealthy, else None."""
    if health.api_misses >= failures:
        return f"the API does not answer: {health.api_error} ({health.api_misses} checks in a row)", None
    if health.scheduler_misses >= failures:
        return f"the scheduler does not answer: {health.scheduler_error} (/api/ps, the API itself is fine)", None
    if health.hung is not None:
        model, pid = health.hung
        return f"the runner of {model} (pid {pid}) hangs: a request waits and no CPU was used for 60 s", pid
    return None
