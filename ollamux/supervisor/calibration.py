"""Measure what loads take: the log tells the buffers, the driver all that the runner's process holds. For later plans.

One record for each load, written once a sample of the cards is there that was taken after it, and again only where the
process was seen to hold much more. Nothing waits for any of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ollamux.domain.calibration import CPU, MeasuredLoad, Share, remember
from ollamux.gpu.model import Gpu
from ollamux.ollama import measured
from ollamux.ollama.account import COMPUTE, KV, OUTPUT, STATE, WEIGHTS, Account, Buffer
from ollamux.ollama.api import LoadedModel
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic, rfc3339, wall

WRITE_AFTER_S = 0.2
PATIENCE_S = 30.0
"""A driver that does not answer for so long after a load is not waited for."""
GROWTH_BYTES = 32 << 20
"""A process that computes takes more than one that was just loaded; less than this is not worth a write."""


@dataclass(slots=True, kw_only=True)
class _Living:
    """A load that is still there; `load` is None until it is recorded."""

    pid: int
    since: float
    load: MeasuredLoad | None = None


class Calibrations:
    """Keeps the measurements of all instances. `folder` is that of the state."""

    def __init__(self, core: Core, gpus: Gpus, listeners: list[Callable[[Unit], None]], *, folder: str) -> None:
        self._core = core
        self._gpus = gpus
        self._folder = folder
        self._loads: tuple[MeasuredLoad, ...] | None = None
        self._living: dict[tuple[str, str], _Living] = {}
        self._planned = self._complained = False
        listeners.append(self._looked)
        gpus.listeners.append(self._sampled)

    def _looked(self, unit: Unit) -> None:
        """Notice what has been loaded, and forget what is gone."""
        loaded = {model.name for model in unit.models}
        for key in [key for key in self._living if key[0] == unit.name and key[1] not in loaded]:
            del self._living[key]
        for model in unit.models:
            seen = unit.seen_loads.get(model.name)
            if seen is None or seen.account is None:
                continue
            known = self._living.get((unit.name, model.name))
            if known is None or known.pid != seen.pid:
                known = self._living[unit.name, model.name] = _Living(pid=seen.pid, since=monotonic())
            has_card = any(buffer.on_gpu for buffer in seen.account.buffers)
            if known.load is None and (not has_card or monotonic() - known.since > PATIENCE_S):
                self._record(unit, model, seen.account, known)

    def _sampled(self) -> None:
        """Take what the newest sample says of the loads that it is younger than."""
        for (name, model_name), living in tuple(self._living.items()):
            unit = self._core.units.get(name)
            if unit is None:
                del self._living[name, model_name]
            elif living.load is not None:
                self._grow(unit, living, living.load)
            elif self._gpus.asked_at > living.since:
                seen = unit.seen_loads.get(model_name)
                model = next((model for model in unit.models if model.name == model_name), None)
                if model is not None and seen is not None and seen.account is not None and seen.pid == living.pid:
                    self._record(unit, model, seen.account, living)

    def _record(self, unit: Unit, model: LoadedModel, account: Account, living: _Living) -> None:
        if account.shortfall is not None and any(buffer.on_gpu for buffer in account.buffers):
            return  # it took what room there was on the card, not what it needs
        shares = self._shares(unit, account, living.pid)
        if not shares or None in (model.digest, unit.server_version, account.context, account.parallel, account.batch):
            return
        living.load = MeasuredLoad(
            model=model.name,
            digest=(model.digest or "").removeprefix("sha256:"),
            version=unit.server_version or "",
            context_length=account.context or 0,
            parallel=account.parallel or 0,
            # As it was asked for, which is what a plan knows: older servers pass over what a model cannot have.
            kv_type=unit.spec.kv_cache_type or "f16",
            flash_attention=unit.spec.flash_attention is not False,
            batch=account.batch or 0,
            offloaded=None if shares[0].uuid == CPU else account.offloaded,
            host_bytes=0 if shares[0].uuid == CPU else sum(b.size_bytes for b in account.buffers if not b.on_gpu),
            ps_bytes=model.size_vram_bytes,
            shares=shares,
            time=rfc3339(wall()),
        )
        if measured.is_sound(living.load):
            self._keep(living.load)

    def _grow(self, unit: Unit, living: _Living, load: MeasuredLoad) -> None:
        held = self._held(unit, living.pid)
        grown = tuple(
            replace(share, process_bytes=held[share.uuid])
            if held.get(share.uuid, 0) > (0 if share.process_bytes is None else share.process_bytes + GROWTH_BYTES)
            else share
            for share in load.shares
        )
        if grown != load.shares:
            living.load = replace(load, shares=grown)
            if measured.is_sound(living.load):
                self._keep(living.load)

    def _held(self, unit: Unit, pid: int) -> dict[str, int]:
        """Return what the driver says that a process holds of each card."""
        return {
            gpu.uuid: process.memory_bytes
            for gpu in self._cards(unit)
            for process in gpu.processes
            if process.pid == pid and process.memory_bytes
        }

    def _cards(self, unit: Unit) -> list[Gpu]:
        if unit.gpus:
            return self._gpus.current(unit.gpus)
        return [] if self._gpus.inventory is None else list(self._gpus.inventory.gpus)

    def _shares(self, unit: Unit, account: Account, pid: int) -> tuple[Share, ...]:
        """Return what a load took of each card; none where the log does not tell which cards they are."""
        if not any(buffer.on_gpu for buffer in account.buffers):
            return (_share(CPU, "CPU", 0, list(account.buffers), None),)
        places, cards, held = dict(account.devices), self._cards(unit), self._held(unit, pid)
        by_card: dict[str, list[Buffer]] = {}
        for buffer in account.buffers:
            if buffer.on_gpu:
                gpu = _card(cards, places.get(buffer.device, ""))
                if gpu is None:
                    return ()
                by_card.setdefault(gpu.uuid, []).append(buffer)
        return tuple(
            _share(gpu.uuid, gpu.name, gpu.memory_total_bytes or 0, by_card[gpu.uuid], held.get(gpu.uuid))
            for gpu in cards
            if gpu.uuid in by_card
        )

    def _keep(self, load: MeasuredLoad) -> None:
        if self._loads is None:
            self._loads, trouble = measured.read(self._folder)
            if trouble is not None:
                put = measured.put_aside(self._folder)
                self._core.note(None, f"measurements of loads begin anew: {trouble}; {put}")
        self._loads = remember(self._loads, load)
        if not self._planned:
            self._planned = True
            self._core.loop.call_later(WRITE_AFTER_S, self._write)

    def _write(self) -> None:
        self._planned = False
        try:
            measured.write(self._folder, self._loads or ())
            self._complained = False
        except OSError as error:
            if not self._complained:
                self._core.note(None, f"what loads take cannot be written down: {error.strerror}")
            self._complained = True


def _card(cards: list[Gpu], pci: str) -> Gpu | None:
    """Return the card at an address; the only one where the log tells none."""
    if not pci:
        return cards[0] if len(cards) == 1 else None
    found = [gpu for gpu in cards if gpu.pci == pci]
    return found[0] if len(found) == 1 or len(cards) == 1 else None


def _share(uuid: str, name: str, total: int, buffers: list[Buffer], process: int | None) -> Share:
    def size(*kinds: str) -> int:
        return sum(buffer.size_bytes for buffer in buffers if buffer.kind in kinds)

    return Share(
        uuid=uuid,
        name=name,
        total_bytes=total,
        weights_bytes=size(WEIGHTS),
        kv_bytes=size(KV),
        state_bytes=size(STATE),
        compute_bytes=size(COMPUTE, OUTPUT),
        process_bytes=process,
    )
