"""The one writer: takes an event, asks the machine, hands the commands over, tells the world.

Everything that changes an instance goes through `Core.dispatch`, on the loop's thread.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ollamux.domain import events as ev
from ollamux.domain.commands import Command
from ollamux.domain.instance import Instance
from ollamux.domain.machine import step
from ollamux.domain.phases import SERVING, Phase
from ollamux.domain.spec import FleetSpec, InstanceSpec
from ollamux.domain.text import format_duration
from ollamux.supervisor.family import Claim
from ollamux.supervisor.journal import Entry, Journal
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic, wall
from ollamux.system.loop import Loop

if TYPE_CHECKING:
    from ollamux.domain.placed import Placement

START_SLOT = "a start slot"
VRAM = "VRAM of GPU"
"""With the index of the card: the resource of a start that waits for memory to come back."""
SLOT_HOLD_S = 15.0
"""A start that takes longer than this no longer holds back the others."""
TELL_AFTER_S = 0.002
"""A new process comes first: what there is to say of it waits this long, so that it does not wait for a processor."""


class News(NamedTuple):
    """A change that nobody has been told of yet; `at` is when it happened, by the wall clock."""

    unit: Unit
    before: Instance
    after: Instance
    at: float


class Core:
    """All instances and their states. `execute` carries commands out; `changed` is told after every change."""

    def __init__(
        self,
        fleet: FleetSpec,
        *,
        journal: Journal,
        owner: str,
        log_dir: str,
        configured: FleetSpec | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.loop = Loop(on_error=self.report_bug)
        self.fleet = fleet
        """What is in force: as configured, with the instances that a placement added."""
        self.configured = fleet if configured is None else configured
        self.placement = placement
        self.journal = journal
        self.owner = owner
        self.log_dir = log_dir
        self.units = {spec.name: self.new_unit(spec) for spec in fleet.instances}
        self.execute: Callable[[Unit, Command], None] = lambda unit, command: None
        self.changed: list[Callable[[Unit, Instance], None]] = []
        self.leftovers: dict[int, Claim] = {}
        """What an earlier supervisor left and is being ended, by pid; nothing starts where it is."""
        self.shutting_down = False
        self.bugs = 0
        self._depth: dict[str, Instance] = {}
        self._unrecorded: list[News] = []
        self._untold: dict[str, News] = {}
        self._planned: set[float] = set()

    def new_unit(self, spec: InstanceSpec) -> Unit:
        """Return an instance that has not been started."""
        unit = Unit(spec, owner=self.owner, log_path=f"{self.log_dir}/{spec.name}.log")
        unit.placed_pins = self.placement.of(spec.name) if self.placement is not None else ()
        return unit

    def report_bug(self, error: BaseException) -> None:
        """Say that one of our own callbacks failed, with everything needed to mend it."""
        self.bugs += 1
        if self.bugs <= 20:
            text = "".join(traceback.format_exception(error))
            self.journal.add(None, old=None, new=None, reason=f"internal error, please report it: {text}")

    def dispatch(self, unit: Unit, event: ev.Event) -> None:
        """Apply an event to an instance and do what follows from it."""
        if unit.name in self._depth:
            self._apply(unit, event)
            return
        if unit.name in self._untold:
            self.tell()
        first = self._depth[unit.name] = unit.state
        try:
            self._apply(unit, event)
        finally:
            del self._depth[unit.name]
            if unit.state is not first:
                self._have_news(News(unit, first, unit.state, wall()))

    def _apply(self, unit: Unit, event: ev.Event) -> None:
        before = unit.state
        unit.state, commands = step(unit.state, event, monotonic())
        if unit.state is not before:
            self._follow(unit, before)
        for command in commands:
            self.execute(unit, command)

    def put(self, unit: Unit, state: Instance) -> None:
        """Go on from a state that the program before this one had reached; nothing is told, the deadline is armed."""
        before, unit.state = unit.state, state
        self._follow(unit, before)

    def dispatch_all(self, event: ev.Event) -> None:
        """Apply an event to every instance."""
        for unit in tuple(self.units.values()):
            self.dispatch(unit, event)

    def _follow(self, unit: Unit, before: Instance) -> None:
        deadline = unit.state.deadline
        if deadline is not unit.armed:
            if unit.timer is not None:
                unit.timer.cancel()
                unit.timer = None
            unit.armed = deadline
            if deadline is not None:
                gen = unit.state.gen
                unit.timer = self.loop.call_at(
                    deadline.at, lambda: self.dispatch(unit, ev.DeadlinePassed(gen=gen))
                )  # fmt: skip

    def _have_news(self, news: News) -> None:
        unit, before, after, at = news
        if _moved(before, after):
            unit.since_wall = at
        self._unrecorded.append(news)
        self._untold[unit.name] = news
        spawned = after.phase is Phase.STARTING and after.pid is not None and after.gen != before.gen
        delay_s = TELL_AFTER_S if spawned else 0.0
        if delay_s not in self._planned:
            self._planned.add(delay_s)
            self.loop.call_later(delay_s, lambda: self._tell_planned(delay_s))

    def _tell_planned(self, delay_s: float) -> None:
        self._planned.discard(delay_s)
        self.tell()

    def tell(self) -> None:
        """Put on record what is not yet, then tell whoever listens, in the order in which it happened.

        All that happens in one round of the loop is acted on first. Of one instance there is one news at most. What a
        listener makes happen is put on record before anybody is told of that in turn.
        """
        while self._unrecorded or self._untold:
            news, self._unrecorded = self._unrecorded, []
            self.journal.add_all([self._entry(each) for each in news if _is_news(each)])
            if self._untold:
                self._tell(self._untold.pop(next(iter(self._untold))))

    def _entry(self, news: News) -> Entry:
        old, new = news.before.phase.value, news.after.phase.value
        return Entry(news.unit.name, old, new, self._reason(news.unit, news.before), news.at)

    def _tell(self, news: News) -> None:
        unit, before, after, _ = news
        if before.phase is Phase.STARTING and after.phase is not Phase.STARTING:
            self.free_slots()
        for listener in tuple(self.changed):
            try:
                listener(unit, before)
            except Exception as error:  # noqa: BLE001 - whoever else listens must hear it all the same
                self.report_bug(error)

    def _reason(self, unit: Unit, before: Instance) -> str | None:
        state = unit.state
        if state.phase is Phase.READY:
            took = f" after {format_duration(monotonic() - unit.spawned_at)}" if before.phase is Phase.STARTING else ""
            return f"{'adopted and ' if state.adopted else ''}ready{took} at {url(unit)}"
        if state.phase is Phase.STARTING and before.phase not in SERVING:
            return f"pid {state.pid}"
        if state.phase is Phase.WAITING and state.deadline is not None:
            waits = format_duration(max(0.0, state.deadline.at - monotonic()))
            return f"{state.reason}; {next_action(unit)} in {waits}"
        return state.reason

    def note(self, unit: Unit | None, reason: str) -> dict[str, Any]:
        """Record a word about an instance that changes no phase."""
        self.tell()
        if unit is None:
            return self.journal.add(None, old=None, new=None, reason=reason)
        phase = unit.state.phase.value
        return self.journal.add(unit.name, old=phase, new=phase, reason=reason)

    def note_soon(self, unit: Unit, reason: str) -> None:
        """Record a word about what is being done in the middle of a change, which comes before it on record."""

        def told() -> None:
            self.note(unit, reason)

        self.loop.call_soon(told)

    def starts_now(self, unit: Unit) -> int:
        """Return how many other instances hold a start slot."""
        now = monotonic()
        return sum(
            other.state.phase is Phase.STARTING and other.state.pid is not None and now - other.spawned_at < SLOT_HOLD_S
            for other in self.units.values()
            if other is not unit
        )

    def free_slots(self) -> None:
        """Let whoever waits for a start slot try again, in the order of the configuration."""
        self.free(START_SLOT)

    def free(self, resource: str) -> None:
        """Let whoever waits for a resource try again."""
        for unit in tuple(self.units.values()):
            if unit.state.phase is Phase.WAITING and unit.state.resource == resource:
                self.dispatch(unit, ev.ResourceFreed(resource=resource))


def _is_news(news: News) -> bool:
    # To wait for something else than before is news too.
    _, before, after, _ = news
    return _moved(before, after) or (after.phase is Phase.WAITING and after.reason != before.reason)


def _moved(before: Instance, after: Instance) -> bool:
    return after.phase is not before.phase or after.gen != before.gen


def url(unit: Unit) -> str:
    """Return the address that clients of an instance use."""
    return url_of(unit.spec)


def url_of(spec: InstanceSpec) -> str:
    """Return the address that clients of such an instance would use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(spec.host, spec.host)  # noqa: S104 - compared
    return f"http://[{host}]:{spec.port}" if ":" in host else f"http://{host}:{spec.port}"


def next_action(unit: Unit) -> str | None:
    """Say what happens when the present deadline comes, or None where nothing will."""
    state = unit.state
    if state.phase is Phase.WAITING:
        if state.deadline is None:
            return None
        if state.resource is not None:
            return "start anyway" if state.resource.startswith(VRAM) else "look again"
        return f"restart {max(state.spawns, 1)}"
    return {
        Phase.UNHEALTHY: "restart",
        Phase.STOPPING: "kill",
        Phase.SWEEPING: "kill what is left",
        Phase.KILLING: "report as stuck",
        Phase.FAILED: "try again" if state.deadline is not None else None,
    }.get(state.phase)
