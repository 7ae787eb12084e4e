"""A small box with one instance in it, made of values: it obeys the core's commands as Linux would, and judges them.

It never waits and draws no chance: whoever drives it picks the next `Action`. Every step is held against the
properties the supervisor is built on, and a broken one is a `Violation` that carries the property's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ollamux.domain import commands as cmd
from ollamux.domain import events as ev
from ollamux.domain import machine
from ollamux.domain.instance import Instance
from ollamux.domain.phases import GOING_DOWN, NO_PROCESS, SERVING, DeadlineKind, Phase, Want
from ollamux.domain.rules import HURRY_S, targets

TWO_INCARNATIONS = "P1 two incarnations"
REAPED_TOO_SOON = "P2 reaped while something was left"
SIGNAL_AFTER_REAP = "P3 signalled after the reap"
PROCESS_LEFT = "P4 a process in a phase without one"
NO_DEADLINE = "P5 no deadline"
NO_REST = "P6 comes to no rest"
MISCOUNTED = "P7 failures miscounted"
SPAWN_AFTER_SHUTDOWN = "P8 spawned after the shutdown"
ECHO_HEARD = "P9 an echo of another generation changed something"
DEADLINE_MOVED = "P10 a repeated request moved the deadline"
INTENT_LOST = "P11 the newest intent was lost"
UNDECLARED = "P12 a phase the rule does not declare"
GENERATION = "P13 the generation is wrong"

FAULTS: Final = frozenset({"crash", "start timeout", "unhealthy"})
"""The ends that count as failures; a spawn that fails counts too, but has no incarnation."""

KINDS: Final = {
    Phase.WAITING: {DeadlineKind.BACKOFF, DeadlineKind.RESOURCE},
    Phase.STARTING: {DeadlineKind.START},
    Phase.READY: {DeadlineKind.STABLE},
    Phase.UNHEALTHY: {DeadlineKind.UNHEALTHY},
    Phase.STOPPING: {DeadlineKind.STOP},
    Phase.SWEEPING: {DeadlineKind.SWEEP},
    Phase.KILLING: {DeadlineKind.KILL},
    Phase.FAILED: {DeadlineKind.RETRY},
}
ALWAYS_ARMED: Final = frozenset({Phase.STARTING, Phase.UNHEALTHY, Phase.STOPPING, Phase.SWEEPING, Phase.KILLING})


class Violation(AssertionError):
    """A property does not hold. `name` says which."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A living process. `hung`: it sits in the kernel, where not even SIGKILL reaches it."""

    hung: bool = False
    termed: bool = False
    killed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Incarnation:
    """A leader and its members. `leader` None: a zombie. `told`: its exit was reported. `cause`: why it ends."""

    gen: int
    pid: int
    adopted: bool = False
    leader: Body | None = field(default_factory=Body)
    members: tuple[Body, ...] = ()
    told: bool = False
    code: int | None = None
    cause: str | None = None


