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

_NOT_AVAILABLE = (1 << 64) - 1
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

    capability = ask("nvmlDeviceGetCudaComputeCapability")
    return replace(
        card,
        pcie_gen_max=whole(ask("nvmlDeviceGetMaxPcieLinkGeneration")),
        pcie_width_max=whole(ask("nvmlDeviceGetMaxPcieLinkWidth")),
        power_default_w=_watts(ask("nvmlDeviceGetPowerManagementDefaultLimit")),
        clock_sm_max_mhz=whole(ask("nvmlDeviceGetMaxClockInfo", _SM)),
        clock_memory_max_mhz=whole(ask("nvmlDeviceGetMaxClockInfo", _MEMORY)),
        compute_capability=".".join(map(str, capability)) if isinstance(capability, tuple) else None,
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
    rows = remapped if isinstance(remapped, tuple) and len(remapped) == 4 else (None,) * 4
    ecc = ask("nvmlDeviceGetEccMode")
    has_ecc = bool(ecc[0]) if isinstance(ecc, list | tuple) and ecc else None
    return replace(
        with_memory(library, handle, card),
        utilization_percent=whole(getattr(utilization, "gpu", None)),
        temperature_c=whole(ask("nvmlDeviceGetTemperature", 0)),
        power_w=_watts(ask("nvmlDeviceGetPowerUsage")),
        power_limit_w=_watts(ask("nvmlDeviceGetEnforcedPowerLimit")),
        pcie_gen=whole(ask("nvmlDeviceGetCurrPcieLinkGeneration")),
        pcie_width=whole(ask("nvmlDeviceGetCurrPcieLinkWidth")),
        clock_sm_mhz=whole(ask("nvmlDeviceGetClockInfo", _SM)),
        clock_memory_mhz=whole(ask("nvmlDeviceGetClockInfo", _MEMORY)),
        throttle_reasons=_throttle(whole(reasons)),
        persistence=_flag(ask("nvmlDeviceGetPersistenceMode")),
        compute_mode=_word(_COMPUTE_MODES, ask("nvmlDeviceGetComputeMode")),
        ecc=has_ecc,
        ecc_corrected=whole(ask("nvmlDeviceGetTotalEccErrors", 0, _VOLATILE)) if has_ecc else None,
        ecc_uncorrected=whole(ask("nvmlDeviceGetTotalEccErrors", 1, _VOLATILE)) if has_ecc else None,
        remapped_rows=None if rows[0] is None else rows[0] + rows[1],
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
        processes=tuple(
            GpuProcess(pid=int(process.pid), memory_bytes=whole(getattr(process, "usedGpuMemory", None)))
            for process in running or ()
        ),
    )


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


def whole(found: Any) -> int | None:
    """Return a whole number; the driver's word for "not available" is none."""
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    return found if 0 <= found < _NOT_AVAILABLE else None


def _watts(milliwatts: Any) -> float | None:
    found = whole(milliwatts)
    return None if found is None else found / 1000


def _flag(found: Any) -> bool | None:
    number = whole(found)
    return None if number is None else number != 0


def _word(words: tuple[str, ...], found: Any) -> str | None:
    number = whole(found)
    return words[number] if number is not None and number < len(words) else None


def _throttle(bits: int | None) -> tuple[str, ...] | None:
    return None if bits is None else tuple(word for place, word in enumerate(_THROTTLE) if bits >> place & 1)
