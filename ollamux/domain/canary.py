"""Level 5, the canary: when may which loaded model be asked for one token, and what follows from its answer. Pure.

It must be able to do no harm: it asks only what is loaded anyway, never while anything loads or computes, and stops
using a model for which its question turned out to matter. ollama re-arms the time of a model at the end of each request
(seen on 0.24.0 and 0.32.15), so that a model which is not kept for ever is asked only once after each use by others:
otherwise the canary would keep it loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from ollamux.domain.health import Effort
from ollamux.domain.spec import CanarySpec

HOUR_S = 3600.0
AGAIN_S = 10.0
"""After a miss it is asked again so soon, or after an interval if that is shorter."""
LEAVING_S = 15.0
"""A model that is about to be unloaded is left alone."""
SAME_MOMENT_S = 0.5
IDLE_SHARE = 0.005
"""A runner that uses more than this share of one core computes. Idle ones use none; a request a good part of a core."""


class Answer(Enum):
    """What an answer says about the health of a runner."""

    TOKEN = "token"  # noqa: S105 - no secret
    MISS = "miss"
    COMPUTING = "computing"
    """No answer in time, but the runner worked: it has other things to do."""
    OPEN = "open"
    """Nothing is said about the runner: the queue was full, the model gone, or the connection lost."""
    UNFIT = "unfit"
    """The model cannot be asked, or asking it did what must not happen."""


class Remedy(Enum):
    """What is to be done about a model that fails the canary."""

    END_RUNNER = "end runner"
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A loaded model as the last look showed it.

    `allowed`: it is on the list. `generates`: it makes tokens, None while unknown. `expires_at` is None where it is
    kept for ever, else seconds since 1970. `pid` is its runner, None where there is none. `active_at` is when its
    runner was last seen at work.
    """

    name: str
    allowed: bool
    generates: bool | None
    expires_at: float | None
    pid: int | None
    computes: bool
    active_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one answer of `/api/ps` and the log have shown.

    `loading`: more runners than listed models are there. `served_at` is when a request of somebody else was last
    logged as done. `wall` is the time on the server's clock.
    """

    models: tuple[Loaded, ...]
    loading: bool
    served_at: float | None
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one model: when it was asked, how often in a row in vain, what ps said right after.

    `remedied`: its runner was ended for it, and no token has come since. `moved` counts how often in a row its runner
    was another one after the question.
    """

    asked_at: float
    pid: int
    misses: int = 0
    remedied: bool = False
    moved: int = 0
    answered: bool = False
    seen_since: bool = False
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What is remembered of one instance. `asked` are the moments within the last hour."""

    due: float
    asked: tuple[float, ...] = ()
    records: Mapping[str, Record] = field(default_factory=dict)
    unfit: frozenset[str] = frozenset()


def computes(before: Effort, after: Effort, seconds: float, *, ticks_per_s: int) -> bool:
    """Say whether a process was at work between two looks: it computed, or read from disk."""
    if after.read_bytes is not None and before.read_bytes is not None and after.read_bytes > before.read_bytes:
        return True
    return after.cpu_ticks - before.cpu_ticks > IDLE_SHARE * ticks_per_s * max(seconds, 0.0)


def begin(spec: CanarySpec, *, now: float, place: int, places: int, asked: tuple[float, ...] = ()) -> Canary:
    """Begin with an instance that has become ready; instances are spread over the interval by their place."""
    return Canary(due=now + spec.interval_s * (place + 1) / max(places, 1), asked=asked)


def looked(canary: Canary, look: Look) -> Canary:
    """Take in a look: forget models that are gone, and misses that others' traffic has refuted since."""
    records: dict[str, Record] = {}
    unfit = set(canary.unfit)
    for model in look.models:
        known = canary.records.get(model.name)
        if known is None:
            continue
        if known.answered and not known.seen_since:
            known = replace(known, seen_since=True, expires_at=model.expires_at)
        if known.misses and proven(model, look, since=known.asked_at):
            known = replace(known, misses=0, remedied=False)
        records[model.name] = known
    # A model that is loaded anew is not listed meanwhile. What was remedied, or is being asked, must not be forgotten.
    for name, known in canary.records.items():
        if name not in records and (known.remedied or not known.answered):
            records[name] = known
    return replace(canary, records=records, unfit=frozenset(unfit))


def choose(canary: Canary, spec: CanarySpec, look: Look, now: float) -> Loaded | None:
    """Return the model to be asked now, the one asked longest ago; None where it is not the time for any."""
    if now < canary.due or look.loading or len(_recent(canary.asked, now)) >= spec.per_hour:
        return None
    fit = [model for model in look.models if _may_be_asked(canary, spec, model, look, now)]

    def turn(model: Loaded) -> tuple[bool, float]:
        known = canary.records.get(model.name)
        return (not _suspected(known), known.asked_at if known is not None else -1.0)

    return min(fit, key=turn, default=None)


