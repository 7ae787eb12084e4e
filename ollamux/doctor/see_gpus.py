"""The cards and who is on them, through the helper process. Nothing here loads a driver's library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ollamux.doctor.facts import Stranger
from ollamux.doctor.see_ollama import in_packaged_unit, is_ours, user_of
from ollamux.domain.snapshot import GpuView, Status
from ollamux.domain.spec import FleetSpec
from ollamux.gpu.allocation import allowed
from ollamux.gpu.client import read_once
from ollamux.gpu.model import Inventory
from ollamux.gpu.resolve import resolve
from ollamux.supervisor.view import gpu_view
from ollamux.system import procs
from ollamux.system.places import state_dir

PATIENCE_S = 10.0


def see_inventory(env: Mapping[str, str], *, simulated: bool) -> Inventory:
    """Read the cards that we may use."""
    if simulated:
        return read_once("simulated", Path(state_dir(env, simulated=True)) / "box", PATIENCE_S)
    return allowed(read_once("auto", None, PATIENCE_S), env)


def views(inventory: Inventory, fleet: FleetSpec | None) -> tuple[GpuView, ...]:
    """Return the cards as they are shown, each with the instances that the configuration puts on it."""
    users: dict[str, list[str]] = {}
    for spec in () if fleet is None else fleet.instances:
        for gpu in resolve(spec, inventory).gpus:
            users.setdefault(gpu.uuid, []).append(spec.name)
    return tuple(gpu_view(gpu, tuple(users.get(gpu.uuid, ())), 0.0) for gpu in inventory.gpus)


def strangers(inventory: Inventory, status: Status | None) -> tuple[Stranger, ...]:
    """Return the processes on the cards that neither we nor another ollamux has started."""
    views_of = () if status is None else status.processes
    ours = {view.pid for view in views_of if view.kind != "foreign"}
    return tuple(
        Stranger(
            pid=process.pid,
            gpu=gpu.uuid,
            name=process.name or _name(process.pid),
            user=user_of(process.pid),
            memory_bytes=process.memory_bytes,
            packaged=in_packaged_unit(process.pid),
        )
        for gpu in inventory.gpus
        for process in gpu.processes
        if process.pid not in ours and not is_ours(process.pid)
    )


def _name(pid: int) -> str | None:
    found = procs.stat(pid)
    return None if found is None else found.comm
