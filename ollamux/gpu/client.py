"""Ask the helper process for the GPUs: without waiting, for an event loop, or once, for a command.

The helper may hang in the driver where no signal reaches it. It is then left behind, never waited for, and what was
known last stays, with the trouble said in plain words.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import replace
from pathlib import Path

from ollamux.domain.text import format_duration, safe_text
from ollamux.gpu.codec import inventory_from_json
from ollamux.gpu.helper import REQUEST
from ollamux.gpu.model import MISMATCH, NO_GPUS, Inventory
from ollamux.gpu.spawn import Spawn, helper_spawn, kill_own_child, reaped

DEADLINE_S = 2.0
FIRST_DEADLINE_S = 10.0
LARGEST_ANSWER = 1024**2
# Helpers that hang in the kernel for good must not pile up.
MOST_LEFT_BEHIND = 3
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 1.0, 60.0
_REAP_POLL_S = 0.002
_REAP_S = 0.1


class GpuReader:
    """The newest inventory, kept up by a helper. Never blocks; every time is the caller's monotonic `now`.

    The owner's loop watches `fileno()` for reading, calls `on_readable`, and calls `expire` at `deadline()`. `fileno()`
    may change in `ask`, `on_readable` and `expire`, and is -1 without a helper.
    """

    def __init__(
        self,
        *,
        deadline_s: float = DEADLINE_S,
        first_deadline_s: float = FIRST_DEADLINE_S,
        request: bytes = REQUEST,
    ) -> None:
        self._request = request
        self.last: Inventory = NO_GPUS
        self.last_at: float | None = None
        self.trouble: str | None = None
        self._deadline_s = deadline_s
        self._first_deadline_s = first_deadline_s
        self._spawn: Spawn | None = None
        self._connection: socket.socket | None = None
        self._pid: int | None = None
        self._answered = False
        self._asked_at: float | None = None
        self._silent_since: float | None = None
        self._received = bytearray()
        self._backoff_s = _FIRST_BACKOFF_S
        self._not_before = float("-inf")
        self._left_behind: list[int] = []

    def start(self, spawn: Spawn) -> None:
        """Say how a helper is started; the first `ask` starts one."""
        self._spawn = spawn

    @property
    def pids(self) -> frozenset[int]:
        """Our own children that are collected here and nowhere else: the helper, and those left behind."""
        return frozenset([*self._left_behind, *([] if self._pid is None else [self._pid])])

    @property
    def pid(self) -> int | None:
        """The helper, which is our own child and reaped here alone; None without one."""
        return self._pid

    def fileno(self) -> int:
        """Return the descriptor to watch for reading, -1 without a helper."""
        return -1 if self._connection is None else self._connection.fileno()

    def deadline(self) -> float | None:
        """Return when the answer is overdue; None where none is awaited."""
        if self._asked_at is None:
            return None
        return self._asked_at + (self._deadline_s if self._answered else self._first_deadline_s)

    def ask(self, now: float) -> bool:
        """Ask for a sample; False where one is awaited already, or no helper may be started yet."""
        self._reap()
        if self._asked_at is not None:
            self._tell_silence(now)
            return False
        connection = self._connection or self._started(now)
        if connection is None:
            self._tell_silence(now)
            return False
        try:
            connection.send(self._request + b"\n")
        except OSError:
            self._failed(now, "the process that reads the GPUs has crashed")
            return False
        self._asked_at = now
        return True

    def on_readable(self, now: float) -> Inventory | None:
        """Take what has come; return the inventory once an answer is whole."""
        if self._connection is None:
            return None
        try:
            while len(self._received) <= LARGEST_ANSWER:
                piece = self._connection.recv(65536)
                if not piece:
                    self._failed(now, "the process that reads the GPUs has crashed")
                    return None
                self._received += piece
        except BlockingIOError:
            pass
        except OSError:
            self._failed(now, "the process that reads the GPUs has crashed")
            return None
        return self._answer(now)

    def expire(self, now: float) -> bool:
        """Kill a helper whose answer is overdue; say whether it was."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return False
        self._failed(now, None)
        return True

    def stop(self) -> None:
        """End the helper, and do not wait for it."""
        self._drop()
        self._spawn = None

    def trouble_at(self, now: float) -> str | None:
        """Return the trouble as it is now: a silence grows, also while nobody asks."""
        self._tell_silence(now)
        return self.trouble

    def leftovers(self) -> int:
        """Return how many killed helpers have not gone yet, for they hang in the kernel."""
        self._reap()
        return len(self._left_behind)

    def _started(self, now: float) -> socket.socket | None:
        if self._spawn is None or now < self._not_before or len(self._left_behind) >= MOST_LEFT_BEHIND:
            return None
        try:
            self._pid, self._connection = self._spawn()
        except OSError as error:
            reason = error.strerror or "unknown error"
            self._failed(now, f"the process that reads the GPUs cannot be started: {reason}")
            return None
        self._answered = False
        self._received.clear()
        return self._connection

    def _answer(self, now: float) -> Inventory | None:
        end = self._received.find(b"\n")
        if end < 0 and len(self._received) <= LARGEST_ANSWER:
            return None
        try:
            if not 0 <= end <= LARGEST_ANSWER:
                raise ValueError("too long")
            inventory = inventory_from_json(bytes(self._received[:end]))
        except ValueError:
            self._failed(now, "the process that reads the GPUs gave an answer that makes no sense")
            return None
        del self._received[: end + 1]
        self.last = _with_known_cards(inventory, self.last)
        self.last_at = now
        self.trouble = None
        self._answered = True
        self._asked_at = self._silent_since = None
        self._backoff_s = _FIRST_BACKOFF_S
        self._not_before = float("-inf")
        if inventory.error_key == MISMATCH:
            self._drop()  # it may have the old library open, which it keeps for life, while both parts are new by now
        return self.last

    def _failed(self, now: float, trouble: str | None) -> None:
        """Give this helper up and set the time before which no other is started. No trouble given means silence."""
        if trouble is None and self._silent_since is None:
            self._silent_since = self._asked_at
        elif trouble is not None:
            self._silent_since = None
            self.trouble = trouble
        self._drop()
        self._not_before = now + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, _LONGEST_BACKOFF_S)
        self._tell_silence(now)

    def _tell_silence(self, now: float) -> None:
        if self._silent_since is not None:
            silent = format_duration(round(now - self._silent_since))
            self.trouble = f"the GPU driver has not answered for {silent}"

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._pid is not None:
            kill_own_child(self._pid)
            self._left_behind.append(self._pid)
        self._connection = self._pid = self._asked_at = None
        self._received.clear()
        self._reap()

    def _reap(self) -> None:
        self._left_behind = [pid for pid in self._left_behind if not reaped(pid)]