@dataclass(slots=True)
class World:
    """The box. `pending` is the generation of a Spawn not yet answered, `intent` what was asked last."""

    state: Instance
    now: float = 1000.0
    incarnation: Incarnation | None = None
    pending: int | None = None
    highest: int = 0
    intent: Want = Want.DOWN
    most_members: int = 2
    trace: tuple[str, ...] = ()

    def clone(self) -> World:
        return replace(self)

    def do(self, action: Action) -> None:
        self.trace = (*self.trace, action.name)
        action.act(self)

    def deliver(self, event: ev.Event) -> None:
        """Let the core decide about an event, judge the decision, and obey it."""
        before = self.state
        self._heed(event)
        after, commands = machine.step(before, event, self.now)
        judge_step(before, event, after, commands, self.now)
        self._judge_count(before, event, after, commands)
        self.state = after
        for command in commands:
            self._obey(command, before, event)
        self._judge_state()

    def tick(self, seconds: float) -> None:
        """Let time pass, at most until the armed deadline, which is then reported."""
        due = self.state.deadline
        if due is None or self.now + seconds < due.at:
            self.now += seconds
        else:
            self.now = max(self.now, due.at)
            self.deliver(ev.DeadlinePassed(gen=self.state.gen))

    def live(self) -> Incarnation:
        assert self.incarnation is not None
        return self.incarnation

    def change(self, **values: object) -> None:
        self.incarnation = replace(self.live(), **values)  # type: ignore[arg-type]

    def _heed(self, event: ev.Event) -> None:
        if isinstance(event, ev.StopAsked | ev.ShutdownAsked):
            self.intent = Want.DOWN
        elif isinstance(event, ev.StartAsked | ev.RestartAsked | ev.Adopted) and not self.state.shutting_down:
            self.intent = Want.UP
            if self.state.phase in GOING_DOWN and self.incarnation is not None:
                self.change(cause="asked")

    def _obey(self, command: cmd.Command, before: Instance, event: ev.Event) -> None:
        if isinstance(command, cmd.Spawn):
            self._spawn(command)
            return
        here = self.incarnation
        if here is None or here.gen != command.gen:
            raise Violation(SIGNAL_AFTER_REAP, f"{command} while {here} exists")
        if isinstance(command, cmd.Reap):
            if here.leader is not None or here.members:
                raise Violation(REAPED_TOO_SOON, f"{here}")
            self.incarnation = None
        elif isinstance(command, cmd.TermLeader):
            leader = None if here.leader is None else replace(here.leader, termed=True)
            self.change(leader=leader, cause=_cause(before, event))  # what was asked before the exit was known counts
        elif isinstance(command, cmd.TermGroup):
            self.change(members=tuple(replace(body, termed=True) for body in here.members))
        elif isinstance(command, cmd.KillGroup):
            self.change(leader=_kill(here.leader), members=tuple(filter(None, map(_kill, here.members))))
        else:
            self.change(
                members=tuple(filter(None, (_kill(here.members[0]), *here.members[1:]))) if here.members else ()
            )

    def _spawn(self, command: cmd.Spawn) -> None:
        if self.incarnation is not None or self.pending is not None:
            raise Violation(TWO_INCARNATIONS, f"{command} while {self.incarnation} exists, or {self.pending} is coming")
        if self.state.shutting_down:
            raise Violation(SPAWN_AFTER_SHUTDOWN, f"{command}")
        if command.gen <= self.highest:
            raise Violation(GENERATION, f"{command} again: {self.highest} existed already")
        self.pending = command.gen

    def _judge_count(
        self, before: Instance, event: ev.Event, after: Instance, commands: tuple[cmd.Command, ...]
    ) -> None:
        cause = "spawn failed" if isinstance(event, ev.SpawnFailed) else self.incarnation and self.incarnation.cause
        counts = cause in FAULTS or cause == "spawn failed"
        grown = after.failures - before.failures
        if grown > 0 and not (counts and grown == 1):
            raise Violation(MISCOUNTED, f"{before.failures} became {after.failures} on {event}; it ended by {cause}")
        over = isinstance(event, ev.SpawnFailed) or any(isinstance(command, cmd.Reap) for command in commands)
        comes_back = after.phase is Phase.WAITING or any(isinstance(command, cmd.Spawn) for command in commands)
        if over and comes_back and counts and grown != 1:
            raise Violation(MISCOUNTED, f"it ended by {cause} and comes back uncounted")

    def _judge_state(self) -> None:
        state = self.state
        exists = self.incarnation is not None or self.pending is not None
        if state.phase in NO_PROCESS and (exists or state.pid is not None):
            raise Violation(PROCESS_LEFT, f"{state.phase.name} with {self.incarnation}, pid {state.pid}")
        if state.phase not in NO_PROCESS and not exists:
            raise Violation(NO_REST, f"{state.phase.name} waits for a process that does not exist")
        if self.incarnation is not None and self.incarnation.gen != state.gen:
            raise Violation(GENERATION, f"{state.gen}, while {self.incarnation.gen} exists")
        if state.want is not self.intent:
            raise Violation(INTENT_LOST, f"{self.intent.name} was asked last, not {state.want.name}")
        judge_deadline(state)
        judge_intent(state)


def _kill(body: Body | None) -> Body | None:
    return replace(body, killed=True) if body is not None and body.hung else None


def _cause(before: Instance, event: ev.Event) -> str:
    if isinstance(event, ev.DeadlinePassed):
        return "start timeout" if before.phase is Phase.STARTING else "unhealthy"
    return "device" if isinstance(event, ev.DeviceRestartAsked | ev.DeviceStopAsked) else "asked"


