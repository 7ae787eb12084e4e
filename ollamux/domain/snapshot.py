"""What is known about the whole box at one moment: the object of `status -o json`, schema `ollamux.status/1`.

Bytes are integers, seconds are numbers, times are UTC in RFC 3339, a missing measurement is `None` and never 0.
Within one schema number keys are only ever added. `as_json` gives the object, `from_json` reads it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ollamux.domain.schemas import STATUS_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorView:
    """The supervisor process. `state` is "starting", "running", "reloading" or "stopping"."""

    pid: int
    state: str
    started_at: str
    config: str | None
    config_changed: bool
    uptime_s: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """The machine. `driver` and `cuda` are versions; `gpus_source` is "nvml", "sysfs", "simulated" or "none".

    `gpus_error` says in plain words why the GPUs could not be read, or None; `gpus_unsupported` names cards of makers
    that no instance can be pinned to.
    """

    name: str
    driver: str | None
    cuda: str | None
    gpus_source: str
    gpus_error: str | None
    gpus_unsupported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """One card (or MIG slice). `state` is "ok", "lost" or "unknown"; `age_s` is how old the sample is.

    Clocks in MHz; `throttle_reasons` in nvidia-smi's words; ECC errors since the driver was loaded.
    """

    index: int | None
    uuid: str
    vendor: str
    name: str
    pci: str | None
    state: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    utilization_percent: int | None
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    pcie_gen: int | None
    pcie_width: int | None
    instances: tuple[str, ...]
    age_s: float | None
    lost_reason: str | None = None
    mig_parent: str | None = None
    pcie_gen_max: int | None = None
    pcie_width_max: int | None = None
    power_default_w: float | None = None
    clock_sm_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    clock_memory_mhz: int | None = None
    clock_memory_max_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    persistence: bool | None = None
    compute_mode: str | None = None
    compute_capability: str | None = None
    ecc: bool | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceModelView:
    """A loaded model as `/api/ps` tells it. Sizes in bytes; `expires_at` None means it is kept for ever."""

    name: str
    size_bytes: int
    size_vram_bytes: int
    context_length: int | None
    expires_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryView:
    """The last question for one token. `ok` is None where the answer said nothing; `reason` says what was wrong."""

    model: str
    at: str
    ok: bool | None
    seconds: float
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """One instance.

    `wanted` is "up" or "down"; `phase` the name of a phase; `health` "ok", "degraded", "failing" or "unknown";
    `pinning` "proven", "planned", "wrong" or "cpu". `exit` is the last end of a child: `{"code": 1}` or
    `{"signal": "SIGKILL"}`, with `at`. `next_action` says what happens next and `next_at` when. `restarts` counts since
    it was told to run; `auto_restarts` (by itself) and `manual_restarts` (asked for) count for life.
    """

    name: str
    wanted: str
    phase: str
    health: str
    reason: str | None
    next_action: str | None
    next_at: str | None
    since: str | None
    pid: int | None
    generation: int
    restarts: int
    adopted: bool
    exit: dict[str, Any] | None
    host: str
    port: int
    url: str
    ollama_version: str | None
    gpus: tuple[str, ...]
    pinning: str
    rss_bytes: int | None
    models: tuple[InstanceModelView, ...] = ()
    warnings: tuple[str, ...] = ()
    auto_restarts: int | None = None
    manual_restarts: int | None = None
    canary: CanaryView | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferView:
    """All buffers of a kind that a model has on a device, as the log names it: "CUDA0", "CPU", "CUDA_Host".

    `kind` is "weights", "kv", "state", "compute" or "output".
    """

    device: str
    kind: str
    bytes: int
    on_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """A loaded model with where it is loaded, and what the server's log says of its load: None where that is gone.

    `layers` is `{"offloaded": n, "total": m}`, `layers_asked` the num_gpu that was asked for, None where it was left
    to the server. `age_s` is how old the server's word of it is: one that does not answer says nothing new.
    """

    instance: str
    name: str
    digest: str | None
    size_bytes: int
    size_vram_bytes: int
    context_length: int | None
    expires_at: str | None
    layers: dict[str, int] | None
    age_s: float | None = None
    layers_asked: int | None = None
    buffers: tuple[BufferView, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessView:
    """A process of ours, or one on a card. `kind` is "serve", "runner" or "foreign"; `gpu` a UUID or None.

    `name` and `user` are None where the kernel does not show it, as from inside a container; `age_s` is how old the
    driver's word is that it is on the card, None where it is on none.
    """

    gpu: str | None
    pid: int
    kind: str
    instance: str | None
    name: str | None
    memory_bytes: int | None
    user: str | None = None
    age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """How two cards, `a` and `b`, reach each other: a kind of `ollamux.domain.links`.

    `nvlinks` is how many NVLinks between them are active, None where the driver does not tell.
    """

    a: str
    b: str
    kind: str
    nvlinks: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The whole box. `time` is when it was put together. `links` are read only where somebody asks for them."""

    version: str
    time: str
    simulated: bool
    supervisor: SupervisorView | None
    host: HostView
    gpus: tuple[GpuView, ...] = ()
    instances: tuple[InstanceView, ...] = ()
    models: tuple[ModelView, ...] = ()
    processes: tuple[ProcessView, ...] = ()
    links: tuple[LinkView, ...] = ()


VIEWS = {
    "gpus": ("gpus",),
    "instances": ("instances",),
    "models": ("models",),
    "processes": ("processes",),
    "topology": ("gpus", "links"),
}
"""Which lists each view of `status` keeps. The whole box keeps all but the links, which are read only on demand."""

_WHOLE = ("gpus", "instances", "models", "processes")
_LISTS = (*_WHOLE, "links")


def as_json(status: Status, view: str | None = None) -> dict[str, Any]:
    """Return the object of `status -o json`; with a view, the other lists are left out."""
    kept = VIEWS[view] if view else _WHOLE
    plain: dict[str, Any] = {"schema": STATUS_SCHEMA}
    for field in Status.__slots__:
        if field not in _LISTS or field in kept:
            plain[field] = _plain(getattr(status, field))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    slots = getattr(value, "__slots__", None)
    if slots is not None:
        return {name: _plain(getattr(value, name)) for name in slots}
    return value


def from_json(plain: dict[str, Any]) -> Status:
    """Read the object of `status -o json` back. Keys of a later minor version are ignored."""

    def views(name: str, cls: Any) -> tuple[Any, ...]:
        return tuple(_view(cls, item) for item in plain.get(name) or ())

    supervisor = plain["supervisor"]
    return Status(
        version=plain["version"],
        time=plain["time"],
        simulated=plain["simulated"],
        supervisor=None if supervisor is None else _view(SupervisorView, supervisor),
        host=_view(HostView, plain["host"]),
        gpus=views("gpus", GpuView),
        instances=views("instances", InstanceView),
        models=views("models", ModelView),
        processes=views("processes", ProcessView),
        links=views("links", LinkView),
    )


def _view(cls: Any, item: dict[str, Any]) -> Any:
    values = {name: item[name] for name in cls.__slots__ if name in item}
    for name in ("instances", "gpus", "warnings", "throttle_reasons", "gpus_unsupported"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    if isinstance(values.get("models"), list):
        values["models"] = tuple(_view(InstanceModelView, model) for model in values["models"])
    if isinstance(values.get("buffers"), list):
        values["buffers"] = tuple(_view(BufferView, buffer) for buffer in values["buffers"])
    if isinstance(values.get("canary"), dict):
        values["canary"] = _view(CanaryView, values["canary"])
    return cls(**values)
