"""Decide which model is loaded when: one queue, one loop, reference counts, keep-alive. As ollama's own scheduler does.

Its weaknesses are kept on purpose: a loop that waits for a busy runner waits for ever, and a ping holds the lock that
`/api/ps` wants.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ollamux.simulation import environment
from ollamux.simulation.errors import ApiError
from ollamux.simulation.gguf import Gguf
from ollamux.simulation.golang import FOREVER, SECOND, now_ns
from ollamux.simulation.loading import Loader
from ollamux.simulation.options import Options
from ollamux.simulation.runners import RunnerProcess
from ollamux.simulation.store import Manifest

_PING_S = 10.0
_BUSY = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(slots=True, kw_only=True, eq=False)
class Loaded:
    """A loaded model. `lock` is held during a ping; `ended_ns` is None until it was idle for the first time."""

    manifest: Manifest
    path: Path
    head: Gguf
    runner: RunnerProcess
    options: Options
    context: int
    sizes: tuple[int, int]
    keep_ns: int
    slots: threading.Semaphore
    references: int = 0
    expires_ns: int | None = None
    timer: threading.Timer | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass(slots=True, kw_only=True, eq=False)
class _Pending:
    manifest: Manifest
    path: Path
    head: Gguf
    options: Options
    keep_ns: int | None
    gone: Callable[[], bool]
    done: threading.Event = field(default_factory=threading.Event)
    result: Loaded | None = None
    error: ApiError | None = None


class Scheduler:
    """Hands out loaded models; whoever gets one gives it back with `release`."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.log = loader.log
        self.limit = environment.number("OLLAMA_MAX_LOADED_MODELS", 0) or 3 * max(1, len(loader.devices))
        self.queue_limit = environment.number("OLLAMA_MAX_QUEUE", 512)
        self.keep_ns = environment.duration_ns("OLLAMA_KEEP_ALIVE", 300)
        self.loaded: dict[Path, Loaded] = {}
        self._change = threading.Condition()
        self._queue: deque[_Pending] = deque()
        self._stopped = False
        self.loading: RunnerProcess | None = None

    def start(self) -> None:
        """Start the loop."""
        threading.Thread(target=self._loop, daemon=True).start()

    def acquire(
        self,
        manifest: Manifest,
        path: Path,
        head: Gguf,
        options: Options,
        keep_ns: int | None,
        gone: Callable[[], bool],
    ) -> Loaded:
        """Return the loaded model, loading or reloading it first where that is needed."""
        asked = _Pending(manifest=manifest, path=path, head=head, options=options, keep_ns=keep_ns, gone=gone)
        with self._change:
            entry = self.loaded.get(path)
        if entry is not None and not self._needs_reload(entry, asked):
            return self._use(entry, asked)
        with self._change:
            if len(self._queue) >= self.queue_limit:
                raise ApiError(503, _BUSY)
            self._queue.append(asked)
            self._change.notify_all()
        while not asked.done.wait(0.05):
            if gone() and self._withdraw(asked):
                raise ApiError(499, "request canceled")
        if asked.error is not None:
            raise asked.error
        if asked.result is None:
            raise ApiError(500, "the scheduler gave no answer")
        return asked.result

    def _withdraw(self, asked: _Pending) -> bool:
        """Leave the queue; false where the loop is at work on it and notices by itself."""
        with self._change:
            if asked in self._queue:
                self._queue.remove(asked)
                return True
        return False

    def _needs_reload(self, entry: Loaded, asked: _Pending) -> bool:
        effective = self._effective(asked)
        with entry.lock:
            batch = self.loader.batch(entry.options, asked.head, entry.context)
            return entry.options.needs_reload(effective, batch=batch) or not entry.runner.ping(_PING_S)

    def _effective(self, asked: _Pending) -> Options:
        """Return the options with the context that they come to, which is what is compared."""
        kept = {name: getattr(asked.options, name) for name in Options.__slots__}
        return Options(**{**kept, "num_ctx": self.loader.context(asked.options, asked.head)})

    def _use(self, entry: Loaded, asked: _Pending) -> Loaded:
        with entry.lock:
            entry.references += 1
            if entry.timer is not None:
                entry.timer.cancel()
                entry.timer = None
            if asked.keep_ns is not None:
                entry.keep_ns = asked.keep_ns
        return entry

    def release(self, entry: Loaded) -> None:
        """Give a model back; the last one to do so starts its clock."""
        with entry.lock:
            entry.references -= 1
            if entry.references > 0:
                return
            if entry.keep_ns <= 0:
                threading.Thread(target=self._unload, args=(entry,), daemon=True).start()
                return
            entry.expires_ns = now_ns() + entry.keep_ns
            if entry.keep_ns < FOREVER:
                self._start_timer(entry)

    def _start_timer(self, entry: Loaded) -> None:
        entry.timer = threading.Timer(min(entry.keep_ns / SECOND, threading.TIMEOUT_MAX), self._unload, (entry,))
        entry.timer.daemon = True
        entry.timer.start()

    def expire(self, path: Path) -> None:
        """Unload a model as soon as nobody uses it."""
        with self._change:
            entry = self.loaded.get(path)
        if entry is not None:
            with entry.lock:
                entry.expires_ns = now_ns()
            self._give_up(entry)

    def _give_up(self, entry: Loaded) -> None:
        with entry.lock:
            if entry.timer is not None:
                entry.timer.cancel()
                entry.timer = None
            entry.keep_ns = 0
            idle = entry.references <= 0
        if idle:
            self._unload(entry)

    def _unload(self, entry: Loaded) -> None:
        with entry.lock:
            if entry.references > 0:
                return
            entry.runner.kill()
            with self._change:
                if self.loaded.get(entry.path) is entry:
                    del self.loaded[entry.path]
                self._change.notify_all()

    def _loop(self) -> None:
        while True:
            with self._change:
                while not self._queue:
                    self._change.wait()
                asked = self._queue.popleft()
            try:
                asked.result = self._serve(asked)
            except ApiError as error:
                asked.error = error
            except Exception as error:  # noqa: BLE001 a defect must not end the only loop there is
                asked.error = ApiError(500, str(error))
            asked.done.set()

    def _serve(self, asked: _Pending) -> Loaded:
        while not asked.gone():
            with self._change:
                entry = self.loaded.get(asked.path)
                count = len(self.loaded)
            if entry is not None:
                if not self._needs_reload(entry, asked):
                    return self._use(entry, asked)
                victim = entry
            elif count >= self.limit or (count and not self._fits(asked)):
                victim = self._victim()
            else:
                return self._load(asked)
            self._give_up(victim)
            with self._change:
                while self.loaded.get(victim.path) is victim:
                    self._change.wait()
        raise ApiError(499, "request canceled")

    def _fits(self, asked: _Pending) -> bool:
        if not self.loader.devices:
            return True
        need = self.loader.need(asked.head, asked.path.stat().st_size, asked.options)
        fits = self.loader.fits(need)
        if self.log.era.has_llama_server:
            message = (
                "llama-server model fits alongside existing models"
                if fits
                else "llama-server model predicted to exceed available memory, evicting"
            )
            self.log.info("sched.go:1102", message, model=str(asked.path))
        return fits

    def _victim(self) -> Loaded:
        with self._change:
            entries = sorted(self.loaded.values(), key=lambda entry: entry.keep_ns)
        return next((entry for entry in entries if entry.references <= 0), entries[0])

    def _load(self, asked: _Pending) -> Loaded:
        begun = time.monotonic()
        runner, sizes = self.loader.load(asked.manifest, asked.path, asked.head, asked.options, asked.gone)
        entry = Loaded(
            manifest=asked.manifest,
            path=asked.path,
            head=asked.head,
            runner=runner,
            options=self._effective(asked),
            context=self.loader.context(asked.options, asked.head),
            sizes=sizes,
            keep_ns=self.keep_ns,
            slots=threading.Semaphore(self.loader.slots(asked.head)),
        )
        with self._change:
            self.loaded[asked.path] = entry
            count = len(self.loaded)
        self.loader.tell_loaded(count, begun)
        return self._use(entry, asked)

    def shown(self) -> list[tuple[Loaded, int]]:
        """Return what ps lists, the longest expiry first. Newer versions wait for whoever pings a runner."""
        rows = []
        with self._change:
            entries = list(self.loaded.values())
        for entry in entries:
            if self.log.era.ps_takes_locks:
                entry.lock.acquire()
            try:
                expires = now_ns() + entry.keep_ns if entry.expires_ns is None else entry.expires_ns
                rows.append((entry, expires))
            finally:
                if self.log.era.ps_takes_locks:
                    entry.lock.release()
        # Whole seconds count (recorded: within one second the order is any).
        return sorted(rows, key=lambda row: -(row[1] // SECOND))
