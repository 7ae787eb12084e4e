"""The arithmetic of restarts: bounds, jitter, and no overflow however long the loop lasts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.domain.policy import JITTER, gives_up, jitter, restart_delay_s, restarts_after_exit
from ollamux.domain.spec import RestartPolicy, RestartSpec

steady = settings(derandomize=True, deadline=None, database=None, max_examples=200)
SALTS = st.floats(0, 1, exclude_max=True)


@steady
@given(SALTS, st.integers(0, 10**9))
def test_jitter_stays_in_its_bounds(salt: float, attempt: int) -> None:
    assert 1 - JITTER <= jitter(salt, attempt) < 1 + JITTER + 1e-9


def test_jitter_keeps_instances_and_attempts_apart() -> None:
    of_eight = [jitter(number / 8, 3) for number in range(8)]
    assert min(abs(a - b) for a in of_eight for b in of_eight if a is not b) > 0.01
    of_one = [jitter(0.3, attempt) for attempt in range(2, 10)]
    assert min(abs(a - b) for a in of_one for b in of_one if a is not b) > 0.01


@pytest.mark.parametrize(
    ("failures", "nominal_s"), [(2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 32), (8, 60), (99, 60)]
)
def test_the_delays_grow_to_the_cap(failures: int, nominal_s: float) -> None:
    for salt in (0.0, 0.3, 0.999):
        delay = restart_delay_s(RestartSpec(), failures, salt=salt)
        assert nominal_s * (1 - JITTER) <= delay <= min(60.0, nominal_s * (1 + JITTER))


@pytest.mark.parametrize("failures", [0, 1])
def test_the_first_restart_comes_after_first_exactly(failures: int) -> None:
    assert restart_delay_s(RestartSpec(), failures, salt=0.9) == 0.0
    assert restart_delay_s(RestartSpec(first_s=2.5), failures, salt=0.9) == 2.5


@steady
@given(
    st.integers(1, 10**12),
    SALTS,
    st.floats(0, 1e6),
    st.floats(1, 100),
    st.floats(0, 1e6),
)
def test_no_delay_is_negative_or_beyond_the_cap(
    failures: int, salt: float, base: float, factor: float, cap: float
) -> None:
    restart = RestartSpec(first_s=0.0, base_s=base, factor=factor, cap_s=cap)
    assert 0.0 <= restart_delay_s(restart, failures, salt=salt) <= cap


@pytest.mark.parametrize(("limit", "failures", "enough"), [(8, 7, False), (8, 8, True), (8, 9, True), (1, 1, True), (0, 10**9, False)])  # fmt: skip  # noqa: E501
def test_so_many_failures_are_enough(limit: int, failures: int, enough: bool) -> None:
    assert gives_up(RestartSpec(failure_limit=limit), failures) is enough


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [
        (RestartPolicy.ALWAYS, 0, True),
        (RestartPolicy.ALWAYS, 1, True),
        (RestartPolicy.ALWAYS, None, True),
        (RestartPolicy.ON_FAILURE, 0, False),
        (RestartPolicy.ON_FAILURE, 1, True),
        (RestartPolicy.ON_FAILURE, None, True),
        (RestartPolicy.NEVER, 0, False),
        (RestartPolicy.NEVER, 1, False),
        (RestartPolicy.NEVER, None, False),
    ],
)
def test_what_follows_an_exit_nobody_asked_for(policy: RestartPolicy, code: int | None, restarts: bool) -> None:
    assert restarts_after_exit(RestartSpec(policy=policy), code) is restarts
