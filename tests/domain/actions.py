"""What may happen in the `World`, and how it is brought to rest without anybody's help."""

from __future__ import annotations

from dataclasses import replace

from ollamux.domain import events as ev
from ollamux.domain.phases import NO_PROCESS, Phase, Want

from .world import NO_REST, Action, Body, Incarnation, Violation, World


def _always(world: World) -> bool:
    return True


def _alive(world: World) -> bool:
    return world.incarnation is not None and world.incarnation.leader is not None


def _free(world: World) -> bool:
    """The leader lives and is not caught in the kernel."""
    return _alive(world) and not world.live().leader.hung  # type: ignore[union-attr]


def _untold(world: World) -> bool:
    """Checks of this incarnation may still report."""
    return world.incarnation is not None and not world.incarnation.told


def _asked(world: World) -> bool:
    return world.pending is not None


def _spawned(world: World) -> None:
    gen = world.pending
    assert gen is not None
    world.pending, world.highest = None, gen
    world.incarnation = Incarnation(gen=gen, pid=4000 + gen)
    world.deliver(ev.Spawned(gen=gen, pid=4000 + gen))


def _answer(world: World, event: ev.Event) -> None:
    world.pending = None
    world.deliver(event)


def _adopt(world: World) -> None:
    gen = max(world.highest, world.state.gen) + 1
    world.highest = gen
    world.incarnation = Incarnation(gen=gen, pid=4000 + gen, adopted=True)
    world.deliver(ev.Adopted(gen=gen, pid=4000 + gen))


def _end_leader(world: World, *, code: int, cleanly: bool) -> None:
    here = world.live()
    members = tuple(body for body in here.members if body.hung) if cleanly else here.members
    world.change(leader=None, members=members, code=code, cause=here.cause or "crash")


def _report_leader(world: World) -> None:
    here = world.live()
    world.change(told=True)
    code = None if here.adopted else here.code
    killed = None if here.adopted or code is not None else "SIGKILL"
    world.deliver(ev.LeaderExited(gen=here.gen, code=code, signal=killed, members=bool(here.members)))


def _can_empty(world: World) -> bool:
    here = world.incarnation
    return here is not None and here.leader is None and here.told and not here.members


def _member_free(world: World) -> bool:
    return world.incarnation is not None and any(not body.hung for body in world.incarnation.members)


def _member_ends(world: World) -> None:
    members = list(world.live().members)
    members.remove(next(body for body in members if not body.hung))
    world.change(members=tuple(members))


def _member_hangs(world: World) -> None:
    here = world.live()
    caught = next(body for body in here.members if not body.hung)
    world.change(members=tuple(replace(b, hung=True) if b is caught else b for b in here.members))


def _anything_hung(world: World) -> bool:
    here = world.incarnation
    return here is not None and any(body.hung for body in (here.leader, *here.members) if body is not None)


def _kernel_lets_go(world: World) -> None:
    def freed(body: Body | None) -> Body | None:
        if body is None or (body.hung and body.killed):
            return None
        return replace(body, hung=False)

    here = world.live()
    world.change(leader=freed(here.leader), members=tuple(filter(None, map(freed, here.members))))


def _fails(world: World, *, runner: int | None) -> None:
    world.deliver(ev.HealthFailed(gen=world.live().gen, reason="no answer", runner=runner))


def _blocked(world: World, *, retry_s: float | None) -> None:
    gen = world.pending or 0
    _answer(world, ev.SpawnBlocked(gen=gen, resource="port 11435", reason="port 11435 is taken", retry_s=retry_s))


