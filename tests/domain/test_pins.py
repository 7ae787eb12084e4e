"""Which model that is to be kept is asked for, and that no quarrel comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.domain.pins import (
    CAP_S,
    Look,
    Need,
    PinState,
    Seen,
    asked,
    choose,
    due,
    failed,
    loaded,
    looked,
    loss,
    need,
    obstacle,
)
from ollamux.domain.spec import PinSpec

RENEW_S = 30.0
M, N = PinSpec(name="m", num_ctx=4096), PinSpec(name="n")
TIMED = PinSpec(name="m", keep_alive_s=60.0)


def seen(name: str = "m:latest", **how: object) -> Seen:
    return replace(Seen(name=name, expires_at=None, context=4096, runner=1, size_bytes=100), **how)


def look(*models: Seen, limit: int = 3, free: int | None = None, quiet: bool = True, wall: float = 1000.0) -> Look:
    return Look(models=models, limit=limit, free_bytes=free, quiet=quiet, wall=wall, default_context=8192)


KEPT = PinState(tried_at=0.0, kept_since=0.0, context=4096, runner=1, kept_once=True, size_bytes=100)


@pytest.mark.parametrize(
    ("pin", "state", "at", "wanted"),
    [
        (M, PinState(), look(), Need.LOAD),
        (M, KEPT, look(seen()), Need.NOTHING),
        (M, PinState(), look(seen()), Need.RENEWAL),  # whether it was loaded so for good is not known
        (M, KEPT, look(seen(expires_at=2000.0)), Need.RENEWAL),
        (M, KEPT, look(seen(context=512)), Need.RELOAD),
        (M, KEPT, look(seen(runner=2)), Need.RELOAD),  # as with other options, which ps does not tell
        (M, KEPT, look(seen(alive=False)), Need.LOAD),
        (M, KEPT, look(), Need.LOAD),
        (M, PinState(), look(seen(context=512, expires_at=2000.0)), Need.RELOAD),
        (M, PinState(), look(seen(context=8192)), Need.RELOAD),
        (N, PinState(), look(seen("n:latest", context=8192, expires_at=2000.0)), Need.RENEWAL),
        (N, PinState(), look(seen("n:latest", context=512, expires_at=2000.0)), Need.RELOAD),
        (TIMED, replace(KEPT, expires_at=999.0), look(), Need.NOTHING),
        (TIMED, replace(KEPT, expires_at=1050.0), look(), Need.LOAD),
        (TIMED, KEPT, look(seen(expires_at=1010.0, context=512)), Need.NOTHING),
        (TIMED, PinState(), look(seen(expires_at=1010.0)), Need.LOAD),
    ],
)
def test_what_a_pin_lacks(pin: PinSpec, state: PinState, at: Look, wanted: Need) -> None:
    assert need(pin, state, at) is wanted


OTHER = seen("other:latest", expires_at=1100.0)


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (look(), None),
        (look(OTHER), None),
        (look(OTHER, quiet=False), None),  # no cards: nothing tells that there is no room
        (look(OTHER, quiet=False, free=1000), None),
        (look(OTHER, quiet=False, free=110), "may have its memory"),
        (look(OTHER, quiet=True, free=110), None),
        (look(OTHER, limit=1), None),
        (look(OTHER, limit=1, quiet=False), "has its place"),
        (look(replace(OTHER, expires_at=None), limit=1), "no more than 1 may be loaded"),
        (look(seen("n:latest"), limit=1), "no more than 1 may be loaded"),
        (look(seen("n:latest"), limit=2, quiet=False, free=1), None),  # a pin of our own, not a client's
        (look(seen(context=512), quiet=False), "a client may be using it"),
        (look(seen(context=512)), None),
        (look(seen(expires_at=2000.0), OTHER, quiet=False, limit=1), None),
    ],
)
def test_what_keeps_a_pin_from_being_asked_for(at: Look, told: str | None) -> None:
    found = obstacle(M, (M, N), replace(KEPT, kept_since=None), at)
    assert found is None if told is None else told in (found or "")


def test_how_a_pin_was_lost_is_told() -> None:
    lost = replace(KEPT, kept_since=None)
    assert loss(M, PinState(), look()) is None
    assert "evicted" in (loss(M, lost, look()) or "")
    assert "killed" in (loss(M, lost, look(seen(alive=False))) or "")
    assert loss(M, lost, look(seen(context=512))) == "loaded anew with a context of 512"
    assert loss(M, lost, look(seen(runner=2))) == "loaded anew with other options"
    assert loss(M, lost, look(seen(expires_at=2000.0))) == "a client set keep_alive"


def test_the_first_look_after_a_load_tells_how_the_model_was_loaded() -> None:
    """Its context is cut to the trained one, and a client may have been quicker than the look."""
    after = looked(N, loaded(asked(PinState(), 5.0), 5.0), look(seen("n:latest", context=2048, expires_at=2000.0)), 6.0)
    assert need(N, after, look(seen("n:latest", context=2048, expires_at=2000.0))) is Need.RENEWAL
    assert loss(N, after, look(seen("n:latest", context=2048, expires_at=2000.0))) == "a client set keep_alive"
    assert need(N, after, look(seen("n:latest", context=512, expires_at=2000.0))) is Need.RELOAD


def test_what_an_earlier_supervisor_pinned_is_left_as_it_is() -> None:
    at = look(seen("n:latest", context=2048))
    assert need(N, looked(N, PinState(), at, 1.0), at) is Need.NOTHING


def test_each_attempt_waits_longer_and_what_lasts_is_forgiven() -> None:
    state, now, waits = PinState(), 0.0, []
    for _ in range(8):
        state = failed(asked(state, now), now, "no", missing=False)
        waits.append(due(state, RENEW_S) - now)
        now = due(state, RENEW_S)
    assert waits == [30, 60, 120, 240, 480, CAP_S, CAP_S, CAP_S]
    state = looked(M, loaded(state, now), look(seen()), now)
    assert looked(M, state, look(seen()), now + CAP_S).trouble == 0
    assert looked(M, state, look(), now + 1.0).trouble == state.trouble + 1


@dataclass
class Server:
    """A server with a limit, pins, and a client that does whatever it likes."""

    limit: int
    models: dict[str, Seen] = field(default_factory=dict)
    runner: int = 0

    def load(self, name: str, context: int, expires_at: float | None) -> None:
        known = self.models.get(name)
        if known is None:
            while len(self.models) >= self.limit:
                victim = min(self.models.values(), key=lambda one: one.expires_at or float("inf"))
                del self.models[victim.name]
        if known is None or known.context != context:
            self.runner += 1
            known = seen(name, context=context, runner=self.runner)
        self.models[name] = replace(known, expires_at=expires_at)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["use", "shorten", "other context", "unload", "nothing"]),
        st.sampled_from(["m:latest", "n:latest", "x:latest", "y:latest"]),
        st.floats(0.5, 90.0),
        st.booleans(),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps=STEPS, limit=st.integers(1, 4))
def test_M1_M3_M4_whatever_clients_do_pins_come_back_without_a_quarrel(
    steps: list[tuple[str, str, float, bool]], limit: int
) -> None:
    pins, states = (M, N), {M.name: PinState(), N.name: PinState()}
    server, now, attempts = Server(limit), 0.0, [0.0] * 0

    def turn(quiet: bool) -> None:
        at = look(*server.models.values(), limit=limit, quiet=quiet, wall=now)
        for pin in pins:
            states[pin.name] = looked(pin, states[pin.name], at, now)
        chosen = choose(pins, states, at, now, renew_s=RENEW_S)
        if chosen is None:
            return
        before, known = dict(server.models), at.find(chosen.name)
        attempts.append(now)
        states[chosen.name] = asked(states[chosen.name], now)
        server.load(f"{chosen.name}:latest", chosen.num_ctx or 8192, None)
        after = look(*server.models.values(), limit=limit, quiet=quiet, wall=now)  # the supervisor looks at once
        states[chosen.name] = looked(chosen, loaded(states[chosen.name], now), after, now)
        other = next(pin for pin in pins if pin is not chosen)
        kept = before.get(f"{other.name}:latest")
        assert kept is None or kept.expires_at is not None or kept.name in server.models, "a pin fell for a pin"
        if not quiet and known is not None:
            assert server.models[known.name].runner == known.runner, "a runner was ended that may be in use"
        if not quiet and len(before) >= limit:
            assert set(before) <= set(server.models), "a model was evicted that may be in use"

    for what, name, wait, quiet in steps:
        if what == "use":
            server.load(name, server.models[name].context or 1 if name in server.models else 4096, now + 300.0)
        elif what == "shorten" and name in server.models:
            server.models[name] = replace(server.models[name], expires_at=now + 5.0)
        elif what == "other context":
            server.load(name, 512, now + 300.0)
        elif what == "unload":
            server.models.pop(name, None)
        turn(quiet)
        now += wait
        server.models = {k: one for k, one in server.models.items() if one.expires_at is None or one.expires_at > now}
    for pin in pins:
        assert states[pin.name].trouble <= len(attempts)

    for _ in range(2000):  # left alone, as many come back as there is room for
        now += 5.0
        server.models = {k: one for k, one in server.models.items() if one.expires_at is None or one.expires_at > now}
        turn(True)
    kept = [pin for pin in pins if need(pin, states[pin.name], look(*server.models.values(), wall=now)) is Need.NOTHING]
    assert len(kept) == min(limit, 2)


def test_M2_a_client_that_never_gives_in_is_bothered_ever_less() -> None:
    server, state, now, attempts = Server(1), PinState(), 0.0, 0
    while now < 6 * 3600.0:
        at = look(*server.models.values(), limit=1, wall=now)
        state = looked(M, state, at, now)
        if choose((M,), {"m": state}, at, now, renew_s=RENEW_S) is not None:
            attempts += 1
            server.load("m:latest", 4096, None)
            state = looked(M, loaded(asked(state, now), now), look(*server.models.values(), limit=1, wall=now), now)
            server.load("x:latest", 4096, now + 300.0)
        now += 5.0
    assert attempts <= 6 + 6 * 3600.0 / CAP_S
