"""Which model that is to be kept is asked for now, and which is left alone for a while. Pure.

A real server evicts a kept model as soon as its limit of loaded models is reached, and a client's own `keep_alive` ends
its time; a request with another context loads it anew (all seen on 0.24.0 and 0.32.15). So what is kept is watched. It
comes back, but never in a quarrel: each loss within a while makes the next attempt later, and what a client may be
using is neither loaded anew nor evicted for it. No kept model is ever loaded at the cost of another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from ollamux.domain.spec import PinSpec
from ollamux.domain.text import same_model

CAP_S = 600.0
"""The longest wait between two attempts, and how long a pin must last for earlier trouble to be forgotten."""
SLACK_S = 2.0
FRESH_S = 2.0
"""A look so soon after a load shows what the load gave: its context is cut to what the model was trained for."""
FITS_SHARE = 0.8
"""A server loads beside others what it predicts to take no more than this share of the free memory (sched.go:1102)."""


class Need(Enum):
    """What a pin lacks."""

    NOTHING = "nothing"
    RENEWAL = "renewal"
    """It is loaded as it was; to ask for it disturbs nobody."""
    RELOAD = "reload"
    """It is loaded in another way: to ask for it ends the runner that a client may be using."""
    LOAD = "load"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinState:
    """What became of a pin. Times are monotonic but `expires_at`, which is the server's, in seconds since 1970.

    `trouble` counts failures and losses; `context` and `runner` are what our load gave; `size_bytes` what it takes on
    the cards. `waits` says why it is not asked for now; `kept_once` that it was seen to be kept since it became READY;
    `changed` that the model was kept in another way before, which is no answer to what is asked for now.
    """

    trouble: int = 0
    tried_at: float | None = None
    kept_since: float | None = None
    context: int | None = None
    runner: int | None = None
    size_bytes: int | None = None
    expires_at: float | None = None
    failed: str | None = None
    missing: bool = False
    waits: str | None = None
    kept_once: bool = False
    changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A loaded model. `alive` is False where its runner was killed: it is listed until somebody asks for it."""

    name: str
    expires_at: float | None
    context: int | None
    runner: int | None
    size_bytes: int
    alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One answer of `/api/ps`.

    `limit` is how many models the server loads at most; `free_bytes` what is free on its cards, None where it has none;
    `quiet` whether no runner was at work for a while; `default_context` is that of a request which asks for none.
    """

    models: tuple[Seen, ...]
    limit: int
    free_bytes: int | None
    quiet: bool
    wall: float
    default_context: int

    def find(self, name: str) -> Seen | None:
        """Return a model by its name."""
        return next((seen for seen in self.models if same_model(seen.name, name)), None)


def need(pin: PinSpec, state: PinState, look: Look) -> Need:
    """Say what a pin lacks. One for a time is loaded again only where it went before its time."""
    seen = look.find(pin.name)
    for_ever = pin.keep_alive_s is not None and pin.keep_alive_s < 0
    if seen is None or not seen.alive:
        over = state.expires_at is not None and look.wall > state.expires_at - SLACK_S
        return Need.NOTHING if over and not for_ever else Need.LOAD
    if not for_ever:
        return Need.LOAD if state.tried_at is None else Need.NOTHING
    if not _as_loaded(pin, state, seen, look):
        # Before it was asked for: of a model that an earlier supervisor pinned, the trained context was the limit.
        inherited = not state.changed and state.tried_at is None and seen.expires_at is None
        inherited = inherited and _within(pin, seen, look)
        return Need.NOTHING if inherited else Need.RELOAD
    known = state.tried_at is not None or state.kept_since is not None
    return Need.NOTHING if seen.expires_at is None and known else Need.RENEWAL


def _as_loaded(pin: PinSpec, state: PinState, seen: Seen, look: Look) -> bool:
    if state.context is None:
        return seen.context in (None, pin.num_ctx or look.default_context)
    other_runner = state.runner is not None and seen.runner is not None and seen.runner != state.runner
    return state.context == seen.context and not other_runner


def _within(pin: PinSpec, seen: Seen, look: Look) -> bool:
    """Whether a context can be what came of ours: a model is loaded with no more than it was trained for."""
    return seen.context is not None and seen.context <= (pin.num_ctx or look.default_context)


def looked(pin: PinSpec, state: PinState, look: Look, now: float) -> PinState:
    """Take in a look: what is kept, and how; a pin that has just been lost counts as trouble."""
    seen = look.find(pin.name)
    fresh = state.tried_at is not None and now - state.tried_at < FRESH_S and state.failed is None
    if fresh and state.context is None and seen is not None and seen.alive and _within(pin, seen, look):
        state = replace(state, context=seen.context, runner=seen.runner, kept_once=True)
    if need(pin, state, look) is Need.NOTHING:
        if seen is None:
            return replace(state, kept_since=None, failed=None, waits=None)
        since = now if state.kept_since is None else state.kept_since
        trouble = 0 if now - since >= CAP_S else state.trouble
        known = replace(
            state, kept_since=since, trouble=trouble, failed=None, missing=False, waits=None, kept_once=True
        )
        if state.context is None:
            known = replace(known, context=seen.context, runner=seen.runner)
        return replace(known, size_bytes=seen.size_bytes, expires_at=seen.expires_at)
    if state.kept_since is None:
        return state
    return replace(state, kept_since=None, trouble=state.trouble + (state.tried_at is not None))


def due(state: PinState, renew_s: float) -> float:
    """Return when a pin may be asked for again."""
    if state.tried_at is None:
        return float("-inf")
    return state.tried_at + min(max(renew_s, CAP_S), renew_s * 2.0 ** min(max(state.trouble - 1, 0), 20))


def obstacle(pin: PinSpec, pins: tuple[PinSpec, ...], state: PinState, look: Look) -> str | None:
    """Say why a pin cannot be asked for now without harm to anybody, None where it can."""
    what = need(pin, state, look)
    if what is Need.RENEWAL:
        return None
    if what is Need.RELOAD:
        return None if look.quiet else "a client may be using it, loaded in another way; it is loaded anew once idle"
    listed = look.find(pin.name)
    others = [seen for seen in look.models if seen is not listed]
    foreign = [seen for seen in others if not any(same_model(seen.name, other.name) for other in pins)]
    if len(others) >= look.limit:
        if not any(seen.expires_at is not None for seen in foreign):
            names = ", ".join(seen.name for seen in others)
            return f"no more than {look.limit} may be loaded (max_loaded_models), and {names} stay"
        return None if look.quiet else f"{foreign[0].name} has its place, and may be in use; it is back once that idles"
    if not foreign or look.quiet or look.free_bytes is None:
        return None
    if state.size_bytes is not None and state.size_bytes <= FITS_SHARE * look.free_bytes:
        return None
    return f"{foreign[0].name} may have its memory, and be in use; it is back once that idles"


def choose(
    pins: tuple[PinSpec, ...], states: Mapping[str, PinState], look: Look, now: float, *, renew_s: float
) -> PinSpec | None:
    """Return the first pin that is to be asked for now."""
    for pin in pins:
        state = states.get(pin.name, PinState())
        if need(pin, state, look) is Need.NOTHING or now < due(state, renew_s):
            continue
        if obstacle(pin, pins, state, look) is None:
            return pin
    return None


def loss(pin: PinSpec, state: PinState, look: Look) -> str | None:
    """Say how a pin was lost, None where it was never kept."""
    seen = look.find(pin.name)
    if not state.kept_once or state.failed is not None:
        return None
    if seen is None:
        return "evicted, or unloaded by a client"
    if not seen.alive:
        return "its runner was killed"
    if need(pin, state, look) is Need.RELOAD:
        same = seen.context == state.context
        return "loaded anew with other options" if same else f"loaded anew with a context of {seen.context}"
    return "a client set keep_alive"


def asked(state: PinState, now: float) -> PinState:
    """Note that a pin is being asked for."""
    return replace(state, tried_at=now, waits=None)


def loaded(state: PinState, now: float) -> PinState:
    """Note that it was loaded; how is seen at the next look."""
    return replace(
        state, tried_at=now, kept_since=None, context=None, runner=None, expires_at=None, failed=None, missing=False
    )


def failed(state: PinState, now: float, why: str, *, missing: bool) -> PinState:
    """Note that it could not be loaded."""
    return replace(state, tried_at=now, kept_since=None, trouble=state.trouble + 1, failed=why, missing=missing)
