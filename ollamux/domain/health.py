"""Judge the answers of probes: pure bookkeeping between a single answer and "healthy" or "unhealthy".

Level 2 is the API (`/api/version`), level 3 the scheduler (`/api/ps`). A hung runner makes `/api/ps` slow once and
then look fine (seen on ollama 0.24.0 and 0.32.15), so what it says counts, not only that it answers: a model past its
`expires_at` is a suspicion, and hung means that its runner has besides done nothing for a minute. A runner that loads
a model is not listed at all; it may take minutes, and hangs only when it does nothing for longer than ollama itself
would bear. Level 5, the canary, has its own rules; what they come to stands in `Health.canary`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ollamux.domain.text import format_duration

HUNG_AFTER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a process has done since it was started: computed, and read from disk. None where it is not told."""

    cpu_ticks: int
    read_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A runner that does nothing although it should: since when, and what it had done by then."""

    since: float
    pid: int
    effort: Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectRunner:
    """A runner of which something is awaited: its model is past its time, or still loading."""

    pid: int
    effort: Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """Why an instance is unhealthy, and the runner that is to be ended alone for it, if any."""

    reason: str
    runner: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the probes of one incarnation have shown so far."""

    api_misses: int = 0
    scheduler_misses: int = 0
    api_error: str | None = None
    scheduler_error: str | None = None
    suspicions: Mapping[str, Suspicion] = field(default_factory=dict)
    hung: Complaint | None = None
    canary: Complaint | None = None


NOTHING_SEEN: Final = Health()


def api_answered(health: Health, error: str | None) -> Health:
    """Count an answer, or a missing one, of `/api/version`."""
    if error is None:
        return replace(health, api_misses=0, api_error=None)
    return replace(health, api_misses=health.api_misses + 1, api_error=error)


def scheduler_answered(
    health: Health,
    error: str | None,
    *,
    overdue: Mapping[str, SuspectRunner],
    loading: Mapping[str, SuspectRunner],
    load_patience_s: float,
    now: float,
) -> Health:
    """Count an answer, or a missing one, of `/api/ps`, and watch the runners from which something is awaited.

    `overdue` are those of models past their time, `loading` those of models that are not listed yet, by model.
    """
    if error is not None:
        return replace(health, scheduler_misses=health.scheduler_misses + 1, scheduler_error=error)
    suspicions: dict[str, Suspicion] = {}
    hung = None
    for model, runner in loading.items():
        suspicions[f"load {model}"] = seen = _suspicion(health.suspicions.get(f"load {model}"), runner, now)
        if now - seen.since >= load_patience_s:
            idle = f"has used no CPU and read nothing for {format_duration(load_patience_s)}"
            reason = f"the load of {model} hangs: its runner (pid {runner.pid}) {idle}"
            hung = Complaint(reason=reason, runner=runner.pid)
    for model, runner in overdue.items():
        suspicions[model] = seen = _suspicion(health.suspicions.get(model), runner, now)
        if now - seen.since >= HUNG_AFTER_S:
            reason = f"the runner of {model} (pid {runner.pid}) hangs: a request waits and no CPU was used for 60 s"
            hung = Complaint(reason=reason, runner=runner.pid)
    return replace(health, scheduler_misses=0, scheduler_error=None, suspicions=suspicions, hung=hung)


def _suspicion(known: Suspicion | None, runner: SuspectRunner, now: float) -> Suspicion:
    """Go on suspecting the very same runner while it does nothing; anything it does begins the wait anew."""
    if known is not None and known.pid == runner.pid and known.effort == runner.effort:
        return known
    return Suspicion(since=now, pid=runner.pid, effort=runner.effort)


def rested(health: Health) -> Health:
    """Forget what the first round after a suspend would hold against the instance."""
    return replace(health, api_misses=0, scheduler_misses=0, suspicions={}, hung=None, canary=None)


def complaint(health: Health, failures: int) -> Complaint | None:
    """Return what is wrong where the instance is unhealthy, else None."""
    if health.api_misses >= failures:
        return Complaint(reason=f"the API does not answer: {health.api_error} ({health.api_misses} checks in a row)")
    if health.scheduler_misses >= failures and not health.api_misses:
        return Complaint(
            reason=f"the scheduler does not answer: {health.scheduler_error} (/api/ps, the API itself is fine)"
        )
    return health.hung or health.canary