def judge_step(
    before: Instance, event: ev.Event, after: Instance, commands: tuple[cmd.Command, ...], now: float
) -> None:
    """Judge what can be judged of one step without the box."""
    rule = machine.TABLE[before.phase, type(event)]
    try:
        declared = targets(rule)
    except KeyError:  # a rule seeded by a test
        declared = frozenset(Phase)
    if after.phase is not before.phase and after.phase not in declared:
        raise Violation(UNDECLARED, f"{before.phase.name} to {after.phase.name} on {event}")
    blocked = isinstance(event, ev.SpawnBlocked)
    if not blocked and after.gen < before.gen:
        raise Violation(GENERATION, f"{before.gen} fell to {after.gen} on {event}")
    for command in commands:
        if command.gen != (after.gen if isinstance(command, cmd.Spawn) else before.gen):
            raise Violation(GENERATION, f"{command} in {before.gen}")
    passed = isinstance(event, ev.DeadlinePassed) and event.gen == before.gen
    if passed and before.deadline is not None and now >= before.deadline.at:
        left = after.deadline
        if left is not None and left.at <= now and left.kind is before.deadline.kind:
            raise Violation(NO_REST, f"{left} stays due in {after.phase.name}: the loop would spin")


def judge_deadline(state: Instance) -> None:
    """At most one deadline, of the right kind; every phase that waits has one, or the name of a resource."""
    armed = state.deadline
    if armed is not None and armed.kind not in KINDS.get(state.phase, ()):
        raise Violation(NO_DEADLINE, f"{armed} in {state.phase.name}")
    if armed is None and state.phase in ALWAYS_ARMED:
        raise Violation(NO_DEADLINE, state.phase.name)
    if armed is None and state.phase is Phase.WAITING and state.resource is None:
        raise Violation(NO_DEADLINE, "WAITING for nothing that has a name")
    if armed is None and state.phase is Phase.READY and state.failures:
        raise Violation(NO_DEADLINE, "READY, and its failures will never be forgotten")


def judge_intent(state: Instance) -> None:
    """The phase goes with the intent."""
    if state.phase is Phase.STOPPED and state.want is Want.UP:
        raise Violation(INTENT_LOST, "STOPPED though wanted")
    if state.phase in (Phase.WAITING, Phase.FAILED) and state.want is Want.DOWN:
        raise Violation(INTENT_LOST, f"{state.phase.name} though not wanted")
    if state.phase in SERVING and state.pid is not None and (state.want is Want.DOWN or state.why is not None):
        raise Violation(INTENT_LOST, f"{state.phase.name} though {state.why}")


def judge_quiet(state: Instance, now: float) -> None:
    """Whatever the state: echoes change nothing, a deadline not due changes nothing, asking again moves nothing."""
    for gen in (state.gen - 1, state.gen + 1):
        for event in about(gen):
            if isinstance(event, ev.Adopted) and gen > state.gen:
                continue
            if machine.step(state, event, now + 1e6) != (state, ()):
                raise Violation(ECHO_HEARD, f"{event} in generation {state.gen}, {state.phase.name}")
    if state.deadline is not None:
        early = machine.step(state, ev.DeadlinePassed(gen=state.gen), state.deadline.at - 0.001)
        if early != (state, ()):
            raise Violation(ECHO_HEARD, f"{state.deadline} came early")
    if state.phase in GOING_DOWN:
        for event in (ev.StopAsked(), ev.ShutdownAsked(), ev.ShutdownAsked(hurry=True)):
            asked = machine.step(state, event, now + 1.0)
            hurried = isinstance(event, ev.ShutdownAsked) and event.hurry
            moved = asked.state.deadline != state.deadline
            if hurried and moved and asked.state.deadline is not None and state.deadline is not None:
                moved = not now + 1.0 + HURRY_S == asked.state.deadline.at < state.deadline.at
            if moved or asked.state.phase is not state.phase or asked.commands:
                raise Violation(DEADLINE_MOVED, f"{event} in {state.phase.name}: {asked}")


def about(gen: int) -> tuple[ev.Event, ...]:
    """One event of every kind that is about a process of that generation."""
    return (
        ev.Adopted(gen=gen, pid=99),
        ev.Spawned(gen=gen, pid=99),
        ev.SpawnFailed(gen=gen, reason="echo", permanent=True),
        ev.SpawnBlocked(gen=gen, resource="echo", reason="echo", retry_s=1.0),
        ev.HealthPassed(gen=gen),
        ev.HealthFailed(gen=gen, reason="echo", runner=98),
        ev.DeviceRestartAsked(gen=gen, reason="echo"),
        ev.DeviceStopAsked(gen=gen, reason="echo"),
        ev.LeaderExited(gen=gen, code=1, signal=None, members=False),
        ev.GroupEmptied(gen=gen),
        ev.DeadlinePassed(gen=gen),
    )


@dataclass(frozen=True, slots=True)
class Action:
    """Something that may happen next. `by` groups actions by who acts: user, shell or box."""

    name: str
    by: str
    enabled: Callable[[World], bool]
    act: Callable[[World], None]
