"""The timers of the loop: in order, once, and gone when they are cancelled."""

from __future__ import annotations

import gc
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
