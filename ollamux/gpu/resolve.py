"""Find the devices that a configuration names, and GPUs that two instances would share. Pure.

An index means what nvidia-smi shows on the whole machine, also inside an allocation that leaves only some cards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from ollamux.domain.spec import FleetSpec, GpuRef, GpuRefKind, InstanceSpec, Pinning
from ollamux.domain.text import safe_text
from ollamux.gpu.model import Gpu, Inventory
from ollamux.gpu.pci import normal_pci


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """The devices of one instance, or in one sentence why it cannot have them.

    With a problem, `gpus` holds those that were found all the same.
    """

    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedGpu:
    """A GPU in two instances that have not both agreed to share it."""

    gpu: Gpu
    instances: tuple[str, str]

    def __str__(self) -> str:
        first, second = self.instances
        return f"{describe(self.gpu)} is in {first} and in {second}; set share_gpu = true in both if that is meant"


def resolve(spec: InstanceSpec, inventory: Inventory, *, machine: Inventory | None = None) -> Resolution:
    """Return the devices an instance is pinned to; none for the CPU alone and for one that is not pinned.

    `machine` is the inventory before an allocation took cards away, so that a card outside of it can be told from one
    that does not exist.
    """
    if spec.pinning is not Pinning.GPUS:
        return Resolution()
    found: list[Gpu] = []
    problem: str | None = None
    for ref in spec.gpus:
        gpu, reason = _find(ref, inventory, machine)
        if gpu is not None and gpu not in found:
            found.append(gpu)
        problem = problem or reason
    if problem is None and len({gpu.vendor for gpu in found}) > 1:
        problem = "one instance cannot use cards of NVIDIA and AMD together; make two instances"
    return Resolution(gpus=tuple(found), problem=problem)


def _find(ref: GpuRef, inventory: Inventory, machine: Inventory | None) -> tuple[Gpu | None, str | None]:
    matches = [gpu for gpu in inventory.gpus if _matcher(ref)(gpu)]
    if not matches:
        return None, _missing(ref, inventory, machine)
    if len(matches) > 1:
        return None, f"GPU {_shown(ref)} is ambiguous: it fits {_list(matches)}"
    gpu = matches[0]
    if gpu.state == "lost":
        return gpu, f"{describe(gpu)} is lost: {gpu.lost_reason or 'the driver no longer reaches it'}"
    if gpu.state != "ok":
        return gpu, f"the state of {describe(gpu)} is unknown: {gpu.lost_reason or inventory.error or 'no answer'}"
    slices = [other for other in inventory.gpus if other.mig_parent == gpu.uuid]
    if slices:
        return gpu, f"{describe(gpu)} is split into MIG slices; name one of them: {_list(slices)}"
    return gpu, None


def _missing(ref: GpuRef, inventory: Inventory, machine: Inventory | None) -> str:
    if machine is not None and any(_matcher(ref)(gpu) for gpu in machine.gpus):
        return f"GPU {_shown(ref)} is not in this allocation, which holds {_list(inventory.gpus)}"
    if not inventory.gpus:
        return f"GPU {_shown(ref)} cannot be found: {inventory.error or 'there is no GPU here'}"
    also = f" ({inventory.error})" if inventory.error else ""
    return f"there is no GPU {_shown(ref)} here; there is {_list(inventory.gpus)}{also}"


def _matcher(ref: GpuRef) -> Callable[[Gpu], bool]:
    wanted = ref.value.strip().lower()
    match ref.kind:
        case GpuRefKind.INDEX | GpuRefKind.AMD:
            vendor = "amd" if ref.kind is GpuRefKind.AMD else "nvidia"
            return lambda gpu: gpu.vendor == vendor and gpu.mig_parent is None and str(gpu.index) == wanted
        case GpuRefKind.UUID:
            return lambda gpu: gpu.mig_parent is None and bool(wanted) and gpu.uuid.lower().startswith(wanted)
        case GpuRefKind.MIG:
            return lambda gpu: gpu.mig_parent is not None and gpu.uuid.lower().startswith(wanted)
        case GpuRefKind.PCI:
            address = normal_pci(wanted)
            return lambda gpu: gpu.mig_parent is None and address is not None and gpu.pci == address


def _shown(ref: GpuRef) -> str:
    return safe_text(str(ref), limit=80)


def describe(gpu: Gpu) -> str:
    """Name a device for people: number, product, UUID."""
    number = "" if gpu.index is None else f"{'amd:' if gpu.vendor == 'amd' else ''}{gpu.index} "
    return safe_text(f"{number}{gpu.name or 'GPU'} ({gpu.uuid})", limit=160)


def _list(gpus: list[Gpu] | tuple[Gpu, ...]) -> str:
    return ", ".join(describe(gpu) for gpu in gpus) or "none"


def shared_gpus(fleet: FleetSpec, inventory: Inventory) -> list[SharedGpu]:
    """Return every GPU that two enabled instances would use without `share_gpu` in both.

    A MIG slice is part of its card.
    """
    shared: list[SharedGpu] = []
    resolved = [(spec, resolve(spec, inventory).gpus) for spec in fleet.instances if spec.enabled]
    for (one, ones), (other, others) in combinations(resolved, 2):
        if one.share_gpu and other.share_gpu:
            continue
        shared.extend(
            SharedGpu(gpu=gpu, instances=(one.name, other.name))
            for gpu in ones
            if any(_overlap(gpu, rival) for rival in others)
        )
    return shared


def _overlap(one: Gpu, other: Gpu) -> bool:
    return one.uuid == other.uuid or one.mig_parent == other.uuid or other.mig_parent == one.uuid
