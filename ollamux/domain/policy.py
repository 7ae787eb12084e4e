"""How long to wait before the next start, and when to give up: arithmetic only."""

from __future__ import annotations

from ollamux.domain.spec import RestartPolicy, RestartSpec

JITTER = 0.2
_GOLDEN = 0.6180339887498949


def jitter(salt: float, attempt: int) -> float:
    """Return a factor in [0.8, 1.2), evenly spread over attempts and different for each salt in [0, 1)."""
    return 1.0 - JITTER + 2 * JITTER * ((salt + attempt * _GOLDEN) % 1.0)


def restart_delay_s(restart: RestartSpec, failures: int, *, salt: float) -> float:
    """Return the wait before the restart that follows the n-th consecutive failure, n from 1.

    The first restart comes after `first` exactly; the later ones after base, base*factor, … with jitter, never more
    than cap.
    """
    if failures <= 1:
        return restart.first_s
    steps = min(failures - 2, 64)  # beyond any cap, and no overflow however long the loop lasts
    grown = min(restart.cap_s, restart.base_s * restart.factor**steps)
    return min(restart.cap_s, grown * jitter(salt, failures))


def gives_up(restart: RestartSpec, failures: int) -> bool:
    """Whether so many consecutive failures are enough. A limit of 0 means never."""
    return 0 < restart.failure_limit <= failures


def restarts_after_exit(restart: RestartSpec, code: int | None) -> bool:
    """Whether an instance that ended by itself, without our asking, is started again."""
    if restart.policy is RestartPolicy.ON_FAILURE:
        return code != 0
    return restart.policy is RestartPolicy.ALWAYS
