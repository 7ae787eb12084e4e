"""Find again what an earlier supervisor left running: adopt what is proven to be ours, end the rest of it.

Nothing is signalled but processes that carry our marker, each through a handle of its own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

from ollamux.domain import events as ev
from ollamux.domain.difference import LIVE_FIELDS
from ollamux.domain.phases import Want
from ollamux.domain.spec import InstanceSpec, OnDeath
from ollamux.supervisor import family
from ollamux.supervisor.core import SLOT_HOLD_S, Core
from ollamux.supervisor.effects import Effects
from ollamux.supervisor.family import Mark
from ollamux.supervisor.record import Record, UnitRecord, load, save, stamp
from ollamux.supervisor.starter import LEFTOVERS
from ollamux.supervisor.unit import Unit, new_state
from ollamux.system import follow, logfile, procs
from ollamux.system.child import Child, is_ours
from ollamux.system.clock import monotonic

END_AFTER_S = 15.0
WRITE_AFTER_S = 0.02
"""A start comes first, and what changes together is written once. What is lost in this time is found by its mark."""


def fingerprint(spec: InstanceSpec) -> str:
    """Return what must be the same for a running process to be what the configuration asks for now.

    A digest, because it is written to disk and the environment of an instance may hold secrets.
    """
    import hashlib  # loads OpenSSL, which must not hold up the first start

    plain = {key: value for key, value in _said(spec).items() if key not in LIVE_FIELDS}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _said(value: Any) -> Any:
    """Return a specification as plain values, without what equals its default.

    So a version that adds a key with a default finds the fingerprint that the version before it wrote.
    """
    if is_dataclass(value):
        return {each.name: _said(said) for each in fields(value) if (said := getattr(value, each.name)) != each.default}
    if isinstance(value, tuple):
        return [_said(each) for each in value]
    return value.value if isinstance(value, Enum) else value


class Memory:
    """Reads and writes the state file for the instances of this supervisor."""

    def __init__(self, core: Core, folder: str) -> None:
        self._core = core
        self._folder = folder
        self._boot_id = procs.boot_id()
        self._planned = False
        self._complained = False
        self._written: tuple[int, int, int] | None = None
        self.record, self.warning = load(folder, self._boot_id)
        core.changed.append(lambda unit, before: self.plan())

    def of(self, name: str) -> UnitRecord:
        """Return what is remembered of an instance."""
        return self.record.units.get(name, UnitRecord())

    def plan(self) -> None:
        """Write soon, once for everything that changes in this round of the loop."""
        if not self._planned:
            self._planned = True
            self._core.loop.call_later(WRITE_AFTER_S, lambda: self.write(sync=False))

    def write(self, *, sync: bool) -> None:
        """Write now; with `sync` so that it survives a power cut. A full disk is said once and costs nothing else."""
        self._planned = False
        units = {name: unit for name, unit in self.record.units.items() if name not in self._core.units}
        units |= {unit.name: _remembered(unit) for unit in self._core.units.values()}
        self.record = Record(boot_id=self._boot_id, units=units)
        try:
            save(self._folder, self.record, sync=sync)
            self._complained = False
            self._written = stamp(self._folder)
        except OSError as error:
            if not self._complained:
                self._core.note(None, f"the state file cannot be written: {error.strerror}; instances are not affected")
            self._complained = True

    def forget(self, unit: Unit) -> None:
        """Forget everything of an instance that is gone from the configuration, but what is kept for life."""
        self.record.units[unit.name] = replace(_remembered(unit).for_life(), pins=())
        self.plan()

    def look_after(self) -> None:
        """Write again where the last time failed, or where the file is not what was written: a `stop` must last."""
        if self._complained or (self._written is not None and stamp(self._folder) != self._written):
            self.write(sync=True)

    def forget_intents(self) -> None:
        """End the intent of every earlier `stop`."""
        units = {name: unit.for_life() for name, unit in self.record.units.items()}
        units |= {unit.name: _remembered(unit).for_life() for unit in self._core.units.values()}
        self.record = Record(boot_id=self._boot_id, units=units)
        try:
            save(self._folder, self.record, sync=True)
        except OSError:
            pass  # the next `up` then finds a `stop` that it should not; there is nobody left to tell


def _remembered(unit: Unit) -> UnitRecord:
    verdict = unit.verdict
    return UnitRecord(
        gen=unit.state.gen,
        stopped=unit.state.want is Want.DOWN and unit.spec.enabled and not unit.state.shutting_down,
        pid=None if unit.child is None else unit.child.pid,
        start_ticks=None if unit.child is None else unit.child.start_ticks,
        fingerprint=fingerprint_of(unit),
        restarts=max(0, unit.state.spawns - 1),
        auto_restarts=unit.tally.auto,
        manual_restarts=unit.tally.manual,
        proof=None if verdict is None or verdict.proof.value == "planned" else (verdict.proof.value, verdict.reason),
        version=unit.server_version,
        gpus=tuple(gpu.uuid for gpu in unit.gpus),
        log_start=unit.log_start,
        incidents=tuple(sorted(unit.incidents)),
        asked_incidents=tuple(sorted(unit.asked_incidents)),
        pins=unit.hand_pins,
    )


def fingerprint_of(unit: Unit) -> str:
    """Return the fingerprint of what the present, or last, incarnation was started with."""
    if unit.fingerprint is None:
        unit.fingerprint = fingerprint(unit.spec)
    return unit.fingerprint


def recover(core: Core, memory: Memory, effects: Effects, left_one: Callable[[], None]) -> None:
    """Adopt the leaders that are proven ours and still as configured; begin to end everything else that is ours.

    `left_one` is called whenever one of the latter is gone.
    """
    running = family.marked(core.owner)
    adopted: set[Mark] = set()
    for unit in core.units.values():
        known = memory.of(unit.name)
        gens = [mark.gen for mark in running.values() if mark.instance == unit.name]
        unit.state = new_state(unit.spec, gen=max([known.gen, *gens]))
        unit.tally, unit.hand_pins = known.tally(), known.pins
        if core.fleet.supervisor.on_death is OnDeath.KEEP and _adopt(core, effects, unit, known, running):
            adopted.add(unit.mark)
    for pid, mark in running.items():
        if mark not in adopted:
            end(core, pid, mark, left_one)


def _adopt(core: Core, effects: Effects, unit: Unit, known: UnitRecord, running: dict[int, Mark]) -> bool:
    mark = Mark(owner=unit.owner, instance=unit.name, gen=known.gen)
    if known.pid is None or known.stopped or not unit.spec.enabled or running.get(known.pid) != mark:
        return False
    if known.fingerprint != fingerprint(unit.spec):
        return False
    try:
        leader = Child(known.pid, ours=is_ours(known.pid))
    except OSError:
        return False
    if leader.start_ticks != known.start_ticks or family.mark_of(known.pid) != mark:
        leader.close()
        return False
    unit.state = replace(new_state(unit.spec, gen=known.gen), spawns=known.restarts + 1)
    unit.spawned_at = monotonic()
    unit.log_start = known.log_start
    unit.server_version = known.version
    unit.incidents = set(known.incidents)
    unit.asked_incidents = set(known.asked_incidents)
    if known.gpus:
        from ollamux.gpu.model import Gpu

        unit.gpus = tuple(Gpu(uuid=uuid) for uuid in known.gpus)  # completed by the first list of GPUs
    effects.adopt(unit, leader)
    core.loop.call_later(SLOT_HOLD_S, core.free_slots)
    # Without a proof the start-up lines are still to be read; with one, what it logged until now is no news.
    at = known.log_start if known.proof is None else logfile.size(unit.log_path)
    unit.follower = follow.Follower(unit.log_path, at=at, patience=follow.PATIENCE)
    if known.proof is not None:
        from ollamux.ollama.judge import Proof, Verdict

        unit.verdict = Verdict(proof=Proof(known.proof[0]), reason=known.proof[1])
    core.dispatch(unit, ev.Adopted(gen=known.gen, pid=known.pid))
    return True


def end(core: Core, pid: int, mark: Mark, done: Callable[[], None]) -> None:
    """End a process of ours that nobody needs any more; the instance it belonged to waits until it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    if family.mark_of(pid) != mark:
        os.close(handle)
        return
    core.note(
        core.units.get(mark.instance),
        f"ending pid {pid}, left by an earlier supervisor ({mark.instance}, generation {mark.gen})",
    )
    core.leftovers[pid] = family.claim_of(pid, mark)
    _send(handle, signal.SIGTERM)
    _send(handle, signal.SIGCONT)
    unit = core.units.get(mark.instance)
    patience = END_AFTER_S if unit is None else min(END_AFTER_S, unit.spec.restart.stop_timeout_s)
    kill = core.loop.call_later(patience, lambda: _send(handle, signal.SIGKILL))

    def gone() -> None:
        kill.cancel()
        core.loop.unwatch(handle)
        os.close(handle)
        del core.leftovers[pid]
        for other, its in family.marked(core.owner).items():
            if its == mark and other not in core.leftovers:
                end(core, other, its, done)  # started while we waited, by what has just ended
        core.free(LEFTOVERS)
        done()

    core.loop.watch(handle, read=gone)


def _send(handle: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):
        pass  # it is gone, or has changed its user and is not ours any more
