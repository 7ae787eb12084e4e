"""What is known of a machine, as values for the rules. None, or an empty tuple, is "not known"; gathers nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ollamux.domain.snapshot import GpuView, InstanceView, Status
from ollamux.domain.spec import FleetSpec, InstanceSpec, Pinning
from ollamux.gpu.model import Inventory
from ollamux.ollama.version import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration file. `problem` is why it is not in force, in full; `missing` that there is none."""

    path: str | None = None
    fleet: FleetSpec | None = None
    problem: str | None = None
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """What lies beside an `ollama`: the names in its folder of libraries, `cuda` those of CUDA ("cuda_v12")."""

    folder: str
    cuda: tuple[str, ...]
    has_runner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An `ollama`: as it is named, where it is, or why it cannot be run.

    `libraries` is None where it is not known where they lie; `replaceable` is who else could replace it, and where.
    """

    name: str
    path: str | None = None
    problem: str | None = None
    version_text: str | None = None
    version: Version | None = None
    libraries: Libraries | None = None
    replaceable: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The packaged `ollama.service` of systemd."""

    active: bool
    enabled: bool
    pid: int | None = None
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """An `ollama serve` that is not ours. `store` and `prunes` are None where its environment may not be read."""

    pid: int
    user: str
    packaged: bool
    store: str | None = None
    prunes: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outdated:
    """A server of ours whose program on disk is another by now. `on_disk` is its version, None where it is gone."""

    instance: str
    program: str
    running: str | None = None
    on_disk: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A process on a card that is not ours. `packaged`: it belongs to the packaged service."""

    pid: int
    gpu: str
    name: str | None = None
    user: str | None = None
    memory_bytes: int | None = None
    packaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why an instance could not listen now: the port has a holder, or the address is not of this machine."""

    instance: str
    host: str
    port: int
    holder: str | None = None
    pid: int | None = None
    packaged: bool = False
    address_missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A folder of models. `state` is "folder", "missing", "closed" (may not be read) or "not a folder".

    `real_path` is behind all links. `makeable`: where it is missing, whether it can be made. `open_to` is who besides
    its owner may write there.
    """

    path: str
    instances: tuple[str, ...]
    real_path: str | None = None
    state: str = "folder"
    obstacle: str | None = None
    makeable: bool = True
    writable: bool = True
    open_to: str | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What /proc, /sys and /etc say of the machine. `cgroup` names the group whose limit and kills are meant."""

    system: str | None = None
    memory_bytes: int | None = None
    cgroup: str | None = None
    cgroup_memory_bytes: int | None = None
    cgroup_oom_kills: int | None = None
    oom_kills: int | None = None
    nvidia_cards: int | None = None
    nvidia_module: str | None = None
    sleeps: int | None = None
    idle_action: str | None = None
    may_sleep: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the rules are told. What could not be learnt is None, and a rule that needs it says nothing."""

    simulated: bool = False
    config: Config | None = None
    inventory: Inventory | None = None
    gpus: tuple[GpuView, ...] = ()
    status: Status | None = None
    silence: tuple[str, str] | None = None
    programs: tuple[Program, ...] = ()
    on_path: tuple[Program, ...] = ()
    service: Service | None = None
    servers: tuple[Server, ...] = ()
    outdated: tuple[Outdated, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    stores: tuple[Store, ...] = ()
    host: Host = Host()

    @property
    def fleet(self) -> FleetSpec | None:
        """What the configuration asks for."""
        return None if self.config is None else self.config.fleet

    @property
    def enabled(self) -> tuple[InstanceSpec, ...]:
        """The instances that are meant to run."""
        return () if self.fleet is None else tuple(spec for spec in self.fleet.instances if spec.enabled)

    @property
    def file(self) -> str:
        """The configuration file, as it is named to a person."""
        return "the configuration" if self.config is None or self.config.path is None else self.config.path

    def program_of(self, spec: InstanceSpec) -> Program | None:
        """Return the program that an instance runs."""
        return next((program for program in self.programs if program.name == spec.ollama), None)

    def gpus_of(self, spec: InstanceSpec) -> tuple[GpuView, ...]:
        """Return the cards of an instance, as far as they are known."""
        if spec.pinning is Pinning.CPU:
            return ()
        if spec.pinning is Pinning.ANY:
            return self.gpus
        return tuple(gpu for gpu in self.gpus if spec.name in gpu.instances)

    def is_used(self, gpu: GpuView) -> bool:
        """Tell whether an instance that is meant to run has this card; without a configuration each one counts."""
        if self.fleet is None:
            return True
        return any(gpu in self.gpus_of(spec) for spec in self.enabled)

    def view_of(self, name: str) -> InstanceView | None:
        """Return what the supervisor says of an instance."""
        views = () if self.status is None else self.status.instances
        return next((view for view in views if view.name == name), None)
