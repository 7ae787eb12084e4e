"""Answer a client once what it asked for has settled: one instance, several, or one after the other.

What a client waits for is kept as plain values beside it, so that the program that takes our place can go on waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ollamux.domain.errors import Exit
from ollamux.domain.text import LONGEST_S
from ollamux.protocol.client import PROTOCOL
from ollamux.supervisor.core import Core
from ollamux.supervisor.server import Client
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.waiters import SUPERSEDED, Judge, Outcome, Waiters, ready_outcome, stopped_outcome
from ollamux.system.clock import monotonic

DEFAULT_TIMEOUT_S = 300.0
_JUDGES: dict[str, Judge] = {"ready": ready_outcome, "stopped": stopped_outcome}


class Settling:
    """Waits on behalf of clients. `restart` asks one instance to restart, and returns the generation to be left."""

    def __init__(self, core: Core, waiters: Waiters, *, restart: Callable[[Unit], int]) -> None:
        self._core = core
        self._waiters = waiters
        self._restart = restart

    def settle(
        self,
        client: Client,
        request: dict[str, Any],
        before: dict[str, int],
        judge: str,
        *,
        stopping: Iterable[str] = (),
    ) -> None:
        """Answer when each instance is "ready" or "stopped"; `before` maps names to the generation to be left.

        `stopping` are those that are to be stopped, whatever becomes of the others.
        """
        if request.get("wait") is False:
            _report(client, [Outcome(name, Exit.OK, "asked") for name in before])
            return
        timeout_s = timeout_of(request)
        self._settle(client, before, judge, tuple(stopping), timeout_s=timeout_s, until=monotonic() + timeout_s)

    def _settle(
        self,
        client: Client,
        before: dict[str, int],
        judge: str,
        stopping: tuple[str, ...],
        *,
        timeout_s: float,
        until: float,
    ) -> None:
        def judged(unit: Unit, gen: int) -> Outcome | None:
            return _JUDGES["stopped" if unit.name in stopping else judge](unit, gen)

        times = {"timeout": timeout_s, "until": until}
        client.waits = {"for": judge, "before": before, "stopping": stopping, **times}
        client.on_gone = self._waiters.wait(
            before, judged, timeout_s=timeout_s, until=until, done=lambda outcomes: _report(client, outcomes)
        )

    def roll(self, client: Client, request: dict[str, Any], units: list[Unit]) -> None:
        """Restart one after the other, the next only when the last is ready.

        The first that fails ends it. One that is stopped before its turn comes, or in it, stays so, and is no failure.
        """
        running = [unit.name for unit in units if unit.wanted]
        self._roll(client, units, [], timeout_s=timeout_of(request), running=running)

    def _roll(
        self,
        client: Client,
        left: list[Unit],
        ended: list[Outcome],
        *,
        timeout_s: float,
        running: list[str],
        asked: tuple[dict[str, int], float] | None = None,
    ) -> None:
        """Go on with the first of those that are left; `asked` says that it was asked already, and until when.

        `running` are those that were meant to run when it began.
        """
        while left and asked is None and (why := self._passed_over(left[0], running)) is not None:
            ended = [*ended, Outcome(left[0].name, Exit.REFUSED, why)]
            left = left[1:]
        if not left or (ended and ended[-1].exit not in (Exit.OK, Exit.REFUSED)):
            untouched = [Outcome(unit.name, Exit.REFUSED, "not restarted: an earlier one failed") for unit in left]
            _report(client, [*ended, *untouched])
            return
        before, until = asked or ({left[0].name: self._restart(left[0])}, monotonic() + timeout_s)
        names, told = [unit.name for unit in left], [(one.name, int(one.exit), one.words) for one in ended]
        times = {"timeout": timeout_s, "until": until}
        client.waits = {"roll": names, "ended": told, "running": running, "before": before, **times}
        client.on_gone = self._waiters.wait(
            before,
            ready_outcome,
            timeout_s=timeout_s,
            until=until,
            done=lambda outcomes: self._roll(
                client, left[1:], [*ended, *outcomes], timeout_s=timeout_s, running=running
            ),
        )

    def _passed_over(self, unit: Unit, running: list[str]) -> str | None:
        """Say why an instance is left as it is when its turn comes: a reload may have taken it away meanwhile."""
        if unit.leaving or self._core.units.get(unit.name) is not unit:
            return "superseded: it was removed from the configuration meanwhile"
        if not unit.spec.enabled:
            return "superseded: it was disabled in the configuration meanwhile"
        return SUPERSEDED if unit.name in running and not unit.wanted else None

    def go_on(self, client: Client, waits: dict[str, Any]) -> None:
        """Go on with what a client waited for when the program before this one was replaced."""
        units, times = self._core.units, (waits["timeout"], waits["until"])
        before = {name: gen for name, gen in waits["before"].items() if name in units}
        if "roll" in waits:
            left = [units[name] for name in waits["roll"] if name in units]
            ended = [Outcome(name, Exit(code), words) for name, code, words in waits["ended"]]
            self._roll(client, left, ended, timeout_s=times[0], running=waits["running"], asked=(before, times[1]))
        else:
            stopping = tuple(waits["stopping"])
            self._settle(client, before, waits["for"], stopping, timeout_s=times[0], until=times[1])


def _report(client: Client, outcomes: list[Outcome]) -> None:
    worst = max((outcome.exit for outcome in outcomes), key=_badness, default=Exit.OK)
    client.on_gone = None
    client.answer(
        {"v": PROTOCOL, "ok": True, "exit": int(worst), "outcomes": [outcome.as_json() for outcome in outcomes]}
    )


def _badness(code: Exit) -> int:
    return (Exit.OK, Exit.REFUSED, Exit.TIMEOUT, Exit.DEGRADED).index(code)


def timeout_of(request: dict[str, Any]) -> float:
    """Return how long a request may take, in seconds."""
    value = request.get("timeout")
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return min(float(value), LONGEST_S)
    return DEFAULT_TIMEOUT_S
