"""The processes of the box where no supervisor tells of them: read afresh, ours known by the marks they carry."""

from __future__ import annotations

from ollamux.domain.snapshot import ProcessView
from ollamux.gpu.model import GpuProcess, Inventory
from ollamux.supervisor.family import Mark, mark_of, marked
from ollamux.system import procs


def processes(inventory: Inventory, state_dir: str) -> tuple[ProcessView, ...]:
    """Return what supervisors with this folder of state left running, then whoever else is on a card."""
    cards: dict[int, list[tuple[str, GpuProcess]]] = {}
    for gpu in inventory.gpus:
        for process in gpu.processes:
            cards.setdefault(process.pid, []).append((gpu.uuid, process))
    ours = _ours(state_dir)
    rows: list[ProcessView] = []
    for pid in [*ours, *sorted(cards.keys() - ours.keys())]:
        kind, instance = ours.get(pid, ("foreign", None))
        held = cards.get(pid)
        if held is None:
            rows.append(_row(pid, kind, instance, None, None))
        else:
            rows += [_row(pid, kind, instance, uuid, found) for uuid, found in held]
    return tuple(rows)


def _row(pid: int, kind: str, instance: str | None, uuid: str | None, found: GpuProcess | None) -> ProcessView:
    seen = procs.stat(pid)
    told = None if found is None else found.name
    return ProcessView(
        gpu=uuid,
        pid=pid,
        kind=kind,
        instance=instance,
        name=told or (kind if seen is None else seen.comm),
        memory_bytes=None if found is None else found.memory_bytes,
        user=procs.owner(pid),
    )


def _ours(state_dir: str) -> dict[int, tuple[str, str]]:
    """Return the kind and the instance of each process of ours: by instance, the server first."""
    owners = {mark.owner for pid in procs.pids() if (mark := mark_of(pid)) is not None and _is_of(mark, state_dir)}
    found = [(mark.instance, _kind(pid), pid) for owner in owners for pid, mark in marked(owner).items()]
    ordered = sorted(found, key=lambda row: (row[0], row[1] != "serve", row[2]))
    return {pid: (kind, instance) for instance, kind, pid in ordered}


def _is_of(mark: Mark, state_dir: str) -> bool:
    return mark.owner.rpartition(" ")[0] == state_dir


def _kind(pid: int) -> str:
    """A server leads the session that its runners are in."""
    seen = procs.stat(pid)
    return "serve" if seen is not None and seen.session == pid else "runner"
