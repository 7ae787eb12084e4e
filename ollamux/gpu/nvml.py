"""Read the NVIDIA cards through NVML. The only module that may import pynvml, and only in the helper process.

NVML can hang in the kernel and can crash, so no other process may load it. The library stays open between samples: to
open it wakes sleeping cards, which takes seconds. A value that the driver does not give is None, each on its own.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from ollamux.gpu.model import MISMATCH, UNLISTED, Gpu, Inventory, Link
from ollamux.gpu.nvml_links import card_links
from ollamux.gpu.nvml_values import (
    CONSTANT,
    GPU_IS_LOST,
    UNKNOWN,
    LostError,
    card_value,
    lost_reason,
    text,
    value,
    whole,
    with_constants,
    with_energy,
    with_memory,
    with_sample,
)
from ollamux.gpu.pci import normal_pci

# NVML's return codes, stable since its first release.
_NO_SLICE = {2, 3, 6}
"""Not that many, none at all, none with this number: whatever else fails, a slice may still be there."""
_NO_PERMISSION, _DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND = 4, 9, 12
_MISMATCH = 18

_LARGEST_MIG_COUNT = 16
_TROUBLE = {
    _LIBRARY_NOT_FOUND: "NVIDIA's driver library (libnvidia-ml.so.1) is not installed; install the NVIDIA driver",
    _DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded; run: sudo modprobe nvidia, or install the driver",
    _MISMATCH: "NVIDIA's driver was updated while the old one runs (library and kernel module differ); reboot",
    _NO_PERMISSION: "this user may not open the NVIDIA devices; look at the permissions of /dev/nvidia*",
    GPU_IS_LOST: "a GPU has fallen off the bus and the driver answers for none; reboot",
    UNKNOWN: "NVIDIA's driver answers “Unknown Error”; in a container, recreate it; else reboot",
}
_KEYS = {
    _LIBRARY_NOT_FOUND: "missing",
    _DRIVER_NOT_LOADED: "not-loaded",
    _MISMATCH: MISMATCH,
    _NO_PERMISSION: "denied",
    GPU_IS_LOST: "lost",
}
_NAMELESS = "the driver does not tell its UUID, by which an instance is pinned to it; reboot if that stays so"


@dataclass(slots=True)
class _Session:
    """What is kept between samples: the open library and the cards seen so far, by their UUID.

    `constant` holds what of a card stays the same while this driver runs, and is asked for once, and `slices` the
    MIG devices that were seen, by the UUID of the card and their number on it.
    """

    library: ModuleType | None = None
    known: dict[str, Gpu] = field(default_factory=dict)
    constant: dict[str, Gpu] = field(default_factory=dict)
    slices: dict[tuple[str, int], Gpu] = field(default_factory=dict)


_session = _Session()


def read_inventory() -> Inventory:
    """Read all NVIDIA cards; where that is not possible, say in `error` why and what to do."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return Inventory(error="the Python module pynvml is missing; install nvidia-ml-py", error_key="unread")
    try:
        if _session.library is not library:
            library.nvmlInit()
            _session.library = library
            _session.constant.clear()
        count = int(library.nvmlDeviceGetCount())
    except library.NVMLError as error:
        _forget(library)
        return _unreadable(error)
    return Inventory(
        source="nvml",
        driver=text(value(library, "nvmlSystemGetDriverVersion")),
        cuda=_cuda(value(library, "nvmlSystemGetCudaDriverVersion")),
        gpus=tuple(_cards(library, count)),
    )


def read_topology() -> Inventory:
    """Read all NVIDIA cards and how each two of them are joined."""
    inventory = read_inventory()
    library = _session.library
    if library is None:
        return inventory
    links: tuple[Link, ...] = ()
    try:
        count = int(library.nvmlDeviceGetCount())
        links = card_links(library, count)
    except library.NVMLError:
        pass  # it has failed since the sample, which the next one will tell; of the links nothing is known
    return replace(inventory, links=links)


def read_energy() -> Inventory:
    """Read all NVIDIA cards and the energy that each has used, which those before Volta do not tell."""
    inventory = read_inventory()
    library = _session.library
    if library is None:
        return inventory
    return replace(inventory, gpus=tuple(with_energy(library, gpu) for gpu in inventory.gpus))


def _forget(library: ModuleType) -> None:
    """Close the library, so that the next sample starts anew: the driver may have been mended meanwhile."""
    if _session.library is not None:
        _session.library = None
        value(library, "nvmlShutdown")


