"""What can happen to an instance. Every event about a process carries the generation of that process."""

from __future__ import annotations

from dataclasses import dataclass

from ollamux.domain.spec import RestartSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAsked:
    """The user, or the configuration at boot, wants the instance up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """The user, or a changed configuration, wants the instance down."""

    reason: str = "stop requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartAsked:
    """The user, or a changed configuration, wants a new incarnation, whatever runs now."""

    reason: str = "restart requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured:
    """The configuration of how it comes back, and of how long it may take, has changed."""

    restart: RestartSpec
    start_timeout_s: float
    unhealthy_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownAsked:
    """The supervisor is going down. `hurry` shortens what is left of a stop to two seconds."""

    hurry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceFreed:
    """A resource that instances wait for may be free again."""

    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A process of an earlier supervisor was proven to be this instance's."""

    gen: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """The process exists."""

    gen: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """The process could not be made. `permanent`: trying again soon is pointless."""

    gen: int
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnBlocked:
    """Nothing was started because a resource is taken. `retry_s` None: a ResourceFreed will come."""

    gen: int
    resource: str
    reason: str
    retry_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPassed:
    """Every check that judges health passes."""

    gen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthFailed:
    """Checks fail often enough to count. `runner`: ending this one process may be remedy enough."""

    gen: int
    reason: str
    runner: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRestartAsked:
    """A proven device fault whose policy is to restart."""

    gen: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStopAsked:
    """A proven device fault whose policy is to take the instance out of service."""

    gen: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderExited:
    """The leader is gone. `code` or `signal`, or neither where the exit of an adopted process is unknown.

    `members`: processes of this incarnation are still there. `words`: what the process last said about it.
    `never_ran`: what stands before the program could not even start it.
    """

    gen: int
    code: int | None
    signal: str | None
    members: bool
    words: str | None = None
    never_ran: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEmptied:
    """The leader is gone and so is every process of this incarnation."""

    gen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    """The armed deadline of the present phase has come."""

    gen: int


Event = (
    StartAsked
    | StopAsked
    | RestartAsked
    | Reconfigured
    | ShutdownAsked
    | ResourceFreed
    | Adopted
    | Spawned
    | SpawnFailed
    | SpawnBlocked
    | HealthPassed
    | HealthFailed
    | DeviceRestartAsked
    | DeviceStopAsked
    | LeaderExited
    | GroupEmptied
    | DeadlinePassed
)

EVENTS: tuple[type, ...] = Event.__args__
