"""Put together what is carried over to the program that takes our place, and go on from it there.

The two sides stand together, so that what one leaves out the other cannot forget to find again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ollamux import __version__
from ollamux.domain.phases import Phase
from ollamux.domain.pins import PinState
from ollamux.gpu.model import Gpu
from ollamux.ollama.judge import Proof
from ollamux.ollama.log import LogReader
from ollamux.supervisor import family
from ollamux.supervisor.carried import SCHEMA, CarriedClient, CarriedUnit, Handover, Listener
from ollamux.supervisor.core import SLOT_HOLD_S, Core
from ollamux.supervisor.effects import Effects
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.recovery import end, fingerprint_of
from ollamux.supervisor.starter import Starter
from ollamux.supervisor.unit import Unit
from ollamux.system import child, follow

if TYPE_CHECKING:
    from ollamux.supervisor.boot import Launch
    from ollamux.supervisor.vram import Vram


def _carried(unit: Unit, vram: Vram) -> CarriedUnit:
    """Return what cannot be found again of an instance."""
    unread = 0 if unit.reader is None else unit.reader.unread
    return CarriedUnit(
        name=unit.name,
        state=unit.state,
        leader=None if unit.child is None else unit.child.pidfd,
        leader_ended=unit.leader_ended,
        since_wall=unit.since_wall,
        spawned_at=unit.spawned_at,
        last_exit_wall=unit.last_exit_wall,
        health=unit.health,
        log_start=unit.log_start,
        read_to=None if unit.follower is None else max(0, unit.follower.at - unread),
        server_version=unit.server_version,
        verdict=unit.verdict,
        seen_loads=unit.seen_loads,
        models=unit.models,
        models_at=unit.models_at,
        runners=unit.runners,
        gone_runners=tuple(sorted(unit.gone_runners)),
        promises=unit.promises,
        port=unit.port,
        fingerprint=fingerprint_of(unit),
        tally=unit.tally,
        served_at=unit.served_at,
        canary=None if unit.canary is None else unit.canary.carried(),
        vram=vram.carried(unit),
        gpus=tuple(gpu.uuid for gpu in unit.gpus),
        degraded=unit.degraded,
        incidents=tuple(sorted(unit.incidents)),
        asked_incidents=tuple(sorted(unit.asked_incidents)),
        hand_pins=unit.hand_pins,
        pin_states=_pin_states(unit),
        loads=tuple(load.pin for load in unit.loads if load.unattended),
    )


def _pin_states(unit: Unit) -> dict[str, PinState]:
    """Return what became of pins, but of those being loaded or fetched: their requests end with us, and begin anew."""
    loading = {load.pin.name for load in unit.loads}
    return {name: state for name, state in unit.pin_states.items() if name not in loading and not state.missing}


def handover(
    launch: Launch,
    core: Core,
    lock: int,
    sockets: tuple[Listener | None, tuple[CarriedClient, ...]],
    *,
    viewers: Iterable[int],
    starter: Starter,
    vram: Vram,
) -> Handover:
    """Return what the supervisor itself is and has."""
    return Handover(
        schema=SCHEMA,
        version=__version__,
        config=launch.config,
        source=launch.source.decode("latin-1"),
        simulated=launch.box is not None,
        hang_up=launch.hang_up,
        plain_output=launch.plain_output,
        unicode=launch.unicode,
        owner=core.owner,
        viewers=tuple(viewers),
        lock=lock,
        listener=sockets[0],
        clients=sockets[1],
        units=tuple(_carried(unit, vram) for unit in core.units.values()),
        leftovers=tuple(core.leftovers),
        versions=starter.carried_versions(),
    )


def take_over(core: Core, gpus: Gpus, effects: Effects, handed: Handover, left_one: Callable[[], None]) -> None:
    """Go on with every instance from where it was. What is being ended goes on being ended, as in `recover`."""
    if handed.inventory is not None:
        from ollamux.gpu.codec import inventory_from_json

        gpus.recall(inventory_from_json(handed.inventory), handed.sampled_at)
    for carried in handed.units:
        _go_on(core.units[carried.name], carried, core, gpus, effects)
    for pid in handed.leftovers:
        mark = family.mark_of(pid)
        if mark is not None and mark.owner == core.owner:
            end(core, pid, mark, left_one)
    if core.fleet.supervisor.max_parallel_starts:
        core.loop.call_later(SLOT_HOLD_S, core.free_slots)
    for unit in core.units.values():
        if unit.state.resource is not None and unit.state.deadline is None:
            # Who would have told that it is free was the program before this one.
            core.loop.call_soon(partial(core.free, unit.state.resource))


def _go_on(unit: Unit, carried: CarriedUnit, core: Core, gpus: Gpus, effects: Effects) -> None:
    unit.since_wall, unit.spawned_at = carried.since_wall, carried.spawned_at
    unit.last_exit_wall = carried.last_exit_wall
    unit.health = carried.health
    unit.log_start, unit.server_version = carried.log_start, carried.server_version
    unit.verdict = carried.verdict
    unit.seen_loads, unit.models, unit.runners = dict(carried.seen_loads), carried.models, carried.runners
    unit.models_at = carried.models_at
    unit.gone_runners, unit.promises = frozenset(carried.gone_runners), carried.promises
    unit.port = unit.spec.port if carried.port is None else carried.port
    unit.fingerprint, unit.tally, unit.served_at = carried.fingerprint, carried.tally, carried.served_at
    unit.gpus = tuple(gpus.current(Gpu(uuid=uuid) for uuid in carried.gpus))
    unit.degraded = carried.degraded
    unit.incidents, unit.asked_incidents = set(carried.incidents), set(carried.asked_incidents)
    unit.hand_pins, unit.pin_states = carried.hand_pins, dict(carried.pin_states)
    if carried.read_to is not None:
        # What an instance that is not proven yet has said is read again, from its start; of others only what is new.
        unproven = carried.verdict is None or carried.verdict.proof is Proof.PLANNED
        at = carried.log_start if unproven and carried.state.phase is Phase.STARTING else carried.read_to
        unit.follower, unit.reader = follow.Follower(unit.log_path, at=at, patience=follow.PATIENCE), LogReader()
    spec = unit.spec
    state = replace(
        carried.state,
        restart=spec.restart,
        start_timeout_s=spec.health.start_timeout_s,
        unhealthy_timeout_s=spec.health.unhealthy_timeout_s,
    )
    core.put(unit, state)
    if carried.leader is not None and state.pid is not None:
        effects.take_over(unit, child.take_over(state.pid, carried.leader), ended=carried.leader_ended)
