"""Count restarts for the life of an instance, and notice when somebody asks for them all the time. Pure bookkeeping.

An automatic restart follows a failure or a fault of the device; a manual one was asked for, by a person or by cron.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MANY = 12
WITHIN_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was counted. `asked_gen` is the generation that the last request by hand was for.

    `asked` are the moments of the latest requests, and `warned` that of the last warning, in monotonic seconds.
    """

    auto: int = 0
    manual: int = 0
    asked_gen: int = 0
    asked: tuple[float, ...] = ()
    warned: float | None = None


def asked_for(tally: Tally, gen: int, now: float) -> tuple[Tally, str | None]:
    """Count a request by hand that generation `gen` will answer; return with it a warning where there were too many."""
    asked = (*(moment for moment in tally.asked if now - moment < WITHIN_S), now)[-MANY:]
    told = replace(tally, asked_gen=gen, asked=asked)
    quiet = tally.warned is not None and now - tally.warned < WITHIN_S
    if len(asked) < MANY or quiet:
        return told, None
    minutes = f"{WITHIN_S / 60:g} min"
    return replace(told, warned=now), (
        f"warning: asked to restart {MANY} times by hand within {minutes}; is it a cron job or a script? "
        "ollamux restart --if-unhealthy restarts only what needs it"
    )


def restarted(tally: Tally, gen: int) -> Tally:
    """Count a restart that was carried out; requests that came together are one restart."""
    if gen == tally.asked_gen:
        return replace(tally, manual=tally.manual + 1)
    return replace(tally, auto=tally.auto + 1)
