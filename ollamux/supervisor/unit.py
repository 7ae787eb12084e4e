"""One instance at run time: its specification, its state in the machine, and what has been seen of it. No decisions."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from ollamux.domain.health import NOTHING_SEEN, Effort
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Want
from ollamux.domain.pins import PinState
from ollamux.domain.spec import InstanceSpec, PinSpec
from ollamux.domain.tally import Tally
from ollamux.domain.text import same_model
from ollamux.supervisor.family import Mark

if TYPE_CHECKING:
    from ollamux.gpu.model import Gpu
    from ollamux.ollama.api import LoadedModel
    from ollamux.ollama.events import LogEvent
    from ollamux.ollama.judge import Verdict
    from ollamux.ollama.log import LogReader
    from ollamux.ollama.version import Era
    from ollamux.supervisor.accounts import SeenLoad
    from ollamux.supervisor.canary import CanaryWatch
    from ollamux.supervisor.http import Request
    from ollamux.supervisor.loads import Load
    from ollamux.supervisor.tunes import Tune
    from ollamux.system.child import Child
    from ollamux.system.follow import Follower
    from ollamux.system.loop import Timer


class Work(NamedTuple):
    """What a runner had done when it was looked at last, and when it was last seen at work."""

    effort: Effort
    at: float
    active_at: float


class Unit:
    """Everything about one instance that changes while the supervisor runs. Only the supervisor's loop touches it."""

    def __init__(self, spec: InstanceSpec, *, owner: str, log_path: str) -> None:
        self.spec = spec
        self.owner = owner
        self.log_path = log_path
        self.leaving = False
        """Whether it is gone from the configuration, and with its process from here."""
        self.state = new_state(spec)
        self.child: Child | None = None
        self.timer: Timer | None = None
        self.armed: object = None
        self.since_wall = 0.0
        self.spawned_at = 0.0
        self.port = spec.port  # of the present incarnation, while the specification may have changed
        self.last_exit_wall: float | None = None
        self.leader_ended = False
        self.member_handles: dict[int, int] = {}
        # What the checks of the present incarnation have shown.
        self.health = NOTHING_SEEN
        self.requests: dict[str, Request] = {}
        self.check_timers: dict[str, Timer] = {}
        self.follower: Follower | None = None
        self.reader: LogReader | None = None
        self.log_start = 0
        self.device_lines: list[LogEvent] = []
        self.server_version: str | None = None
        self.era: Era | None = None
        self.verdict: Verdict | None = None
        self.models: tuple[LoadedModel, ...] = ()
        self.models_at: float | None = None
        self.seen_loads: dict[str, SeenLoad] = {}
        self.runners: dict[int, str] = {}
        self.gone_runners: frozenset[str] = frozenset()
        self.slept_s = 0.0
        self.blobs: dict[tuple[str, str | None], str | None] = {}
        self.promises: dict[str, tuple[float | None, float]] = {}
        self.served_at: float | None = None
        self.canary: CanaryWatch | None = None
        # What outlives an incarnation.
        self.gpus: tuple[Gpu, ...] = ()
        self.degraded: dict[str, str] = {}
        self.sightings: dict[str, int] = {}
        self.fingerprint: str | None = None
        self.incidents: set[str] = set()
        self.asked_incidents: set[str] = set()
        self.loads: list[Load] = []
        self.hand_pins: tuple[PinSpec, ...] = ()
        self.placed_pins: tuple[PinSpec, ...] = ()
        self.pin_states: dict[str, PinState] = {}
        self.work: dict[int, Work] = {}
        self.tally = Tally()
        self.tune: Tune | None = None

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.spec.name

    @property
    def mark(self) -> Mark:
        """What the processes of the present incarnation carry."""
        return Mark(owner=self.owner, instance=self.name, gen=self.state.gen)

    @property
    def trial_mark(self) -> Mark:
        """What the processes carry that a tune starts on its cards: no instance can have that name."""
        return Mark(owner=self.owner, instance=f"{self.name}~tune", gen=1)

    @property
    def wanted(self) -> bool:
        """Whether the instance is meant to run."""
        return self.state.want is Want.UP

    @property
    def pins(self) -> tuple[PinSpec, ...]:
        """What is to be kept: as the configuration says, then what was pinned by hand or placed by a plan besides."""
        found = list(self.spec.preload)
        for pin in (*self.hand_pins, *self.placed_pins):
            if not any(same_model(pin.name, one.name) for one in found):
                found.append(pin)
        return tuple(found)

    def forget_checks(self) -> None:
        """Cancel every question that is under way or planned."""
        for request in self.requests.values():
            request.cancel()
        for timer in self.check_timers.values():
            timer.cancel()
        self.requests = {}
        self.check_timers = {}

    def forget_incarnation(self) -> None:
        """Drop what the checks saw of a process that is gone."""
        self.forget_checks()
        self.leader_ended = False
        self.health = NOTHING_SEEN
        if self.follower is not None:
            self.follower.close()
            self.follower = None
        self.reader = None
        self.device_lines = []
        self.verdict = None
        self.models = ()
        self.models_at = None
        self.seen_loads = {}
        self.runners = {}
        self.blobs = {}
        self.promises = {}
        self.served_at = None
        self.gone_runners = frozenset()
        self.work = {}
        self.pin_states = {}
        self.degraded = {}
        self.sightings = {}


def new_state(spec: InstanceSpec, *, gen: int = 0) -> Instance:
    """Return the machine's state for an instance that is not there yet."""
    return Instance(
        restart=spec.restart,
        start_timeout_s=spec.health.start_timeout_s,
        unhealthy_timeout_s=spec.health.unhealthy_timeout_s,
        salt=random.random(),  # noqa: S311 - spreads restarts, guards nothing
        gen=gen,
    )