def _with_known_cards(answer: Inventory, before: Inventory) -> Inventory:
    """Keep the cards in sight when the driver suddenly answers for none: they exist, in a state nobody knows."""
    known = [gpu for gpu in before.gpus if gpu.vendor != "amd"]
    if answer.error is None or not known or any(gpu.vendor != "amd" for gpu in answer.gpus):
        return answer
    unknown = tuple(gpu.unread("unknown", answer.error) for gpu in known)
    return replace(
        answer, gpus=(*unknown, *answer.gpus), driver=answer.driver or before.driver, cuda=answer.cuda or before.cuda
    )


def read_once(source: str, box: Path | None = None, timeout_s: float = 5.0, *, request: bytes = REQUEST) -> Inventory:
    """Read the GPUs once, waiting at most that long; trouble stands in `error`."""
    return read_once_from(helper_spawn(source, box), timeout_s, request=request)


def read_once_from(spawn: Spawn, timeout_s: float, *, request: bytes = REQUEST) -> Inventory:
    """Do the same with a helper of the caller's."""
    reader = GpuReader(first_deadline_s=timeout_s, request=request)
    reader.start(spawn)
    end = time.monotonic() + timeout_s
    try:
        if reader.ask(time.monotonic()):
            while (left := end - time.monotonic()) > 0 and reader.fileno() >= 0:
                if _readable(reader.fileno(), left):
                    answer = reader.on_readable(time.monotonic())
                    if answer is not None:
                        return answer
        silent = reader.expire(max(time.monotonic(), end))
        reason = safe_text(reader.trouble or "the GPUs could not be read")
        return Inventory(error=reason, error_key="silent" if silent else "unread")
    finally:
        _end(reader)


def _readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _end(reader: GpuReader) -> None:
    """Stop the helper and give it a moment to go, so that it is no zombie while the command goes on."""
    reader.stop()
    end = time.monotonic() + _REAP_S
    while reader.leftovers() and time.monotonic() < end:
        time.sleep(_REAP_POLL_S)
