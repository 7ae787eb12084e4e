"""The timers of the loop: in order, once, and gone when they are cancelled."""

from __future__ import annotations

import gc
import os
import signal
import weakref

from hypothesis import given
from hypothesis import strategies as st

from ollamux.system.loop import Loop, Timer


def fail(error: BaseException) -> None:
    raise error


class Owner:
    """Something that only its timer keeps alive."""

    def call(self) -> None:
        raise AssertionError("a cancelled timer was called")


def test_R54_a_thousand_cancelled_timers_of_a_far_day_are_let_go() -> None:
    loop = Loop(on_error=fail)
    left: list[weakref.ref[Owner]] = []
    for _ in range(10_000):
        owner = Owner()
        left.append(weakref.ref(owner))
        loop.call_later(3600.0, owner.call).cancel()
    del owner
    gc.collect()
    assert len(loop._timers) < 256
    assert not any(ref() for ref in left)
    loop.close()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=400))
def test_timers_are_called_in_order_and_the_cancelled_never(plans: list[tuple[int, bool]]) -> None:
    loop = Loop(on_error=fail)
    called: list[int] = []
    timers: list[tuple[Timer, bool]] = []
    for number, (at, cancelled) in enumerate(plans):
        timer = loop.call_at(float(at), lambda number=number: called.append(number))  # type: ignore[misc]
        timers.append((timer, cancelled))
        if cancelled:
            timer.cancel()
    loop.call_later(0.0, loop.stop)

    loop.run()

    kept = [number for number, (_, cancelled) in enumerate(plans) if not cancelled]
    assert called == sorted(kept, key=lambda number: (plans[number][0], number))
    loop.close()


def test_R40_what_a_signal_asks_for_is_done_by_the_loop_once_and_never_inside_the_handler() -> None:
    loop = Loop(on_error=fail)
    before = signal.getsignal(signal.SIGUSR1)
    story: list[str] = []

    def busy() -> None:
        story.append("begins")
        for _ in range(1000):
            os.kill(os.getpid(), signal.SIGUSR1)
        story.append("ends")

    def act() -> None:
        story.append("acts")
        loop.stop()

    loop.on_signal(signal.SIGUSR1, act)
    loop.call_soon(busy)
    try:
        loop.run()
    finally:
        loop.close()
        signal.signal(signal.SIGUSR1, before)

    assert story == ["begins", "ends", "acts"]
