"""The GPUs as the supervisor knows them: the helper process on the loop, and the newest list it gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ollamux.domain.spec import Pinning
from ollamux.gpu.allocation import allowed
from ollamux.gpu.client import GpuReader
from ollamux.gpu.model import Gpu, Inventory
from ollamux.gpu.resolve import resolve, shared_gpus
from ollamux.supervisor.core import Core
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic
from ollamux.system.loop import Timer

SAMPLE_INTERVAL_S = 5.0


class Gpus:
    """Asks for samples and keeps the last good one. `inventory` is None until the first answer, or failure."""

    RESOURCE = "the list of GPUs"

    def __init__(self, core: Core, reader: GpuReader, *, env: Mapping[str, str]) -> None:
        self._core = core
        self._reader = reader
        self._env = env
        self._deadline: Timer | None = None
        self._watched = -1
        self.inventory: Inventory | None = None
        self.sampled_at: float | None = None
        self.listeners: list[Callable[[], None]] = []

    @property
    def trouble(self) -> str | None:
        """Why the GPUs cannot be read at present, in plain words."""
        return self._reader.trouble

    @property
    def helper_pid(self) -> int | None:
        """The helper process, which is our own child."""
        return self._reader.pid

    def begin(self) -> None:
        """Ask for the first list."""
        self._ask()

    def current(self, gpus: Iterable[Gpu]) -> list[Gpu]:
        """Return the newest samples of devices, in the same order; a device that is gone keeps its last one."""
        known = {gpu.uuid: gpu for gpu in self.inventory.gpus} if self.inventory is not None else {}
        return [known.get(gpu.uuid, gpu) for gpu in gpus]

    def clash(self, unit: Unit) -> str | None:
        """Return the sentence that says which other instance has the same card without both sharing it."""
        if self.inventory is None:
            return None
        others = [clash for clash in shared_gpus(self._core.fleet, self.inventory) if unit.name in clash.instances]
        return str(others[0]) if others else None

    def resolved(self) -> dict[str, tuple[str, ...]]:
        """Return the UUIDs of each instance, as far as they can be told."""
        found = {}
        for unit in self._core.units.values():
            gpus = unit.gpus
            if not gpus and unit.spec.pinning is Pinning.GPUS and self.inventory is not None:
                gpus = resolve(unit.spec, self.inventory).gpus
            found[unit.name] = tuple(gpu.uuid for gpu in gpus)
        return found

    def _ask(self) -> None:
        now = monotonic()
        self._reader.ask(now)
        self._watch()
        deadline = self._reader.deadline()
        if deadline is None:
            self._answered()  # it could not even be asked; what is known of it is in `trouble`
        else:
            self._deadline = self._core.loop.call_at(deadline, self._expired)

    def _watch(self) -> None:
        fd = self._reader.fileno()
        if self._watched >= 0 and self._watched != fd:
            self._core.loop.unwatch(self._watched)
        if fd >= 0 and fd != self._watched:
            self._core.loop.watch(fd, read=self._readable)
        self._watched = fd

    def _readable(self) -> None:
        fd = self._reader.fileno()
        found = self._reader.on_readable(monotonic())
        if self._reader.fileno() != fd:
            self._core.loop.unwatch(fd)
            self._watched = -1
        if found is not None or self._reader.deadline() is None:
            self._answered()

    def _expired(self) -> None:
        fd = self._reader.fileno()
        if fd >= 0:
            self._core.loop.unwatch(fd)
            self._watched = -1
        self._reader.expire(monotonic())
        self._answered()

    def _answered(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        first = self.inventory is None
        self.inventory = allowed(self._reader.last, self._env)
        if self._reader.last_at is None and self._reader.trouble is not None:
            self.inventory = replace(self.inventory, error=self._reader.trouble)
        self.sampled_at = self._reader.last_at
        self._core.loop.call_later(SAMPLE_INTERVAL_S, self._ask)
        if first:
            self._core.free(self.RESOURCE)
        for listener in self.listeners:
            listener()

    def close(self) -> None:
        """End the helper."""
        if self._watched >= 0:
            self._core.loop.unwatch(self._watched)
            self._watched = -1
        self._reader.close()
