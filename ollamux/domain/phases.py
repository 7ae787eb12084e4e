"""The phases of an instance, and the few words that go with them."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where an instance is in its life. DEGRADED is no phase: it is READY with a device fault."""

    STOPPED = "STOPPED"
    WAITING = "WAITING"
    STARTING = "STARTING"
    READY = "READY"
    UNHEALTHY = "UNHEALTHY"
    STOPPING = "STOPPING"
    SWEEPING = "SWEEPING"
    KILLING = "KILLING"
    STUCK = "STUCK"
    FAILED = "FAILED"

    __hash__ = object.__hash__  # there is one of each; the hash of an Enum is a call of Python code every time


class Want(Enum):
    """What the user, or the configuration, wants of an instance. The newest intent wins."""

    UP = "up"
    DOWN = "down"


class Why(Enum):
    """Why an instance is being taken down. It decides what comes after."""

    STOP = "stopped on request"
    RESTART = "restarted on request"
    DEVICE = "restarted for a device fault"
    GAVE_UP = "taken out of service"
    UNHEALTHY = "restarted because it was unhealthy"
    START_TIMEOUT = "restarted because it did not get ready"


class DeadlineKind(Enum):
    """Which deadline is armed. At most one is at a time."""

    BACKOFF = "backoff"
    RESOURCE = "resource"
    RETRY = "retry"
    START = "start_timeout"
    STABLE = "stable_for"
    UNHEALTHY = "unhealthy_timeout"
    STOP = "stop_timeout"
    SWEEP = "sweep_timeout"
    KILL = "kill_timeout"


NO_PROCESS = frozenset({Phase.STOPPED, Phase.WAITING, Phase.FAILED})
"""Phases in which nothing of the instance exists. Only from these is anything spawned."""

GOING_DOWN = frozenset({Phase.STOPPING, Phase.SWEEPING, Phase.KILLING, Phase.STUCK})
"""Phases in which the old incarnation is on its way out."""

SERVING = frozenset({Phase.STARTING, Phase.READY, Phase.UNHEALTHY})
"""Phases in which the leader is alive and meant to stay."""
