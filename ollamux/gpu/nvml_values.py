"""What NVML says of one card or MIG device, value by value: each that the driver does not give is None on its own.

Where the driver has lost the card, `LostError` is raised with the reason in plain words. Names of modes and reasons are
those of nvidia-smi. Used by `nvml` alone, in the helper process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

from ollamux.gpu.model import Gpu, GpuProcess

# NVML's return codes, stable since its first release.
GPU_IS_LOST, _RESET_REQUIRED, _GPU_NOT_FOUND, UNKNOWN = 15, 16, 28, 999

CONSTANT = (
    *("pci", "pcie_gen_max", "pcie_width_max", "power_default_w", "clock_sm_max_mhz", "clock_memory_max_mhz"),
    "compute_capability",
)
"""What of a card stays the same while the driver runs."""
_COLDEST_C = -273
_SM, _MEMORY = 1, 2
_VOLATILE = 0
_COMPUTE_MODES = ("default", "exclusive_thread", "prohibited", "exclusive_process")
_THROTTLE = (
    *("gpu_idle", "applications_clocks_setting", "sw_power_cap", "hw_slowdown", "sync_boost"),
    *("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "display_clock_setting"),
)
"""The bits of the clocks' event reasons, lowest first (nvml.h)."""
_LOST = {
    GPU_IS_LOST: "it has fallen off the bus; reboot, and check its power and seat if it happens again",
    _RESET_REQUIRED: "it needs a reset; stop what uses it and run: sudo nvidia-smi --gpu-reset, or reboot",
    _GPU_NOT_FOUND: "the driver no longer finds it; reboot",
}


class LostError(Exception):
    """The driver no longer reaches this card."""


def lost_reason(error: Any) -> str:
    """Say in plain words why a card cannot be reached."""
    return _LOST.get(getattr(error, "value", UNKNOWN), f"the driver answers “{error}”")


def with_constants(library: ModuleType, handle: Any, card: Gpu) -> Gpu:
    """Add what does not change while the driver runs."""

    def ask(name: str, *arguments: Any) -> Any:
        return card_value(library, name, handle, *arguments)

    return replace(
        card,
        pcie_gen_max=_link(ask("nvmlDeviceGetMaxPcieLinkGeneration")),
        pcie_width_max=_link(ask("nvmlDeviceGetMaxPcieLinkWidth")),
        power_default_w=_watts(ask("nvmlDeviceGetPowerManagementDefaultLimit")),
        clock_sm_max_mhz=small(ask("nvmlDeviceGetMaxClockInfo", _SM)),
        clock_memory_max_mhz=small(ask("nvmlDeviceGetMaxClockInfo", _MEMORY)),
        compute_capability=_capability(ask("nvmlDeviceGetCudaComputeCapability")),
    )


def with_sample(library: ModuleType, handle: Any, card: Gpu) -> Gpu:
    """Add what changes from one moment to the next."""

    def ask(name: str, *arguments: Any) -> Any:
        return card_value(library, name, handle, *arguments)

    utilization = ask("nvmlDeviceGetUtilizationRates")
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:  # its name until driver 535
        reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    remapped = ask("nvmlDeviceGetRemappedRows")
    rows = [small(row) for row in remapped] if isinstance(remapped, tuple) and len(remapped) == 4 else [None] * 4
    ecc = ask("nvmlDeviceGetEccMode")
    has_ecc = _flag(ecc[0]) if isinstance(ecc, list | tuple) and ecc else None
    return replace(
        with_memory(library, handle, card),
        utilization_percent=small(getattr(utilization, "gpu", None)),
        temperature_c=_celsius(ask("nvmlDeviceGetTemperature", 0)),
        power_w=_watts(ask("nvmlDeviceGetPowerUsage")),
        power_limit_w=_watts(ask("nvmlDeviceGetEnforcedPowerLimit")),
        pcie_gen=_link(ask("nvmlDeviceGetCurrPcieLinkGeneration")),
        pcie_width=_link(ask("nvmlDeviceGetCurrPcieLinkWidth")),
        clock_sm_mhz=small(ask("nvmlDeviceGetClockInfo", _SM)),
        clock_memory_mhz=small(ask("nvmlDeviceGetClockInfo", _MEMORY)),
        throttle_reasons=_throttle(whole(reasons)),
        persistence=_flag(ask("nvmlDeviceGetPersistenceMode")),
        compute_mode=_word(_COMPUTE_MODES, ask("nvmlDeviceGetComputeMode")),
        ecc=has_ecc,
        ecc_corrected=whole(ask("nvmlDeviceGetTotalEccErrors", 0, _VOLATILE)) if has_ecc else None,
        ecc_uncorrected=whole(ask("nvmlDeviceGetTotalEccErrors", 1, _VOLATILE)) if has_ecc else None,
        remapped_rows=None if rows[0] is None or rows[1] is None else rows[0] + rows[1],
        remap_pending=_flag(rows[2]),
        remap_failed=_flag(rows[3]),
    )


