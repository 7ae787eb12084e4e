"""Put together what is known of the whole box: the snapshot that every status command shows. Waits for nothing."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ollamux import __version__
from ollamux.config.warn import badges
from ollamux.domain.phases import Phase
from ollamux.domain.snapshot import (
    BufferView,
    GpuView,
    HostView,
    InstanceModelView,
    InstanceView,
    ModelView,
    Status,
    SupervisorView,
)
from ollamux.domain.spec import Pinning
from ollamux.domain.text import safe_text
from ollamux.gpu.model import NO_GPUS, Gpu, Inventory
from ollamux.ollama.account import Account, Buffer
from ollamux.ollama.api import LoadedModel
from ollamux.supervisor import core as core_module
from ollamux.supervisor import holders
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.starter import LEFTOVERS, NEIGHBOUR
from ollamux.supervisor.unit import Unit
from ollamux.system import procs
from ollamux.system.clock import monotonic, rfc3339, wall

PASSING = frozenset({core_module.START_SLOT, LEFTOVERS, NEIGHBOUR, Gpus.RESOURCE})
"""Waiting for one of these is part of an ordinary start."""

_SEEN_OF_GPU = tuple(field.name for field in fields(GpuView) if field.name not in ("instances", "age_s"))


def is_passing(resource: str | None) -> bool:
    """Whether waiting for a resource is part of an ordinary start, or ends in one of itself."""
    return resource is not None and (resource in PASSING or resource.startswith(core_module.VRAM))


class Observer:
    """What the snapshot needs to know about the supervisor itself."""

    def __init__(self, core: Core, gpus: Gpus, *, pid: int, host: str, config: str | None, simulated: bool) -> None:
        self._core = core
        self._gpus = gpus
        self._pid = pid
        self._host = host
        self._config = config
        self._simulated = simulated
        self.started_wall = wall()
        self.started = monotonic()
        self.config_changed = False
        self.state = "starting"

    def go_on(self, *, started_wall: float | None, started: float | None) -> None:
        """Go on as the supervisor that the program before this one was."""
        self.started_wall = self.started_wall if started_wall is None else started_wall
        self.started = self.started if started is None else started

    def status(self) -> Status:
        """Return the whole box, as last seen."""
        units = tuple(self._core.units.values())
        inventory = self._gpus.inventory or NO_GPUS
        names = _instances_by_gpu(units)
        age = None if self._gpus.sampled_at is None else round(monotonic() - self._gpus.sampled_at, 1)
        return Status(
            version=__version__,
            time=rfc3339(wall()),
            simulated=self._simulated,
            supervisor=SupervisorView(
                pid=self._pid,
                state=self.state,
                started_at=rfc3339(self.started_wall),
                config=self._config,
                config_changed=self.config_changed,
                uptime_s=round(monotonic() - self.started, 1),
                version=__version__,
            ),
            host=host_view(inventory, name=self._host, trouble=self._gpus.trouble),
            gpus=tuple(
                gpu_view(gpu, names.get(gpu.uuid, ()), age) for gpu in (*inventory.gpus, *self._unlisted(units))
            ),
            instances=tuple(self._instance(unit) for unit in units),
            models=tuple(_model(unit, model) for unit in units for model in unit.models),
            processes=holders.rows(inventory, holders.of_fleet(units, inventory), age),
        )

    def _unlisted(self, units: tuple[Unit, ...]) -> list[Gpu]:
        """Return the devices of instances that the driver lists no more."""
        listed = {gpu.uuid for gpu in (self._gpus.machine or NO_GPUS).gpus}
        missing = {gpu.uuid: gpu for unit in units for gpu in unit.gpus if gpu.uuid not in listed}
        return [gpu for gpu in self._gpus.current(missing.values()) if gpu.state != "ok"]

    def _instance(self, unit: Unit) -> InstanceView:
        state = unit.state
        deadline = state.deadline
        action = core_module.next_action(unit)
        at = None
        if action is not None and deadline is not None:
            at = rfc3339(wall() + max(0.0, deadline.at - monotonic()))
        return InstanceView(
            name=unit.name,
            wanted=state.want.value,
            phase=state.phase.value,
            health=health_of(unit),
            reason=reason_of(unit),
            next_action=action,
            next_at=at,
            since=rfc3339(unit.since_wall) if unit.since_wall else None,
            pid=state.pid,
            generation=state.gen,
            restarts=max(0, state.spawns - 1),
            auto_restarts=unit.tally.auto,
            manual_restarts=unit.tally.manual,
            adopted=state.adopted,
            exit=_exit(unit),
            host=unit.spec.host,
            port=unit.spec.port,
            url=core_module.url(unit),
            ollama_version=unit.server_version,
            gpus=tuple(gpu.uuid for gpu in unit.gpus),
            pinning=pinning_of(unit),
            rss_bytes=_rss(unit),
            models=tuple(_instance_model(model) for model in unit.models),
            warnings=_warnings(unit),
            canary=None if unit.canary is None else unit.canary.last,
        )


def host_view(inventory: Inventory, *, name: str, trouble: str | None) -> HostView:
    """Return what is known of the machine."""
    return HostView(
        name=name,
        driver=inventory.driver,
        cuda=inventory.cuda,
        gpus_source=inventory.source,
        gpus_error=trouble or inventory.error,
        gpus_unsupported=inventory.unsupported,
    )


def gpu_view(gpu: Gpu, instances: tuple[str, ...], age_s: float | None) -> GpuView:
    """Return a card as it is shown."""
    seen = {name: getattr(gpu, name) for name in _SEEN_OF_GPU}
    return GpuView(**seen, instances=instances, age_s=age_s)


def health_of(unit: Unit) -> str:
    """Return "ok", "degraded", "failing" or "unknown"."""
    phase = unit.state.phase
    if phase is Phase.READY:
        return "degraded" if unit.degraded else "ok"
    if phase is Phase.WAITING:
        return "unknown" if is_passing(unit.state.resource) else "failing"
    return "failing" if phase in (Phase.UNHEALTHY, Phase.FAILED, Phase.STUCK) else "unknown"


def reason_of(unit: Unit) -> str | None:
    """Return the sentence that explains the state, where one is needed."""
    if unit.state.phase is Phase.READY and unit.degraded:
        return "; ".join(unit.degraded.values())
    if unit.tune is not None and unit.state.phase is Phase.READY:
        return f"is lent for tuning {safe_text(unit.tune.model)}: its own models are unloaded meanwhile"
    return unit.state.reason


def _warnings(unit: Unit) -> tuple[str, ...]:
    exposed = badges(unit.spec) if unit.child is not None else ()
    pins = unit.pin_states.items()
    failed = (f"{name} could not be loaded: {state.failed}" for name, state in pins if state.failed is not None)
    waiting = (f"{name} is not kept for now: {state.waits}" for name, state in pins if state.waits and not state.failed)
    return (*exposed, *failed, *waiting)


def pinning_of(unit: Unit) -> str:
    """Return "proven" or "wrong" only from what the log or NVML said, never from the plan."""
    if unit.spec.pinning is Pinning.CPU and (unit.verdict is None or unit.verdict.proof.value != "wrong"):
        return "cpu"
    if "astray" in unit.degraded:
        return "wrong"
    return "planned" if unit.verdict is None else unit.verdict.proof.value


def _exit(unit: Unit) -> dict[str, Any] | None:
    last = unit.state.last_exit
    if last is None:
        return None
    at = None if unit.last_exit_wall is None else rfc3339(unit.last_exit_wall)
    if last.signal is not None:
        return {"signal": last.signal, "at": at}
    return {"code": last.code, "at": at}


def _rss(unit: Unit) -> int | None:
    if unit.child is None:
        return None
    sizes = [procs.rss_bytes(pid) for pid in (unit.child.pid, *unit.runners)]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _expires(model: LoadedModel) -> str | None:
    return None if model.expires_at is None else rfc3339(model.expires_at)


def _instance_model(model: LoadedModel) -> InstanceModelView:
    return InstanceModelView(
        name=model.name,
        size_bytes=model.size_bytes,
        size_vram_bytes=model.size_vram_bytes,
        context_length=model.context_length,
        expires_at=_expires(model),
    )


def _model(unit: Unit, model: LoadedModel) -> ModelView:
    seen = unit.seen_loads.get(model.name)
    account = None if seen is None else seen.account
    return ModelView(
        instance=unit.name,
        name=model.name,
        digest=model.digest,
        size_bytes=model.size_bytes,
        size_vram_bytes=model.size_vram_bytes,
        context_length=model.context_length,
        expires_at=_expires(model),
        layers=_layers(account),
        layers_asked=None if account is None else account.asked,
        buffers=None if account is None else tuple(_buffer(each) for each in account.buffers),
        age_s=None if unit.models_at is None else round(monotonic() - unit.models_at, 1),
    )


def _layers(account: Account | None) -> dict[str, int] | None:
    if account is None or account.offloaded is None or account.total is None:
        return None
    return {"offloaded": account.offloaded, "total": account.total}


def _buffer(buffer: Buffer) -> BufferView:
    return BufferView(device=buffer.device, kind=buffer.kind, bytes=buffer.size_bytes, on_gpu=buffer.on_gpu)


def _instances_by_gpu(units: tuple[Unit, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for unit in units:
        for gpu in unit.gpus:
            found[gpu.uuid] = (*found.get(gpu.uuid, ()), unit.name)
    return found
