"""What is wrong with a card, in plain words with the figures and the way out. Pure; reads what was sampled.

`troubles` speaks of a card by itself, `faults` of what the cards mean for one instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ollamux.domain.snapshot import GpuView, ProcessView
from ollamux.domain.text import format_gib

_THERMAL = frozenset({"sw_thermal_slowdown", "hw_thermal_slowdown"})
_SLOW = ("thermal", "power", "slowdown")


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
    if "hw_power_brake_slowdown" in reasons:
        words = f"its power supply cannot give what it asks for, and it slows down{_clocks(gpu)}"
        return [Trouble("power", False, words, "look at its power cables and the power supply")]
    if "hw_slowdown" in reasons:  # by itself it is a sign of heat, of a supply that gives way, or of too high a draw
        words = f"its hardware slows it down, by heat or for want of power{_clocks(gpu)}"
        return [Trouble("slowdown", False, words, "look at its fans, its power cables and the power supply")]
    return []


def _clocks(gpu: GpuView) -> str:
    if gpu.clock_sm_mhz is None:
        return ""
    most = f" of {gpu.clock_sm_max_mhz}" if gpu.clock_sm_max_mhz is not None else ""
    return f" ({gpu.clock_sm_mhz}{most} MHz)"


LOST, SLOWED, CROWDED, WRONG = "gpu_lost", "slowed", "crowded", "wrong_gpu"
CROWD = 0.1
"""A stranger that holds less than this part of a card's memory, as a desktop may, is no news."""


def faults(
    name: str, planned: Sequence[GpuView], every: Sequence[GpuView], uses: Mapping[str, Iterable[ProcessView]]
) -> dict[str, str]:
    """Return what is wrong with the cards of an instance: the reason of each kind of fault.

    `planned` are its own cards, `every` all there are, `uses` who computes on each, by its UUID.
    """
    found: dict[str, list[str]] = {}
    for gpu in planned:
        if gpu.state == "lost":
            found.setdefault(LOST, []).append(f"{_called(gpu)} is lost: {gpu.lost_reason}")
            continue
        slow = [trouble.words for trouble in troubles(gpu) if trouble.key in _SLOW]
        if slow:
            found.setdefault(SLOWED, []).append(f"{_called(gpu)}: {slow[0]}")
        crowd = _crowd(gpu, uses.get(gpu.uuid, ()))
        if crowd is not None:
            found.setdefault(CROWDED, []).append(crowd)
    own = {gpu.uuid for gpu in planned}
    around = {gpu.mig_parent for gpu in planned}  # of a card that is split the driver lists what is on its slices, too
    for gpu in every:
        if not own & {gpu.uuid, gpu.mig_parent} and gpu.uuid not in around:
            astray = [use for use in uses.get(gpu.uuid, ()) if use.instance == name]
            found.setdefault(WRONG, []).extend(
                f"{_process(use)} computes on {_called(gpu)}{_holding(use)}, which is not its own" for use in astray
            )
    return {kind: "; ".join(reasons) for kind, reasons in found.items() if reasons}


def _crowd(gpu: GpuView, uses: Iterable[ProcessView]) -> str | None:
    if not gpu.memory_total_bytes:
        return None
    strangers = [use for use in uses if use.instance is None and use.memory_bytes]
    held = sum(use.memory_bytes or 0 for use in strangers)
    if held < CROWD * gpu.memory_total_bytes:
        return None
    names = ", ".join(map(_process, strangers))
    whole = format_gib(gpu.memory_total_bytes)
    return f"{format_gib(held)} of the {whole} GiB of {_called(gpu)} are held by what is not ours: {names}"


def _called(gpu: GpuView) -> str:
    return f"GPU {'?' if gpu.index is None else gpu.index} ({gpu.name or gpu.uuid})"


def _process(use: ProcessView) -> str:
    return f"{use.name} (pid {use.pid})" if use.name is not None else f"pid {use.pid}"


def _holding(use: ProcessView) -> str:
    return "" if not use.memory_bytes else f" with {format_gib(use.memory_bytes)} GiB"
