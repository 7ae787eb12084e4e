"""A server of a tune's own: started beside the instance with the same environment, asked, and ended with all it began.

So nothing that goes wrong in it happens to the instance, and what is set by its environment can be tried as well.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ollamux.cli.tune_lease import Lease
from ollamux.domain.errors import Exit, NotFoundError, OllamuxError, TimedOutError
from ollamux.domain.spec import OnDeath
from ollamux.ollama.trial import account_of
from ollamux.supervisor.http import Answer, Request, probe_host
from ollamux.supervisor.programs import launcher_for
from ollamux.system.child import Child, spawn
from ollamux.system.clock import monotonic
from ollamux.system.loop import Loop

START_WITHIN_S = 180.0
END_WITHIN_S = 5.0
TICK_S = 0.2
_LARGEST_LOG = 64 * 1024**2


class Place(NamedTuple):
    """What a server is started from, and where."""

    program: str
    env: Mapping[str, str]
    host: str
    log: str


class Ask(NamedTuple):
    """One question; without a body it is a GET."""

    target: str
    body: bytes | None = None


class Trial:
    """One server. To be ended, whatever happens."""

    def __init__(self, place: Place, lease: Lease, *, parallel: int, tick: Callable[[], None]) -> None:
        self._lease, self._tick, self._place = lease, tick, place
        self._port = _free_port(probe_host(place.host))
        host = f"[{place.host}]" if ":" in place.host else place.host
        env = {
            **place.env,
            "OLLAMA_HOST": f"{host}:{self._port}",
            "OLLAMA_NUM_PARALLEL": str(parallel),
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_NOPRUNE": "1",
        }
        log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._child: Child = spawn([*_launcher(), place.program, "serve"], env, log_fd=log)
        except OSError as error:
            raise OllamuxError(f"{place.program} could not be started: {error.strerror}") from None
        finally:
            os.close(log)

    def wait(self) -> None:
        """Return once it answers. Raises OllamuxError."""
        until = monotonic() + START_WITHIN_S
        while True:
            answer = self.ask([Ask("/api/version")], until - monotonic())[0]
            if answer.status == 200:
                return
            if self._child.exit_status() is not None:
                said = account_of(self.log()).fatal or "its log says no more"
                where = f"its log is {self._place.log}"
                raise OllamuxError(f"the server to try it with has ended: {said}", hint=where, exit_code=Exit.DEGRADED)
            if monotonic() > until:
                raise TimedOutError("the server to try it with does not answer", hint=f"its log is {self._place.log}")
            select.select([], [], [], 0.02)

    def log(self) -> bytes:
        """Return what it has logged."""
        with open(self._place.log, "rb") as file:
            return file.read(_LARGEST_LOG)

    def ask(self, asks: Sequence[Ask], timeout_s: float) -> list[Answer]:
        """Ask all at once and return the answers; one that did not come has no status.

        Raises OllamuxError where the loan ended meanwhile.
        """
        return _Asking(self._lease, (probe_host(self._place.host), self._port), self._tick).run(asks, timeout_s)

    def end(self) -> None:
        """End it with its runners: politely, which a server passes on, then all of its session."""
        self._child.signal(signal.SIGTERM)
        poll = select.poll()
        poll.register(self._child.pidfd, select.POLLIN)
        poll.poll(END_WITHIN_S * 1000)
        try:
            os.killpg(self._child.pid, signal.SIGKILL)  # the leader is not collected yet, so the number is still ours
        except ProcessLookupError:
            pass
        poll.poll(END_WITHIN_S * 1000)
        self._child.reap()


class _Asking:
    """Questions under way, on a loop of their own."""

    def __init__(self, lease: Lease | None, address: tuple[str, int], tick: Callable[[], None]) -> None:
        self._errors: list[BaseException] = []
        self._loop = Loop(on_error=self._failed)
        self._lease, self._address, self._tick = lease, address, tick
        self._answers: dict[int, Answer] = {}
        self._requests: list[Request] = []

    def run(self, asks: Sequence[Ask], timeout_s: float) -> list[Answer]:
        if self._lease is not None:
            self._loop.watch(self._lease.fileno(), read=self._lease.look)
        try:
            for number, ask in enumerate(asks):
                self._send(number, ask, max(timeout_s, 0.1), len(asks))
            self._later()
            self._loop.run()
        finally:
            for request in self._requests:
                request.cancel()
            if self._lease is not None:
                self._loop.unwatch(self._lease.fileno())
            self._loop.close()
        if self._errors:
            raise self._errors[0]
        return [self._answers[number] for number in range(len(asks))]

    def _send(self, number: int, ask: Ask, timeout_s: float, count: int) -> None:
        def done(answer: Answer) -> None:
            self._answers[number] = answer
            if len(self._answers) == count:
                self._loop.stop()

        request = Request(self._loop, self._address, ask.target, timeout_s=timeout_s, done=done, body=ask.body)
        self._requests.append(request)

    def _later(self) -> None:
        self._tick()
        self._loop.call_later(TICK_S, self._later)

    def _failed(self, error: BaseException) -> None:
        self._errors.append(error)
        self._loop.stop()


def ask_once(
    lease: Lease | None, address: tuple[str, int], ask: Ask, timeout_s: float, tick: Callable[[], None]
) -> Answer:
    """Ask a server that is not ours one thing."""
    return _Asking(lease, (probe_host(address[0]), address[1]), tick).run([ask], timeout_s)[0]


def _launcher() -> tuple[str, ...]:
    """Return what lets the server end with us, however we end, where the system has it."""
    try:
        return launcher_for(OnDeath.STOP, os.environ)
    except NotFoundError:
        return ()


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        address: Any = probe.getsockname()
        return int(address[1])