def _may_be_asked(canary: Canary, spec: CanarySpec, model: Loaded, look: Look, now: float) -> bool:
    if not model.allowed or model.generates is False or model.name in canary.unfit:
        return False
    if model.pid is None or model.computes:
        return False
    if model.expires_at is not None and model.expires_at - look.wall < LEAVING_S:
        return False
    known = canary.records.get(model.name)
    if _suspected(known):
        return True
    if proven(model, look, since=now - spec.interval_s):
        return False
    return not _unused_since(known, model)


def _suspected(known: Record | None) -> bool:
    return known is not None and (known.misses > 0 or known.remedied)


def proven(model: Loaded, look: Look, *, since: float) -> bool:
    """Whether traffic of others has proven a model: a request was done, and its own runner was at work."""
    served = look.served_at is not None and look.served_at > since
    return served and model.active_at is not None and model.active_at > since


def _unused_since(known: Record | None, model: Loaded) -> bool:
    """Whether nobody has used a model, which is to be unloaded some time, since it was asked."""
    if known is None or not known.seen_since or known.expires_at is None or model.expires_at is None:
        return False
    return abs(model.expires_at - known.expires_at) < SAME_MOMENT_S


def _recent(asked: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in asked if at > now - HOUR_S)


def sent(canary: Canary, spec: CanarySpec, model: Loaded, now: float) -> Canary:
    """Count a question."""
    assert model.pid is not None  # noqa: S101 - only such a model is chosen
    known = canary.records.get(model.name)
    fresh = Record(asked_at=now, pid=model.pid)
    if known is not None:
        fresh = replace(fresh, misses=known.misses, remedied=known.remedied, moved=known.moved)
    return replace(
        canary,
        due=now + spec.interval_s,
        asked=(*_recent(canary.asked, now), now),
        records={**canary.records, model.name: fresh},
    )


def answered(
    canary: Canary, spec: CanarySpec, name: str, answer: Answer, *, now: float
) -> tuple[Canary, Remedy | None]:
    """Judge an answer; return what is to be done, which is the gentler remedy first."""
    known = canary.records.get(name)
    if known is None:
        return canary, None
    known = replace(known, answered=True)
    if answer is Answer.UNFIT:
        records = {other: record for other, record in canary.records.items() if other != name}
        return replace(canary, records=records, unfit=canary.unfit | {name}), None
    if answer is Answer.TOKEN:
        return _with(canary, name, replace(known, misses=0, remedied=False)), None
    if answer is Answer.COMPUTING:
        return _with(canary, name, replace(known, misses=0)), None
    if answer is Answer.OPEN:
        return _with(canary, name, known), None
    misses = known.misses + 1
    soon = replace(canary, due=min(canary.due, now + min(AGAIN_S, spec.interval_s)))
    if misses < spec.failures:
        return _with(soon, name, replace(known, misses=misses)), None
    if known.remedied:
        return _with(soon, name, replace(known, misses=0)), Remedy.RESTART
    return _with(replace(soon, due=now), name, replace(known, misses=0, remedied=True)), Remedy.END_RUNNER


def moved(canary: Canary, name: str, before: int, pid: int | None, *, quickly: bool) -> tuple[Canary, bool]:
    """Compare the runner after a question with the one before it; True where the model is not asked any more.

    A question with options that the clients do not use makes ollama load the model anew. So does ollama itself when a
    runner does not answer its ping for 10 s, twice; that is mended by the question, and is borne once.
    """
    if pid is None:
        return canary, False
    known = canary.records.get(name) or Record(asked_at=canary.due, pid=before, answered=True)
    if pid == before:
        return _with(canary, name, replace(known, moved=0)), False
    if quickly or known.moved:
        return replace(canary, unfit=canary.unfit | {name}), True
    return _with(canary, name, replace(known, moved=1)), False


def put_off(canary: Canary, spec: CanarySpec, now: float) -> Canary:
    """Let this round pass."""
    return replace(canary, due=max(canary.due, now + spec.interval_s))


def rested(canary: Canary, spec: CanarySpec, now: float) -> Canary:
    """Forget misses after a suspend, and let the first round after it pass."""
    records = {name: replace(known, misses=0) for name, known in canary.records.items()}
    return put_off(replace(canary, records=records), spec, now)


def _with(canary: Canary, name: str, record: Record) -> Canary:
    return replace(canary, records={**canary.records, name: record})
