"""Let the installed version take this process over, by an exec in place: same pid, same children, nothing cut.

It is asked first, in a process of its own, whether it can; the loop goes on meanwhile. Until the exec nothing is given
up, so that a version that cannot, or an exec that fails, leaves everything as it is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ollamux import __version__
from ollamux.domain.errors import OllamuxError, RefusedError, TimedOutError
from ollamux.domain.text import format_duration, safe_text
from ollamux.supervisor import carried
from ollamux.supervisor.carried import Handover
from ollamux.supervisor.core import Core
from ollamux.supervisor.server import Client
from ollamux.system.loop import Timer
from ollamux.system.notify_socket import ManagerEnv

WORDS = ("-P", "-m", "ollamux.supervisor")
"""How the program is called by the interpreter. A test adds to it."""
LONGEST_CHECK_S = 60.0
ANSWER = b"ollamux-can-take-over "
_LARGEST_ANSWER = 16 << 20
_FREE_FD = 3


class Upgrade:
    """Carries one upgrade at a time. `collect` puts the hand-over together; `ready` is called just before the exec."""

    def __init__(
        self, core: Core, *, collect: Callable[[], Handover], ready: Callable[[], None], manager: ManagerEnv
    ) -> None:
        self._core = core
        self._collect = collect
        self._ready = ready
        self._manager = manager
        self._waiting: list[tuple[Client, str]] = []
        self._check: _Check | None = None
        self._asked: object = None

    def ask(self, client: Client, version: str, timeout_s: float) -> None:
        """Begin, or join the one that has begun; the client is answered by the new program, or told why not."""
        self._waiting.append((client, version))
        if self._check is not None:
            return
        limit_s = min(timeout_s, LONGEST_CHECK_S)
        try:
            asked = self._collect()
            self._asked = _shape(asked)
            self._check = _Check(self._core, asked, limit_s=limit_s, done=self._checked)
        except OllamuxError as error:
            self._refuse(error)
        except OSError as error:
            self._refuse(RefusedError(f"the new version could not be asked: {error.strerror}"))

    def _checked(self, prepared: dict[str, Any] | OllamuxError) -> None:
        self._check = None
        if isinstance(prepared, OllamuxError):
            self._refuse(prepared)
            return
        found = str(prepared.get("version"))
        others = [version for _, version in self._waiting if version != found]
        if others:
            message = f"the supervisor is installed at {sys.prefix}, and there is {found}, not {others[0]}"
            self._refuse(RefusedError(message, hint="upgrade that installation, or call the ollamux of it"))
            return
        try:
            self._replace(prepared)
        except OSError as error:
            self._refuse(RefusedError(f"{sys.executable} could not be started: {error.strerror}"))
        except OllamuxError as error:
            self._refuse(error)

    def _refuse(self, error: OllamuxError) -> None:
        waiting, self._waiting = self._waiting, []
        text = f"{error.message}; supervisor {__version__} goes on"
        self._core.note(None, f"not upgraded: {text}")
        told = type(error)(text, hint=error.hint, exit_code=error.exit_code)
        for client, _ in waiting:
            client.refuse(told)

    def _replace(self, prepared: dict[str, Any]) -> None:
        """Become the other program. Returns only by raising OSError or OllamuxError, with everything as it was."""
        # What comes from here on stays pending, and is for the program that follows.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        opened: list[int] = []
        try:
            self._core.loop.read_signals()  # what came before is ours
            if self._core.shutting_down:
                raise RefusedError("the supervisor is stopping")
            self._ready()
            handover = replace(self._collect(), prepared=prepared)
            if _shape(handover) != self._asked:
                raise RefusedError("the configuration was reloaded meanwhile", hint="ask again")
            opened = [carried.write(handover), *handover.descriptors()]
            for fd in opened:
                os.set_inheritable(fd, True)
            env = {**os.environ, **dict(self._manager.variables)}  # it is the same process to its service manager
            os.execve(sys.executable, [sys.executable, *WORDS, "--handover", str(opened[0])], env)
        except BaseException:
            for fd in opened[1:]:
                os.set_inheritable(fd, fd < _FREE_FD)
            if opened:
                os.close(opened[0])
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise


def _shape(handover: Handover) -> object:
    """Return what the new version was asked about and must still find: the configuration and the instances."""
    return handover.source, [unit.name for unit in handover.units]


class _Check:
    """The new version in a process of its own, asked whether it can read all this. Answers once, within the limit."""

    def __init__(
        self, core: Core, handover: Handover, *, limit_s: float, done: Callable[[dict[str, Any] | OllamuxError], None]
    ) -> None:
        self._loop = core.loop
        self._done = done
        self._limit_s = limit_s
        self._said = bytearray()
        handed = carried.write(handover)
        self._read, out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._pid = self._spawn(handed, out)
        except OSError:
            os.close(self._read)
            raise
        finally:
            os.close(handed)
            os.close(out)
        try:
            self._handle = os.pidfd_open(self._pid)  # it is collected with the orphans, once we are back in the loop
        except OSError:
            os.close(self._read)
            os.kill(self._pid, signal.SIGKILL)
            raise
        self._timer: Timer = self._loop.call_later(limit_s, self._too_late)
        self._loop.watch(self._read, read=self._readable)

    def _spawn(self, handed: int, out: int) -> int:
        os.set_blocking(out, True)
        return os.posix_spawn(
            sys.executable,
            [sys.executable, *WORDS, "--check-handover", str(_FREE_FD)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                (os.POSIX_SPAWN_DUP2, out, 2),
                (os.POSIX_SPAWN_DUP2, handed, _FREE_FD),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
        )

    def _readable(self) -> None:
        try:
            data = os.read(self._read, 65536)
        except BlockingIOError:
            return
        self._said += data
        if not data or len(self._said) > _LARGEST_ANSWER:
            self._finish(self._judge())

    def _too_late(self) -> None:
        waited = format_duration(self._limit_s)
        self._finish(TimedOutError(f"the new version did not say within {waited} whether it can take over"))

    def _finish(self, outcome: dict[str, Any] | OllamuxError) -> None:
        self._timer.cancel()
        self._loop.unwatch(self._read)
        os.close(self._read)
        try:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself, as it should
        os.close(self._handle)
        self._done(outcome)

    def _judge(self) -> dict[str, Any] | OllamuxError:
        *_, last = bytes(self._said).rstrip().split(b"\n")
        if not last.startswith(ANSWER):
            words = safe_text(last.decode(errors="replace").strip(), limit=300)
            return RefusedError(f"the new version cannot take over: {words or 'it ended without a word'}")
        try:
            prepared = json.loads(last.removeprefix(ANSWER))
        except ValueError:
            return RefusedError("the new version cannot take over: its answer makes no sense")
        return prepared if isinstance(prepared, dict) else RefusedError("the new version's answer makes no sense")
