"""What the user wants: the fleet as the configuration asks for it, with every default filled in.

Frozen values only. Where something is `None`, ollama's own default holds. Nothing here knows TOML.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MODELS_PER_CARD = 3
"""So many a server loads for each of its cards where nothing else is set (sched.go:226)."""


class RestartPolicy(Enum):
    """When an instance that ended by itself is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class FaultPolicy(Enum):
    """What to do about a proven device fault."""

    TELL = "tell"
    RESTART = "restart"
    STOP = "stop"


class OnDeath(Enum):
    """What becomes of the instances when the supervisor is killed."""

    KEEP = "keep"
    STOP = "stop"


class Pull(Enum):
    """Whether a model that is to be kept, and is not in the store, is fetched."""

    NEVER = "never"
    MISSING = "missing"


class PlacementMode(Enum):
    """Who says which model is kept where: you, or the memory that each needs."""

    MANUAL = "manual"
    AUTO = "auto"


class Pinning(Enum):
    """Which devices an instance may use."""

    GPUS = "gpus"
    CPU = "cpu"
    ANY = "any"


class GpuRefKind(Enum):
    """How a configuration names a device."""

    INDEX = "index"
    UUID = "uuid"
    MIG = "mig"
    PCI = "pci"
    AMD = "amd"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRef:
    """A device as the user names it. `value` is the index, the UUID or its prefix, or the normalised PCI address."""

    kind: GpuRefKind
    value: str

    def __str__(self) -> str:
        return f"amd:{self.value}" if self.kind is GpuRefKind.AMD else self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSpec:
    """How an instance is checked. All times in seconds."""

    interval_s: float = 5.0
    timeout_s: float = 5.0
    failures: int = 3
    unhealthy_timeout_s: float = 30.0
    start_timeout_s: float = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartSpec:
    """How an instance comes back. All times in seconds; `failure_limit` 0 means never give up."""

    policy: RestartPolicy = RestartPolicy.ALWAYS
    first_s: float = 0.0
    base_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 60.0
    failure_limit: int = 8
    stable_for_s: float = 120.0
    stop_timeout_s: float = 15.0
    retry_failed_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnFault:
    """The policy for each kind of device fault."""

    cpu_fallback: FaultPolicy = FaultPolicy.RESTART
    wrong_gpu: FaultPolicy = FaultPolicy.RESTART
    spill: FaultPolicy = FaultPolicy.TELL
    gpu_lost: FaultPolicy = FaultPolicy.TELL
    slowed: FaultPolicy = FaultPolicy.TELL
    crowded: FaultPolicy = FaultPolicy.TELL


@dataclass(frozen=True, slots=True, kw_only=True)
class CanarySpec:
    """The opt-in question for one token: of which models, and how often. No model means never. All times in seconds."""

    models: tuple[str, ...] = ()
    interval_s: float = 300.0
    timeout_s: float = 60.0
    failures: int = 2
    per_hour: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The options, beside the context, by which ollama loads a model anew where a request has others (0.32.15)."""

    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PinSpec:
    """A model to load, and how. `keep_alive_s` is how long without a request, negative for ever."""

    name: str
    num_ctx: int | None = None
    keep_alive_s: float | None = -1.0
    options: LoadOptions = LoadOptions()


EVERY_CARD = 0
"""As a number of replicas: one on each card that can hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model that is wanted `replicas` times, wherever it fits; on instances of `prefer` if it fits there."""

    name: str
    ctx: int | None = None
    replicas: int = 1
    prefer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One supervised `ollama serve`.

    `store` and `ollama` are as written (`~` not yet expanded); sizes are bytes; `keep_alive_s` is seconds, negative
    for ever. `env` is sorted by name and holds no managed variable.
    """

    name: str
    port: int
    pinning: Pinning
    gpus: tuple[GpuRef, ...] = ()
    enabled: bool = True
    share_gpu: bool = False
    allow_lan: bool = False
    preload: tuple[PinSpec, ...] = ()
    pull: Pull = Pull.NEVER
    ollama: str = "ollama"
    host: str = "127.0.0.1"
    store: str | None = None
    context_length: int = 8192
    num_parallel: int | None = None
    max_loaded_models: int | None = None
    keep_alive_s: float | None = None
    kv_cache_type: str | None = None
    flash_attention: bool | None = None
    headroom_bytes: int | None = None
    cache_ram_bytes: int = 2 * 1024**3
    env: tuple[tuple[str, str], ...] = ()
    health: HealthSpec = HealthSpec()
    restart: RestartSpec = RestartSpec()
    on: OnFault = OnFault()
    canary: CanarySpec = CanarySpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSpec:
    """What concerns the whole fleet. `log_max_bytes` is the size at which a child's log is rotated.

    `log_total_max_bytes` is what all logs together may take; old copies go first.
    """

    max_parallel_starts: int = 2
    on_death: OnDeath = OnDeath.KEEP
    log_max_bytes: int = 20 * 1024**2
    log_keep: int = 3
    log_total_max_bytes: int = 8 * 1024**3
    notify: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """Everything one configuration file asks for, instances and models in the order of the file."""

    supervisor: SupervisorSpec = SupervisorSpec()
    instances: tuple[InstanceSpec, ...] = ()
    placement: PlacementMode = PlacementMode.MANUAL
    models: tuple[ModelSpec, ...] = ()

    def instance(self, name: str) -> InstanceSpec | None:
        """Return the instance of that name, or None."""
        return next((spec for spec in self.instances if spec.name == name), None)
