"""Whose processes are there, and which of them are on which card: the one place where that is worked out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ollamux.domain.snapshot import ProcessView
from ollamux.gpu.model import GpuProcess, Inventory
from ollamux.supervisor.family import Mark, mark_of, marked
from ollamux.system import procs

if TYPE_CHECKING:
    from ollamux.supervisor.unit import Unit


class Role(NamedTuple):
    """What a process of ours is: "serve" or "runner", and of which instance."""

    kind: str
    instance: str


def rows(inventory: Inventory, ours: Mapping[int, Role], age_s: float | None = None) -> tuple[ProcessView, ...]:
    """Return our own processes, then whoever else is on a card; one that is on several cards has a row for each.

    `age_s` is how old the inventory is.
    """
    held: dict[int, list[tuple[str | None, GpuProcess | None]]] = {}
    for gpu in inventory.gpus:
        for process in gpu.processes:
            held.setdefault(process.pid, []).append((gpu.uuid, process))
    found: list[ProcessView] = []
    for pid in [*ours, *sorted(held.keys() - ours.keys())]:
        found += [_row(pid, ours.get(pid), uuid, process, age_s) for uuid, process in held.get(pid) or [(None, None)]]
    return tuple(found)


def _row(pid: int, role: Role | None, uuid: str | None, process: GpuProcess | None, age_s: float | None) -> ProcessView:
    kind, instance = role or ("foreign", None)
    seen = procs.stat(pid)
    told = None if process is None else process.name
    return ProcessView(
        gpu=uuid,
        pid=pid,
        kind=kind,
        instance=instance,
        name=told or (None if seen is None else seen.comm),
        memory_bytes=None if process is None else process.memory_bytes,
        user=procs.owner(pid),
        age_s=None if process is None else age_s,
    )


def of_fleet(units: Iterable[Unit], inventory: Inventory) -> dict[int, Role]:
    """Return what is known of the processes of a supervisor's own instances, those newest on a card included."""
    ours: dict[int, Role] = {}
    names = {}
    for unit in units:
        names[unit.mark] = unit.name
        if unit.tune is not None:
            names[unit.trial_mark] = unit.name
        if unit.child is not None:
            ours[unit.child.pid] = Role("serve", unit.name)
            ours |= dict.fromkeys(unit.runners, Role("runner", unit.name))
    for pid in sorted({process.pid for gpu in inventory.gpus for process in gpu.processes} - ours.keys()):
        mark = mark_of(pid)
        if mark in names:  # a runner that was started since the last look
            ours[pid] = Role("runner", names[mark])
    return ours


def left_by(state_dir: str) -> dict[int, Role]:
    """Return what supervisors with this folder of state left running: by instance, the server first."""
    owners = {mark.owner for pid in procs.pids() if (mark := mark_of(pid)) is not None and _is_of(mark, state_dir)}
    found = [(mark.instance, _kind(pid), pid) for owner in owners for pid, mark in marked(owner).items()]
    ordered = sorted(found, key=lambda row: (row[0], row[1] != "serve", row[2]))
    return {pid: Role(kind, instance) for instance, kind, pid in ordered}


def _is_of(mark: Mark, state_dir: str) -> bool:
    return mark.owner.rpartition(" ")[0] == state_dir


def _kind(pid: int) -> str:
    """A server leads the session that its runners are in."""
    seen = procs.stat(pid)
    return "serve" if seen is not None and seen.session == pid else "runner"
