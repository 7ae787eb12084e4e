"""What is wrong with a card, in plain words with the figures and the way out. Pure; reads what was sampled."""

from __future__ import annotations

from typing import NamedTuple

from ollamux.domain.snapshot import GpuView

_THERMAL = frozenset({"sw_thermal_slowdown", "hw_thermal_slowdown"})
_BY_HARDWARE = frozenset({"hw_slowdown", "hw_power_brake_slowdown"})


class Trouble(NamedTuple):
    """One thing that is wrong. `broken`: the card, or part of it, cannot be used; else it is slower or at risk.

    `key` names the kind and never changes; `fix` is a command or a step, or None where there is none.
    """

    key: str
    broken: bool
    words: str
    fix: str | None = None


def troubles(gpu: GpuView) -> list[Trouble]:
    """Return what is wrong with a card, the worst first. A card at its power limit is not in trouble: it works hard."""
    found = [*_unreachable(gpu), *_closed(gpu), *_memory(gpu), *_slowed(gpu)]
    return sorted(found, key=lambda trouble: not trouble.broken)


def _unreachable(gpu: GpuView) -> list[Trouble]:
    if gpu.state == "ok" or gpu.lost_reason is None:
        return []
    return [Trouble(gpu.state, gpu.state == "lost", gpu.lost_reason)]


def _closed(gpu: GpuView) -> list[Trouble]:
    reset = f"sudo nvidia-smi -i {gpu.uuid} -c DEFAULT"
    if gpu.compute_mode == "prohibited":
        return [Trouble("compute-mode", True, "its compute mode is “prohibited”: nothing may compute on it", reset)]
    if gpu.compute_mode in ("exclusive_process", "exclusive_thread"):
        words = f"its compute mode is “{gpu.compute_mode}”: only one process may use it, and a second model fails"
        return [Trouble("compute-mode", False, words, reset)]
    return []


def _memory(gpu: GpuView) -> list[Trouble]:
    found = []
    if gpu.remap_failed:
        words = "a faulty row of its memory could not be replaced by a spare one: the card is defective"
        found.append(Trouble("memory-defective", True, words, "have the card replaced"))
    if gpu.remap_pending:
        words = "a faulty row of its memory is replaced by a spare one at the next reset"
        fix = f"stop what uses it, then: sudo nvidia-smi -i {gpu.uuid} --gpu-reset"
        found.append(Trouble("memory-reset", False, words, fix))
    if gpu.ecc_uncorrected:
        count = f"{gpu.ecc_uncorrected} error{'s' if gpu.ecc_uncorrected > 1 else ''}"
        words = f"{count} of its memory could not be corrected since the driver was loaded: results may be wrong"
        found.append(Trouble("memory-errors", False, words, "if the number grows, have the card replaced"))
    return found


def _slowed(gpu: GpuView) -> list[Trouble]:
    reasons = set(gpu.throttle_reasons or ())
    at = f" at {gpu.temperature_c} °C" if gpu.temperature_c is not None else ""
    if reasons & _THERMAL:
        words = f"it is too hot{at} and slows itself down{_clocks(gpu)}"
        return [Trouble("thermal", False, words, "look at its fans, the dust, and the air around it")]
    if reasons & _BY_HARDWARE:
        words = f"its power supply cannot give what it asks for, and it slows down{_clocks(gpu)}"
        return [Trouble("power", False, words, "look at its power cables and the power supply")]
    return []


def _clocks(gpu: GpuView) -> str:
    if gpu.clock_sm_mhz is None:
        return ""
    most = f" of {gpu.clock_sm_max_mhz}" if gpu.clock_sm_max_mhz is not None else ""
    return f" ({gpu.clock_sm_mhz}{most} MHz)"
