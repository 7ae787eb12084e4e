"""The GPUs as the supervisor knows them: the helper process on the loop, and the newest list it gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ollamux.domain.spec import Pinning
from ollamux.supervisor.core import Core
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic
from ollamux.system.loop import Timer

if TYPE_CHECKING:
    from ollamux.gpu.client import GpuReader
    from ollamux.gpu.model import Gpu, Inventory

SAMPLE_INTERVAL_S = 5.0


class Gpus:
    """Asks for samples and keeps the last good one. `inventory` is None until the first answer, or failure."""

    RESOURCE = "the list of GPUs"

    def __init__(self, core: Core, *, source: str, box: str | None, env: Mapping[str, str]) -> None:
        self._core = core
        self._source = source
        self._box = box
        self._env = env
        self._reader: GpuReader | None = None
        self._deadline: Timer | None = None
        self._next: Timer | None = None
        self._again = False
        self._asking_at = 0.0
        self._watched = -1
        self.inventory: Inventory | None = None
        self.machine: Inventory | None = None
        self.sampled_at: float | None = None
        self.asked_at = float("-inf")
        """When the newest sample was asked for: it says nothing of what happened since."""
        self.listeners: list[Callable[[], None]] = []

    @property
    def trouble(self) -> str | None:
        """Why the GPUs cannot be read at present, in plain words."""
        return None if self._reader is None else self._reader.trouble_at(monotonic())

    @property
    def own_pids(self) -> frozenset[int]:
        """Children of ours that the reader collects itself."""
        return frozenset() if self._reader is None else self._reader.pids

    def begin(self) -> None:
        """Ask for the first list. What starts the helper is imported only now: instances come first."""
        try:
            from pathlib import Path

            import ollamux.gpu.allocation  # noqa: F401 - needed for each answer, and then it must be there
            from ollamux.gpu.client import GpuReader
            from ollamux.gpu.spawn import helper_spawn
        except OSError:  # no descriptor left to read them with
            self._core.loop.call_later(SAMPLE_INTERVAL_S, self.begin)
            return
        self._reader = GpuReader()
        self._reader.start(helper_spawn(self._source, None if self._box is None else Path(self._box)))
        self._ask(self._reader)

    def begin_again(self) -> None:
        """Look for cards again where that was given up because nobody wanted one, and somebody now does."""
        if self._reader is None and any(unit.spec.pinning is Pinning.GPUS for unit in self._core.units.values()):
            self.begin()

    def recall(self, inventory: Inventory, sampled_at: float | None) -> None:
        """Go on with the list that the program before this one had read."""
        from ollamux.gpu.allocation import allowed

        self.machine, self.sampled_at = inventory, sampled_at
        self.inventory = allowed(inventory, self._env)

    def current(self, gpus: Iterable[Gpu]) -> list[Gpu]:
        """Return the newest samples of devices, in the same order, those of other allocations included.

        A device that the newest list is without is lost: its last sample says nothing of now.
        """
        known = {} if self.machine is None else {gpu.uuid: gpu for gpu in self.machine.gpus}
        return [known.get(gpu.uuid) or self._unlisted(gpu) for gpu in gpus]

    def _unlisted(self, gpu: Gpu) -> Gpu:
        if self.inventory is None or self.sampled_at is None:
            return gpu  # nothing was read yet
        from ollamux.gpu.model import UNLISTED

        error = self.inventory.error
        if error is not None:
            return gpu.unread("unknown", error)
        # The driver numbers the cards that are left anew; a slice has the number of its card.
        return replace(gpu.unread("lost", UNLISTED), index=None if gpu.mig_parent is None else gpu.index)

    def clash(self, unit: Unit) -> str | None:
        """Return the sentence that says which other instance has the same card without both sharing it."""
        if self.inventory is None:
            return None
        from ollamux.gpu.resolve import shared_gpus

        others = [clash for clash in shared_gpus(self._core.fleet, self.inventory) if unit.name in clash.instances]
        return str(others[0]) if others else None

    def look_now(self) -> None:
        """Ask at once, out of turn; where an answer is awaited, which may be about the past, once more after it."""
        if self._reader is None or self.inventory is None:
            return
        if self._deadline is not None:
            self._again = True
        else:
            self._ask(self._reader)

    def _ask(self, reader: GpuReader) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._asking_at = monotonic()
        reader.ask(self._asking_at)
        self._watch(reader)
        deadline = reader.deadline()
        if deadline is None:
            self._answered(reader)  # it could not even be asked; what is known of it is in `trouble`
        else:
            self._deadline = self._core.loop.call_at(deadline, lambda: self._expired(reader))

    def _watch(self, reader: GpuReader) -> None:
        fd = reader.fileno()
        if self._watched >= 0 and self._watched != fd:
            self._core.loop.unwatch(self._watched)
        if fd >= 0 and fd != self._watched:
            self._core.loop.watch(fd, read=lambda: self._readable(reader))
        self._watched = fd

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._core.loop.unwatch(self._watched)
            self._watched = -1

    def _readable(self, reader: GpuReader) -> None:
        watched = self._watched
        found = reader.on_readable(monotonic())
        if reader.fileno() != watched:
            self._unwatch()
        if found is not None or reader.deadline() is None:
            self._answered(reader)

    def _expired(self, reader: GpuReader) -> None:
        self._unwatch()
        reader.expire(monotonic())
        self._answered(reader)

    def _answered(self, reader: GpuReader) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        from ollamux.gpu.allocation import allowed

        first = self.inventory is None
        self.machine = reader.last
        self.inventory = allowed(self.machine, self._env)
        if reader.last_at is None and reader.trouble is not None:
            self.inventory = replace(self.inventory, error=reader.trouble)
        self.sampled_at = reader.last_at
        if reader.last_at is not None and reader.last_at >= self._asking_at:
            self.asked_at = self._asking_at
        if self._needed(reader):
            again, self._again = self._again, False
            delay_s = 0.0 if again else SAMPLE_INTERVAL_S
            self._next = self._core.loop.call_later(delay_s, lambda: self._ask(reader))
        else:
            self.close()
        if first:
            self._core.free(self.RESOURCE)
        for listener in self.listeners:
            listener()

    def _needed(self, reader: GpuReader) -> bool:
        """Whether there is anything to look at: a box without cards, and without a wish for one, is left alone."""
        if self.inventory is None or self.inventory.gpus or reader.trouble is not None:
            return True
        return any(unit.spec.pinning is Pinning.GPUS for unit in self._core.units.values())

    def close(self) -> None:
        """End the helper. Nobody asks the reader again, so what is left of it is collected with the orphans."""
        self._unwatch()
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