def with_memory(library: ModuleType, handle: Any, gpu: Gpu) -> Gpu:
    """Add memory and processes. Version 2 of the call leaves out what the driver reserves, as nvidia-smi does."""
    memory = None
    version = getattr(library, "nvmlMemory_v2", None)
    if version is not None:
        memory = card_value(library, "nvmlDeviceGetMemoryInfo", handle, version)
    if memory is None:
        memory = card_value(library, "nvmlDeviceGetMemoryInfo", handle)
    running = card_value(library, "nvmlDeviceGetComputeRunningProcesses", handle)
    if running is None:  # a driver before 510
        running = card_value(library, "nvmlDeviceGetComputeRunningProcesses_v2", handle)
    return replace(
        gpu,
        memory_total_bytes=whole(getattr(memory, "total", None)),
        memory_used_bytes=whole(getattr(memory, "used", None)),
        memory_reserved_bytes=whole(getattr(memory, "reserved", None)),
        processes=tuple(
            GpuProcess(pid=int(process.pid), memory_bytes=whole(getattr(process, "usedGpuMemory", None)))
            for process in running or ()
        ),
    )


def with_energy(library: ModuleType, gpu: Gpu) -> Gpu:
    """Add the energy since the driver was loaded. A MIG device has no counter of its own."""
    if gpu.state != "ok" or gpu.mig_parent is not None:
        return gpu
    handle = value(library, "nvmlDeviceGetHandleByUUID", gpu.uuid.encode())
    millijoules = None if handle is None else whole(value(library, "nvmlDeviceGetTotalEnergyConsumption", handle))
    return replace(gpu, energy_j=None if millijoules is None else millijoules / 1000)


def card_value(library: ModuleType, name: str, *arguments: Any) -> Any:
    """Ask for one value of a card; None where the driver has none. Raises LostError where it has lost the card."""
    return value(library, name, *arguments, lost=_raise_lost)


def _raise_lost(error: Any) -> None:
    if getattr(error, "value", None) in (GPU_IS_LOST, _RESET_REQUIRED):
        raise LostError(lost_reason(error)) from None


def value(library: ModuleType, name: str, *arguments: Any, lost: Callable[[Any], None] | None = None) -> Any:
    """Ask for one value; None where the driver or the binding has none."""
    function = getattr(library, name, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except library.NVMLError as error:
        if lost is not None:
            lost(error)
        return None
    except (OSError, ValueError, TypeError, AttributeError, _mismatch(library)):
        # A binding and a library of different age meet in such errors.
        return None


def _mismatch(library: ModuleType) -> type[Exception]:
    """Return what newer bindings raise where the library lacks a function; it is no NVMLError."""
    found: type[Exception] = getattr(library, "NVMLLibraryMismatchError", OSError)
    return found


def text(found: Any) -> str | None:
    """Return a string; older bindings give bytes."""
    if isinstance(found, bytes):
        found = found.decode("utf-8", "replace")
    return found if isinstance(found, str) and found else None


def whole(found: Any, *, bits: int = 64) -> int | None:
    """Return a whole number of so many bits; none is negative, and -1 is the driver's word for "not available"."""
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    return found if 0 <= found < 1 << bits - 1 else None


def small(found: Any) -> int | None:
    """Return what the driver gives in 32 bits."""
    return whole(found, bits=32)


def _link(found: Any) -> int | None:
    """Return lanes or a generation; a link has at least one."""
    return small(found) or None


def _celsius(found: Any) -> int | None:
    """Return a temperature, which may be below zero in a number without a sign."""
    below = found - (1 << 32) if isinstance(found, int) and found >= 1 << 31 else found
    return below if isinstance(below, int) and _COLDEST_C <= below < -1 else small(found)


def _capability(found: Any) -> str | None:
    parts = [small(part) for part in found] if isinstance(found, tuple) else [None]
    return None if None in parts else ".".join(map(str, parts))


def _watts(milliwatts: Any) -> float | None:
    found = small(milliwatts)
    return None if found is None else found / 1000


def _flag(found: Any) -> bool | None:
    number = small(found)
    return None if number is None else number != 0


def _word(words: tuple[str, ...], found: Any) -> str | None:
    number = small(found)
    return words[number] if number is not None and number < len(words) else None


def _throttle(bits: int | None) -> tuple[str, ...] | None:
    return None if bits is None else tuple(word for place, word in enumerate(_THROTTLE) if bits >> place & 1)
