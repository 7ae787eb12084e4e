"""What the core knows of one instance, and the outcome of a step. Values only; the rules are in `rules`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, NamedTuple

from ollamux.domain.commands import Command
from ollamux.domain.phases import DeadlineKind, Phase, Want, Why
from ollamux.domain.spec import RestartSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When the present phase has lasted too long, in monotonic seconds."""

    kind: DeadlineKind
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LastExit:
    """How a child ended; both None where it was not our child and its status cannot be known."""

    code: int | None
    signal: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """All that the core knows of an instance.

    `failures` counts consecutive unstable runs, `spawns` the processes since it was told to run.
    """

    restart: RestartSpec = RestartSpec()
    start_timeout_s: float = 180.0
    unhealthy_timeout_s: float = 30.0
    salt: float = 0.5
    phase: Phase = Phase.STOPPED
    want: Want = Want.DOWN
    why: Why | None = None
    gen: int = 0
    pid: int | None = None
    adopted: bool = False
    failures: int = 0
    spawns: int = 0
    deadline: Deadline | None = None
    resource: str | None = None
    reason: str | None = None
    shutting_down: bool = False
    runner_ended: bool = False
    last_exit: LastExit | None = None

    def but(self, **changes: Any) -> Instance:
        """Return a copy with other values, as `dataclasses.replace` does; a restart waits for this one half as long."""
        return Instance(**dict(zip(_NAMES, _VALUES(self), strict=True), **changes))


_NAMES = tuple(each.name for each in fields(Instance))
_VALUES = attrgetter(*_NAMES)


class Step(NamedTuple):
    """What `step` decided."""

    state: Instance
    commands: tuple[Command, ...] = ()