def _unreadable(error: Any) -> Inventory:
    code = getattr(error, "value", UNKNOWN)
    reason = _TROUBLE.get(code, f"NVIDIA's driver answers “{error}”; run nvidia-smi to see more, or reboot")
    absent = code in (_LIBRARY_NOT_FOUND, _DRIVER_NOT_LOADED)
    return Inventory(source="none" if absent else "nvml", error=reason, error_key=_KEYS.get(code, "odd"))


def _cards(library: ModuleType, count: int) -> list[Gpu]:
    found: list[Gpu] = []
    for index in range(count):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            card = _card(library, handle, index)
        except LostError as error:
            found.append(_lost(index, str(error)))
        except library.NVMLError as error:
            # A card that the control group of a job keeps from us is none of ours.
            if getattr(error, "value", None) != _NO_PERMISSION:
                found.append(_lost(index, lost_reason(error)))
        else:
            found.append(card)
            if card.state == "ok":
                _session.known[card.uuid] = card
                found += _slices(library, handle, card)
    shown = {gpu.uuid for gpu in found}
    for gpu in [gpu for gpu in _session.known.values() if gpu.uuid not in shown]:
        # The driver numbers the others anew, so a card that is gone has no number.
        _session.known[gpu.uuid] = gone = replace(gpu, index=None)
        found.append(gone.unread("lost", UNLISTED))
    return found


def _lost(index: int, reason: str) -> Gpu:
    return (_known_as(index) or Gpu(uuid=f"lost-{index}", index=index)).unread("lost", reason)


def _known_as(index: int) -> Gpu | None:
    return next((gpu for gpu in _session.known.values() if gpu.index == index), None)


def _card(library: ModuleType, handle: Any, index: int) -> Gpu:
    uuid = text(card_value(library, "nvmlDeviceGetUUID", handle))
    if uuid is None:
        nameless = Gpu(uuid=f"unnamed-{index}", index=index, name=_name(library, handle))
        return (_known_as(index) or nameless).unread("unknown", _NAMELESS)
    card = _session.constant.get(uuid)
    if card is None:
        pci = card_value(library, "nvmlDeviceGetPciInfo", handle)
        named = Gpu(
            uuid=uuid,
            name=_name(library, handle),
            pci=normal_pci(text(getattr(pci, "busId", None)) or ""),
        )
        # Also where a later question finds the card lost: then at least its name is known.
        _session.known.setdefault(uuid, replace(named, index=index))
        card = with_constants(library, handle, named)
        if card.name and all(getattr(card, name) is not None for name in CONSTANT):  # else it is asked again
            _session.constant[uuid] = card
    return with_sample(library, handle, replace(card, index=index))


def _name(library: ModuleType, handle: Any) -> str:
    return text(card_value(library, "nvmlDeviceGetName", handle)) or ""


def _slices(library: ModuleType, handle: Any, card: Gpu) -> list[Gpu]:
    """Read the MIG devices of a card; each is a device of its own."""
    mode = value(library, "nvmlDeviceGetMigMode", handle)
    if not isinstance(mode, tuple | list) or not mode or mode[0] != 1:
        return []
    count = whole(value(library, "nvmlDeviceGetMaxMigDeviceCount", handle)) or 0
    found: list[Gpu] = []
    for number in range(min(count, _LARGEST_MIG_COUNT)):
        codes: list[int | None] = []
        part = value(
            library,
            "nvmlDeviceGetMigDeviceHandleByIndex",
            *(handle, number),
            lost=lambda error, codes=codes: codes.append(getattr(error, "value", None)),  # type: ignore[misc]
        )
        uuid = None if part is None else text(value(library, "nvmlDeviceGetUUID", part))
        if uuid is None:
            known = None if set(codes) & _NO_SLICE else _session.slices.get((card.uuid, number))
            found += [] if known is None else [known.unread("unknown", _NAMELESS)]
            continue
        name = text(value(library, "nvmlDeviceGetName", part)) or f"{card.name} MIG"
        empty = Gpu(uuid=uuid, index=card.index, name=name, pci=card.pci, mig_parent=card.uuid)
        _session.slices[card.uuid, number] = empty
        try:
            found.append(with_memory(library, part, empty))
        except LostError as error:
            found.append(replace(empty, state="lost", lost_reason=str(error)))
    return found


def _cuda(version: Any) -> str | None:
    number = whole(version)
    return None if not number else f"{number // 1000}.{number % 1000 // 10}"
