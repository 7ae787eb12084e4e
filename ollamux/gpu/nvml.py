"""Read the NVIDIA cards through NVML. The only module that may import pynvml, and only in the helper process.

NVML can hang in the kernel and can crash, so no other process may load it. The library stays open between samples: to
open it wakes sleeping cards, which takes seconds. A value that the driver does not give is None, each on its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from ollamux.gpu.model import Gpu, GpuProcess, Inventory
from ollamux.gpu.pci import normal_pci

# NVML's return codes, stable since its first release.
_NO_PERMISSION, _DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND = 4, 9, 12
_GPU_IS_LOST, _RESET_REQUIRED, _MISMATCH, _GPU_NOT_FOUND, _UNKNOWN = 15, 16, 18, 28, 999

_NOT_AVAILABLE = (1 << 64) - 1
_LARGEST_MIG_COUNT = 16
_TROUBLE = {
    _LIBRARY_NOT_FOUND: "NVIDIA's driver library (libnvidia-ml.so.1) is not installed; install the NVIDIA driver",
    _DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded; run: sudo modprobe nvidia, or install the driver",
    _MISMATCH: "NVIDIA's driver was updated while the old one runs (library and kernel module differ); reboot",
    _NO_PERMISSION: "this user may not open the NVIDIA devices; look at the permissions of /dev/nvidia*",
    _GPU_IS_LOST: "a GPU has fallen off the bus and the driver answers for none; reboot",
    _UNKNOWN: "NVIDIA's driver answers “Unknown Error”; in a container, recreate it; else reboot",
}
_LOST = {
    _GPU_IS_LOST: "it has fallen off the bus; reboot, and check its power and seat if it happens again",
    _RESET_REQUIRED: "it needs a reset; stop what uses it and run: sudo nvidia-smi --gpu-reset, or reboot",
    _GPU_NOT_FOUND: "the driver no longer finds it; reboot",
}
_GONE = "the driver no longer lists it; reboot if it should be there"


@dataclass(slots=True)
class _Session:
    """What is kept between samples: the open library and the cards seen so far, by their UUID."""

    library: ModuleType | None = None
    known: dict[str, Gpu] = field(default_factory=dict)


_session = _Session()


class _LostError(Exception):
    """The driver no longer reaches this card."""


def read_inventory() -> Inventory:
    """Read all NVIDIA cards; where that is not possible, say in `error` why and what to do."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return Inventory(error="the Python module pynvml is missing; install nvidia-ml-py")
    try:
        if _session.library is not library:
            library.nvmlInit()
            _session.library = library
        count = int(library.nvmlDeviceGetCount())
    except library.NVMLError as error:
        _forget(library)
        return _unreadable(error)
    return Inventory(
        source="nvml",
        driver=_text(_value(library, "nvmlSystemGetDriverVersion")),
        cuda=_cuda(_value(library, "nvmlSystemGetCudaDriverVersion")),
        gpus=tuple(_cards(library, count)),
    )


def _forget(library: ModuleType) -> None:
    """Close the library, so that the next sample starts anew: the driver may have been mended meanwhile."""
    if _session.library is not None:
        _session.library = None
        _value(library, "nvmlShutdown")


def _unreadable(error: Any) -> Inventory:
    code = getattr(error, "value", _UNKNOWN)
    reason = _TROUBLE.get(code, f"NVIDIA's driver answers “{error}”; run nvidia-smi to see more, or reboot")
    absent = code in (_LIBRARY_NOT_FOUND, _DRIVER_NOT_LOADED)
    return Inventory(source="none" if absent else "nvml", error=reason)


def _cards(library: ModuleType, count: int) -> list[Gpu]:
    found: list[Gpu] = []
    for index in range(count):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            card = _card(library, handle, index)
        except _LostError as error:
            found.append(_lost(index, str(error)))
        except library.NVMLError as error:
            # A card that the control group of a job keeps from us is none of ours.
            if getattr(error, "value", None) != _NO_PERMISSION:
                found.append(_lost(index, _lost_reason(error)))
        else:
            _session.known[card.uuid] = card
            found += [card, *_slices(library, handle, card)]
    shown = {gpu.uuid for gpu in found}
    # The driver numbers the others anew, so a card that is gone has no number.
    found += [
        replace(_without_sample(gpu, _GONE), index=None) for gpu in _session.known.values() if gpu.uuid not in shown
    ]
    return found


def _lost_reason(error: Any) -> str:
    return _LOST.get(getattr(error, "value", _UNKNOWN), f"the driver answers “{error}”")


def _lost(index: int, reason: str) -> Gpu:
    before = next((gpu for gpu in _session.known.values() if gpu.index == index), None)
    if before is None:
        return Gpu(uuid=f"lost-{index}", index=index, state="lost", lost_reason=reason)
    return _without_sample(before, reason)


