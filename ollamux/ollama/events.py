"""What a server's log says, as values. Each keeps the line it was read from, to be cited. No parsing here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """The port is bound. Nothing is served yet: discovery comes first."""

    address: str
    version: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryStarted:
    """The search for devices began."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLine:
    """A device that the server will compute on, or its CPU where it found none.

    `id` is a UUID (0.12.4 to 0.24) or an ordinal (0.30 and later); `filter_id` is the token of the mask the server was
    started with. Any of them may be empty. `pci_id` is normalised.
    """

    library: str
    id: str
    filter_id: str
    pci_id: str
    name: str
    total_bytes: int | None
    line: str

    @property
    def is_cpu(self) -> bool:
        """Say whether this is the CPU."""
        return self.library.lower() == "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryEnded:
    """All device lines have been written (0.15.5 and later); HTTP is served from here on."""

    total_vram_bytes: int | None
    default_context: int | None
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryFailed:
    """The search for devices failed or ran out of time, wholly or for one library."""

    reason: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleVram:
    """Free memory could not be read again: the earliest sign of a lost GPU."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStarting:
    """A runner is being started for a model; `blob` is the path of its weights."""

    blob: str
    port: int | None
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStarted:
    """The runner of a model answers."""

    blob: str | None
    seconds: float | None
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEnded:
    """A runner is gone. Which one, the log does not say."""

    reason: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """A model could not be loaded."""

    model: str | None
    reason: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInUse:
    """A runner took a device; the PCI address stands here even where the device line lacks it."""

    blob: str | None
    device: str
    name: str
    pci_id: str
    free_bytes: int
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersOffloaded:
    """So many layers of a model are on the GPU."""

    blob: str | None
    offloaded: int
    total: int
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferSize:
    """A buffer of a runner. Of lines with one blob, component, device and kind the last holds."""

    blob: str | None
    component: str
    device: str
    kind: str
    size_bytes: int
    on_gpu: bool
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """A device, or the host, had no memory left."""

    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fatal:
    """The last words of a server: an `Error:` line or a panic."""

    reason: str
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDone:
    """A request of somebody else for work of a model was answered with 200. Which model, the log does not say."""

    path: str
    line: str


LogEvent = (
    Listening
    | DiscoveryStarted
    | DeviceLine
    | DiscoveryEnded
    | DiscoveryFailed
    | StaleVram
    | RunnerStarting
    | RunnerStarted
    | RunnerEnded
    | LoadFailed
    | DeviceInUse
    | LayersOffloaded
    | BufferSize
    | OutOfMemory
    | RequestDone
    | Fatal
)