def _spawn_fails(world: World, *, permanent: bool) -> None:
    _answer(world, ev.SpawnFailed(gen=world.pending or 0, reason="no memory", permanent=permanent))


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action("start", "user", _always, lambda w: w.deliver(ev.StartAsked())),
        Action("stop", "user", _always, lambda w: w.deliver(ev.StopAsked())),
        Action("restart", "user", _always, lambda w: w.deliver(ev.RestartAsked())),
        Action(
            "reconfigured", "user", _always,
            lambda w: w.deliver(
                ev.Reconfigured(restart=w.state.restart, start_timeout_s=300.0, unhealthy_timeout_s=60.0)
            ),
        ),
        Action("shutdown", "user", _always, lambda w: w.deliver(ev.ShutdownAsked())),
        Action("hurry", "user", _always, lambda w: w.deliver(ev.ShutdownAsked(hurry=True))),
        Action("spawned", "shell", _asked, _spawned),
        Action("spawn fails", "shell", _asked, lambda w: _spawn_fails(w, permanent=False)),
        Action("spawn fails for good", "shell", _asked, lambda w: _spawn_fails(w, permanent=True)),
        Action("spawn blocked", "shell", _asked, lambda w: _blocked(w, retry_s=None)),
        Action("spawn blocked for a while", "shell", _asked, lambda w: _blocked(w, retry_s=5.0)),
        Action("port freed", "shell", _always, lambda w: w.deliver(ev.ResourceFreed(resource="port 11435"))),
        Action("other port freed", "shell", _always, lambda w: w.deliver(ev.ResourceFreed(resource="port 1"))),
        Action(
            "adopted",
            "shell",
            lambda w: w.state.phase in NO_PROCESS and not w.state.shutting_down,
            _adopt,
        ),
        Action("healthy", "shell", _untold, lambda w: w.deliver(ev.HealthPassed(gen=w.live().gen))),
        Action("unhealthy", "shell", _untold, lambda w: _fails(w, runner=None)),
        Action("runner hangs", "shell", _untold, lambda w: _fails(w, runner=5000)),
        Action(
            "device restart",
            "shell",
            _untold,
            lambda w: w.deliver(ev.DeviceRestartAsked(gen=w.live().gen, reason="computes on the CPU")),
        ),
        Action(
            "device stop",
            "shell",
            _untold,
            lambda w: w.deliver(ev.DeviceStopAsked(gen=w.live().gen, reason="on the wrong GPU")),
        ),
        Action("leader reported", "shell", lambda w: _untold(w) and not _alive(w), _report_leader),
        Action("group reported", "shell", _can_empty, lambda w: w.deliver(ev.GroupEmptied(gen=w.live().gen))),
        Action("deadline", "shell", lambda w: w.state.deadline is not None, lambda w: w.tick(1e9)),
        Action("crashes", "box", _free, lambda w: _end_leader(w, code=1, cleanly=False)),
        Action("exits with 0", "box", _free, lambda w: _end_leader(w, code=0, cleanly=True)),
        Action(
            "forks", "box", lambda w: _free(w) and len(w.live().members) < w.most_members,
            lambda w: w.change(members=(*w.live().members, Body())),
        ),
        Action("member ends", "box", _member_free, _member_ends),
        Action("leader hangs", "box", _free, lambda w: w.change(leader=replace(w.live().leader or Body(), hung=True))),
        Action("member hangs", "box", _member_free, _member_hangs),
        Action("kernel lets go", "box", _anything_hung, _kernel_lets_go),
    )
}  # fmt: skip


def settle(world: World, *, obeys: bool = True, healthy: bool = True, releases: bool = True) -> None:
    """Drive to rest without the user: `obeys` SIGTERM or not, gets `healthy` or not, the kernel `releases` or not."""
    for _ in range(400):
        if rests(world, healthy=healthy, releases=releases):
            return
        go_on(world, obeys=obeys, healthy=healthy, releases=releases)
    raise Violation(NO_REST, f"{world.state.phase.name} after 400 steps: {world.trace[-12:]}")


def go_on(world: World, *, obeys: bool = True, healthy: bool = True, releases: bool = True) -> None:
    """Do the one thing that comes next of itself."""
    world.do(ACTIONS[_next(world, obeys=obeys, healthy=healthy, releases=releases)])


def rests(world: World, *, healthy: bool, releases: bool) -> bool:
    state = world.state
    if state.phase is Phase.STUCK:
        return _anything_hung(world) and not releases
    if state.want is Want.DOWN:
        return state.phase is Phase.STOPPED
    by_name = state.phase is Phase.WAITING and state.resource is not None
    return state.phase is Phase.FAILED or by_name or (state.phase is Phase.READY and healthy)


def _next(world: World, *, obeys: bool, healthy: bool, releases: bool) -> str:
    here = world.incarnation
    if world.pending is not None:
        return "spawned"
    if here is not None and here.leader is None and not here.told:
        return "leader reported"
    if _can_empty(world):
        return "group reported"
    if here is not None and releases and _anything_hung(world) and world.state.phase is Phase.STUCK:
        return "kernel lets go"
    if here is not None and obeys:
        if here.leader is not None and here.leader.termed and not here.leader.hung:
            return "exits with 0"
        if here.leader is None and any(body.termed and not body.hung for body in here.members):
            return "member ends"
    if world.state.phase in (Phase.STARTING, Phase.UNHEALTHY) and healthy:
        return "healthy"
    if world.state.phase is Phase.READY and not healthy:
        return "unhealthy"
    if world.state.deadline is None:
        raise Violation(NO_REST, f"{world.state.phase.name} and nothing will ever happen: {world.trace[-12:]}")
    return "deadline"