def _without_sample(gpu: Gpu, reason: str) -> Gpu:
    return Gpu(
        uuid=gpu.uuid,
        index=gpu.index,
        name=gpu.name,
        pci=gpu.pci,
        memory_total_bytes=gpu.memory_total_bytes,
        state="lost",
        lost_reason=reason,
    )


def _card(library: ModuleType, handle: Any, index: int) -> Gpu:
    uuid = _text(_card_value(library, "nvmlDeviceGetUUID", handle))
    pci = _card_value(library, "nvmlDeviceGetPciInfo", handle)
    card = Gpu(
        uuid=uuid or f"unnamed-{index}",
        index=index,
        name=_text(_card_value(library, "nvmlDeviceGetName", handle)) or "",
        pci=normal_pci(_text(getattr(pci, "busId", None)) or ""),
    )
    if uuid is not None:
        # Also where a later question finds the card lost: then at least its name is known.
        _session.known.setdefault(uuid, card)
    utilization = _card_value(library, "nvmlDeviceGetUtilizationRates", handle)
    return replace(
        _with_memory(library, handle, card),
        utilization_percent=_whole(getattr(utilization, "gpu", None)),
        temperature_c=_whole(_card_value(library, "nvmlDeviceGetTemperature", handle, 0)),
        power_w=_watts(_card_value(library, "nvmlDeviceGetPowerUsage", handle)),
        power_limit_w=_watts(_card_value(library, "nvmlDeviceGetEnforcedPowerLimit", handle)),
        pcie_gen=_whole(_card_value(library, "nvmlDeviceGetCurrPcieLinkGeneration", handle)),
        pcie_width=_whole(_card_value(library, "nvmlDeviceGetCurrPcieLinkWidth", handle)),
    )


def _with_memory(library: ModuleType, handle: Any, gpu: Gpu) -> Gpu:
    """Add memory and processes. Version 2 of the call leaves out what the driver reserves, as nvidia-smi does."""
    memory = None
    version = getattr(library, "nvmlMemory_v2", None)
    if version is not None:
        memory = _card_value(library, "nvmlDeviceGetMemoryInfo", handle, version)
    if memory is None:
        memory = _card_value(library, "nvmlDeviceGetMemoryInfo", handle)
    running = _card_value(library, "nvmlDeviceGetComputeRunningProcesses", handle) or ()
    return replace(
        gpu,
        memory_total_bytes=_whole(getattr(memory, "total", None)),
        memory_used_bytes=_whole(getattr(memory, "used", None)),
        processes=tuple(
            GpuProcess(pid=int(process.pid), memory_bytes=_whole(getattr(process, "usedGpuMemory", None)))
            for process in running
        ),
    )


def _slices(library: ModuleType, handle: Any, card: Gpu) -> list[Gpu]:
    """Read the MIG devices of a card; each is a device of its own."""
    mode = _value(library, "nvmlDeviceGetMigMode", handle)
    if not isinstance(mode, tuple | list) or not mode or mode[0] != 1:
        return []
    count = _whole(_value(library, "nvmlDeviceGetMaxMigDeviceCount", handle)) or 0
    found: list[Gpu] = []
    for number in range(min(count, _LARGEST_MIG_COUNT)):
        part = _value(library, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
        uuid = None if part is None else _text(_value(library, "nvmlDeviceGetUUID", part))
        if uuid is None:
            continue
        name = _text(_value(library, "nvmlDeviceGetName", part)) or f"{card.name} MIG"
        empty = Gpu(uuid=uuid, index=card.index, name=name, pci=card.pci, mig_parent=card.uuid)
        try:
            found.append(_with_memory(library, part, empty))
        except _LostError as error:
            found.append(replace(empty, state="lost", lost_reason=str(error)))
    return found


def _card_value(library: ModuleType, name: str, *arguments: Any) -> Any:
    """Ask for one value of a card; None where the driver has none, an error where it has lost the card."""
    return _value(library, name, *arguments, lost=_raise_lost)


def _raise_lost(error: Any) -> None:
    if getattr(error, "value", None) in (_GPU_IS_LOST, _RESET_REQUIRED):
        raise _LostError(_lost_reason(error)) from None


def _value(library: ModuleType, name: str, *arguments: Any, lost: Callable[[Any], None] | None = None) -> Any:
    function = getattr(library, name, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except library.NVMLError as error:
        if lost is not None:
            lost(error)
        return None
    except (OSError, ValueError, TypeError, AttributeError):
        # A binding and a library of different age meet in such errors.
        return None


def _text(value: Any) -> str | None:
    """Return a string; older bindings give bytes."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _NOT_AVAILABLE else None


def _watts(milliwatts: Any) -> float | None:
    whole = _whole(milliwatts)
    return None if whole is None else whole / 1000


def _cuda(version: Any) -> str | None:
    whole = _whole(version)
    return None if not whole else f"{whole // 1000}.{whole % 1000 // 10}"
