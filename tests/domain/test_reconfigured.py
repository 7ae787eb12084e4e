"""What other times and another policy mean for a wait that is under way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollamux.domain import events as ev
from ollamux.domain.instance import Deadline, Instance, LastExit
from ollamux.domain.machine import step
from ollamux.domain.phases import DeadlineKind, Phase, Want, Why
from ollamux.domain.spec import RestartPolicy, RestartSpec

NOW = 1000.0
SLOW = RestartSpec(first_s=3600.0, base_s=3600.0, cap_s=3600.0, retry_failed_s=3600.0, policy=RestartPolicy.NEVER)
QUICK = RestartSpec(first_s=0.0, base_s=1.0, cap_s=1.0, retry_failed_s=30.0)


def reconfigured(state: Instance, restart: RestartSpec) -> Instance:
    event = ev.Reconfigured(restart=restart, start_timeout_s=180.0, unhealthy_timeout_s=30.0)
    after = step(state, event, NOW)
    assert after.commands == ()
    return after.state


def waiting(kind: DeadlineKind, restart: RestartSpec, *, failures: int = 1) -> Instance:
    return Instance(
        phase=Phase.WAITING, want=Want.UP, gen=3, failures=failures, spawns=3, restart=restart, reason="it fell",
        deadline=Deadline(kind=kind, at=NOW + 3500),
    )  # fmt: skip


@pytest.mark.parametrize("failures", [1, 4])
def test_a_shorter_back_off_holds_for_the_one_that_waits(failures: int) -> None:
    patient = replace(SLOW, policy=RestartPolicy.ALWAYS)
    after = reconfigured(waiting(DeadlineKind.BACKOFF, patient, failures=failures), QUICK)
    assert after.phase is Phase.WAITING
    assert after.deadline is not None
    assert after.deadline.at <= NOW


def test_a_wait_for_a_resource_is_no_matter_of_times_or_policy() -> None:
    before = waiting(DeadlineKind.RESOURCE, QUICK)
    after = reconfigured(before, SLOW)
    assert (after.phase, after.deadline) == (before.phase, before.deadline)


def test_one_that_waits_to_be_restarted_is_not_where_the_policy_forbids_it() -> None:
    after = reconfigured(waiting(DeadlineKind.BACKOFF, QUICK), SLOW)
    assert (after.phase, after.deadline) == (Phase.FAILED, None)
    assert after.reason == "it fell; not restarted: restart.policy is never"


def failed(why: Why | None, restart: RestartSpec, deadline: Deadline | None = None) -> Instance:
    return Instance(
        phase=Phase.FAILED, want=Want.UP, why=why, gen=3, failures=1, spawns=3, restart=restart, deadline=deadline,
        last_exit=LastExit(code=1, signal=None),
    )  # fmt: skip


def test_one_that_failed_is_tried_again_at_the_new_pace() -> None:
    after = reconfigured(failed(None, SLOW, Deadline(kind=DeadlineKind.RETRY, at=NOW + 3500)), QUICK)
    assert after.deadline is not None
    assert after.deadline.at <= NOW


def test_one_that_was_not_restarted_by_its_policy_is_tried_again_when_the_policy_allows_it() -> None:
    after = reconfigured(failed(None, SLOW), QUICK)
    assert after.deadline == Deadline(kind=DeadlineKind.RETRY, at=NOW + 30)
    assert reconfigured(failed(None, SLOW), replace(QUICK, policy=RestartPolicy.NEVER)).deadline is None


def test_one_that_was_taken_out_of_service_stays_out_whatever_the_policy() -> None:
    assert reconfigured(failed(Why.GAVE_UP, SLOW), QUICK).deadline is None
