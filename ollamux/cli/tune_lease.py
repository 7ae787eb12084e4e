"""Borrow an instance from the supervisor for a tune, see that it stays lent, and give it back. Measures nothing."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ollamux.cli.target import question, reach
from ollamux.domain.errors import NotRunningError, OllamuxError, RefusedError, TimedOutError
from ollamux.domain.spec import PinSpec
from ollamux.domain.text import safe_text
from ollamux.protocol.client import PROTOCOL, understood
from ollamux.supervisor.tunes import pin_from
from ollamux.system.clock import monotonic

if TYPE_CHECKING:
    import _socket

LOOK_S = 0.1
BACK_WITHIN_S = 1800.0
"""A load takes minutes; whoever does not want to wait for what is loaded again says so with Ctrl-C."""
Tick = Callable[[str], None]


class Lease:
    """An instance that is lent to us for as long as a connection is there."""

    def __init__(self, connection: _socket.socket, name: str, *, simulated: bool) -> None:
        self._connection = connection
        self._received = b""
        self._ended: OllamuxError | None = None
        self.name = name
        self.key = os.urandom(8).hex()
        self.simulated = simulated
        self.before: tuple[PinSpec, ...] = ()

    def fileno(self) -> int:
        """Return the descriptor that is readable once the loan has ended."""
        return self._connection.fileno()

    def view(self) -> dict[str, Any]:
        """Return what the supervisor knows of the models of the instance. Raises OllamuxError."""
        views = question({"cmd": "models"}, simulated=self.simulated)[0]["models"]["instances"]
        found: dict[str, Any] | None = next((one for one in views if one["name"] == self.name), None)
        if found is None:
            raise RefusedError(f"{self.name} is gone from the configuration in the middle of the tune")
        return found

    def must_hold(self) -> None:
        """Raise OllamuxError with the reason where the loan has ended, or somebody else uses the instance."""
        self.look()
        try:
            loaded = self.view()["loaded"]
        except TimedOutError:
            return  # a supervisor that is starved of the processor holds the loan all the same
        names = ", ".join(safe_text(model["name"]) for model in loaded)
        if names:
            raise RefusedError(
                f"a client has {names} loaded on {self.name} in the middle of the tune: what is measured beside it "
                "tells nothing",
                hint="keep clients away from it meanwhile, and start again",
            )

    def look(self) -> None:
        """Raise OllamuxError with the reason where the loan has ended."""
        while self._ended is None and select.select([self._connection], [], [], 0)[0]:
            self._read()
        if self._ended is not None:
            raise self._ended

    def _read(self) -> None:
        try:
            part = self._connection.recv(65536)
        except OSError:
            part = b""
        self._received += part
        if part:
            return
        self._ended = NotRunningError(
            "the supervisor went away in the middle of the tune",
            hint="ollamux up -d: what is pinned comes back with it",
        )
        if self._received:
            try:
                understood(self._received)
            except OllamuxError as error:
                self._ended = error

    def close(self) -> None:
        """End the loan, and do not wait for what comes of it."""
        self._connection.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Return what was loaded on it."""
        return tuple(pin.name for pin in self.before)

    def give_back(self, tick: Tick) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """End the loan; return which models are loaded again, and which are not, once that is clear.

        None where there is no supervisor any more that would see to it.
        """
        self.close()
        if not self.before:
            return (), ()
        until = monotonic() + BACK_WITHIN_S
        while monotonic() < until:
            try:
                view = self.view()
            except TimedOutError:
                continue
            except OllamuxError:
                return None
            tuning = view["tuning"]
            if (
                tuning is None
                or tuning["key"] != self.key
                or (tuning["state"] == "ending" and view["phase"] not in ("READY", "STARTING"))
            ):
                loaded = {model["name"] for model in view["loaded"]}
                back = tuple(name for name in self.names if name in loaded)
                return back, tuple(name for name in self.names if name not in loaded)
            tick(f"loading again: {', '.join(safe_text(name) for name in tuning['left'])}")
            select.select([], [], [], LOOK_S)
        return (), self.names


def borrow(model: str, name: str, *, timeout_s: float, simulated: bool, tick: Tick) -> Lease:
    """Borrow an instance; return once nothing is loaded on it. Raises OllamuxError."""
    connection, which = reach(simulated)
    lease = Lease(connection, name, simulated=which)
    try:
        request = {"v": PROTOCOL, "cmd": "tune", "model": model, "on": name, "key": lease.key, "timeout": timeout_s}
        connection.sendall(json.dumps(request).encode() + b"\n")
        while True:
            lease.look()
            try:
                tuning = lease.view()["tuning"]
            except TimedOutError:
                continue
            except RefusedError:
                lease.look()
                tuning = None  # the answer that there is no such instance is on its way
            if tuning is not None and tuning["key"] == lease.key:
                lease.before = tuple(pin_from(row) for row in tuning["before"])
                if tuning["state"] == "ready":
                    return lease
                tick(f"unloading what {name} has loaded")
            select.select([connection], [], [], LOOK_S)
    except OSError as error:
        lease.close()
        why = os.strerror(error.errno or 0)
        raise NotRunningError(f"the supervisor went away while it was asked: {why}") from None
    except BaseException:
        lease.close()
        raise
