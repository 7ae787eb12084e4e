"""What the probes have shown, put together: which hang it is, and when nothing hangs."""

from __future__ import annotations

import math

import pytest

from ollamux.domain.health import (
    HUNG_AFTER_S,
    Complaint,
    Effort,
    Health,
    SuspectRunner,
    api_answered,
    complaint,
    rested,
    scheduler_answered,
)

STILL = SuspectRunner(pid=7, effort=Effort(cpu_ticks=50, read_bytes=4096))


def ps(
    health: Health,
    now: float,
    *,
    overdue: SuspectRunner | None = None,
    loading: SuspectRunner | None = None,
    patience_s: float = 360.0,
) -> Health:
    """Take in a good answer of /api/ps."""
    return scheduler_answered(
        health,
        None,
        overdue={} if overdue is None else {"m": overdue},
        loading={} if loading is None else {"m": loading},
        load_patience_s=patience_s,
        now=now,
    )


def test_each_hang_has_a_reason_of_its_own() -> None:
    api = api_answered(api_answered(Health(), "no answer within 5 s"), "no answer within 5 s")
    assert complaint(api, 2) == Complaint(reason="the API does not answer: no answer within 5 s (2 checks in a row)")
    scheduler = Health()
    for _ in range(2):
        scheduler = scheduler_answered(scheduler, "slow", overdue={}, loading={}, load_patience_s=1.0, now=0.0)
    assert complaint(scheduler, 2) == Complaint(
        reason="the scheduler does not answer: slow (/api/ps, the API itself is fine)"
    )
    assert complaint(api_answered(scheduler, "gone"), 2) is None, "what may be the API is not said of the scheduler"
    runner = ps(ps(Health(), 0.0, overdue=STILL), HUNG_AFTER_S, overdue=STILL)
    assert complaint(runner, 2) == Complaint(
        reason="the runner of m (pid 7) hangs: a request waits and no CPU was used for 60 s", runner=7
    )
    load = ps(ps(Health(), 0.0, loading=STILL), 360.0, loading=STILL)
    assert complaint(load, 2) == Complaint(
        reason="the load of m hangs: its runner (pid 7) has used no CPU and read nothing for 6 min", runner=7
    )


@pytest.mark.parametrize(
    "at_work",
    [
        SuspectRunner(pid=7, effort=Effort(cpu_ticks=51, read_bytes=4096)),
        SuspectRunner(pid=7, effort=Effort(cpu_ticks=50, read_bytes=8192)),
        SuspectRunner(pid=8, effort=STILL.effort),
    ],
    ids=["computes", "reads", "is another one"],
)
@pytest.mark.parametrize("kind", ["overdue", "loading"])
def test_a_runner_that_does_anything_begins_the_wait_anew(kind: str, at_work: SuspectRunner) -> None:
    health = ps(Health(), 0.0, **{kind: STILL})
    health = ps(health, 59.0, **{kind: at_work})
    assert complaint(ps(health, 118.0, patience_s=60.0, **{kind: at_work}), 1) is None
    assert complaint(ps(health, 119.0, patience_s=60.0, **{kind: at_work}), 1) is not None


def test_a_load_that_may_take_for_ever_never_hangs() -> None:
    health = ps(Health(), 0.0, loading=STILL, patience_s=math.inf)
    assert complaint(ps(health, 1e9, loading=STILL, patience_s=math.inf), 1) is None


def test_a_load_that_has_ended_is_forgotten() -> None:
    health = ps(ps(ps(Health(), 0.0, loading=STILL), 300.0), 301.0, loading=STILL)
    assert complaint(ps(health, 400.0, loading=STILL), 1) is None


def test_the_canary_is_heard_last_and_forgotten_after_a_suspend() -> None:
    health = Health(canary=Complaint(reason="no token", runner=7))
    assert complaint(health, 1) == health.canary
    assert complaint(api_answered(health, "gone"), 1) != health.canary
    assert complaint(rested(health), 1) is None
