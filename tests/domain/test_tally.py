"""How restarts are counted, and when somebody who asks for them all the time is told."""

from __future__ import annotations

from ollamux.domain.tally import MANY, WITHIN_S, Tally, asked_for, restarted


def ask_every(
    seconds: float, count: int, tally: Tally | None = None, *, start: float = 0.0
) -> tuple[Tally, list[float]]:
    """Ask so many times; return the tally and the moments at which there was a warning."""
    tally, warned = tally or Tally(), []
    for number in range(count):
        now = start + number * seconds
        tally, warning = asked_for(tally, 1, now)
        if warning is not None:
            warned.append(now)
            assert f"{MANY} times by hand within 15 min" in warning
    return tally, warned


def test_R84_a_restart_a_minute_is_told_once_in_a_quarter_of_an_hour() -> None:
    _, warned = ask_every(60.0, 40)
    assert warned == [60.0 * (MANY - 1), 60.0 * (MANY - 1) + WITHIN_S]


def test_R84_a_nightly_restart_and_an_hourly_one_are_nobodys_business() -> None:
    assert ask_every(86400.0, 400)[1] == []
    assert ask_every(3600.0, 400)[1] == []


def test_R84_eleven_in_a_burst_are_not_yet_told_the_twelfth_is() -> None:
    tally, warned = ask_every(1.0, MANY - 1)
    assert warned == []
    assert ask_every(1.0, 1, tally, start=WITHIN_S - 1)[1] == [WITHIN_S - 1]
    assert ask_every(1.0, 1, tally, start=WITHIN_S)[1] == [], "the first of them is too long ago"


def test_R84_what_is_kept_of_the_requests_is_bounded() -> None:
    assert len(ask_every(0.001, 5000)[0].asked) <= MANY


def test_R84_a_restart_that_was_asked_for_is_told_from_one_of_its_own() -> None:
    tally, _ = asked_for(Tally(), 5, 0.0)
    tally, _ = asked_for(tally, 5, 1.0)
    tally = restarted(restarted(restarted(tally, 5), 6), 7)
    assert (tally.manual, tally.auto) == (1, 2), "two requests were one restart"
