"""What the values of a snapshot are called on the screen: states, figures, times, names.

Strings only: no spans, no widths, no colour codes. A missing measurement becomes a dash here and nowhere else.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ollamux.domain.snapshot import GpuView, InstanceModelView, InstanceView, ModelView, Status
from ollamux.domain.text import format_duration, format_gib, format_size

DASH = "–"
STALE_AFTER_S = 10.0
_GIB = 1024**3
_FOREVER_S = 10 * 365 * 86400.0
_MAKERS = ("NVIDIA ", "AMD ", "Advanced Micro Devices, Inc. ", "Intel ")

_STYLES = {
    "READY": "good",
    "DEGRADED": "wait",
    "STARTING": "wait",
    "WAITING": "wait",
    "STOPPING": "wait",
    "SWEEPING": "wait",
    "KILLING": "wait",
    "STOPPED": "dim",
}


def epoch(time: str | None) -> float | None:
    """Return the seconds since 1970 of an RFC 3339 time, or None where it is none."""
    if time is None:
        return None
    try:
        moment = datetime.fromisoformat(time)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def clock(time: object) -> str:
    """Return an RFC 3339 time as the time of day where the reader is."""
    try:
        return datetime.fromisoformat(str(time)).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def day(time: object) -> str:
    """Return the local day of an RFC 3339 time, as in "2026-01-31"."""
    try:
        return datetime.fromisoformat(str(time)).astimezone().strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return "----------"


def coarse(seconds: float) -> str:
    """Write a duration in one unit, for a narrow column: "7 s", "12 min", "3 h", "4 d"."""
    seconds = min(max(0.0, seconds), 1e12)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def fine(seconds: float) -> str:
    """Write a duration in at most two units, with tenths of a second where they matter."""
    return format_duration(min(max(0.0, seconds), 1e12))


def whole_seconds(seconds: float) -> str:
    """Write a duration in at most two units, without tenths of a second."""
    return format_duration(float(round(min(max(0.0, seconds), 1e12))))


def state(instance: InstanceView) -> tuple[str, str]:
    """Return the state of an instance as it is shown, and its style."""
    if instance.phase == "READY" and instance.health == "degraded":
        return "DEGRADED", "wait"
    if instance.phase == "READY" and instance.health == "failing":
        return "READY", "wait"
    return instance.phase, phase_style(instance.phase)


def phase_style(phase: str) -> str:
    """Return the style of a phase; one that is not known is not taken for good."""
    return _STYLES.get(phase, "bad")


def is_well(instance: InstanceView) -> bool:
    """Tell whether nothing has to be said about the instance."""
    if instance.wanted == "down":
        return instance.phase == "STOPPED"
    return instance.phase == "READY" and instance.health != "degraded"


def next_step(instance: InstanceView, now: float | None) -> str | None:
    """Return what happens next and when: "restart 4 in 7 s"."""
    due = epoch(instance.next_at)
    action = instance.next_action
    if due is None or now is None:
        return action
    left = due - now
    when = f"in {whole_seconds(left)}" if left >= 0.5 else "now"
    return f"{action or 'next step'} {when}"


def since(instance: InstanceView, now: float | None) -> str:
    """Return how long the instance has been in its phase, in one unit."""
    start = epoch(instance.since)
    return DASH if start is None or now is None else coarse(now - start)


def until(expires_at: str | None, now: float | None) -> str:
    """Return how long a model stays loaded."""
    end = epoch(expires_at)
    if expires_at is None or (end is not None and now is not None and end - now > _FOREVER_S):
        return "kept"
    if end is None or now is None:
        return DASH
    return f"in {coarse(end - now)}" if end > now else "stopping"


def percent_on_gpu(model: ModelView | InstanceModelView) -> int | None:
    """Return how much of a model is in GPU memory, in whole per cent; 100 only where all of it is."""
    if model.size_bytes <= 0:
        return None
    return min(max(model.size_vram_bytes * 100 // model.size_bytes, 0), 100)


def layers(model: ModelView) -> str:
    """Return how many layers of a model are on the GPU: "37/37"; "20/37 asked" where so many were asked for."""
    known = model.layers or {}
    done, total = known.get("offloaded"), known.get("total")
    if done is None or total is None:
        return DASH
    return f"{done}/{total}" + (" asked" if done < total and model.layers_asked == done else "")


def is_short_of_layers(model: ModelView) -> bool:
    """Whether fewer layers are on the GPU than there are, though nobody asked for that."""
    known = model.layers or {}
    done, total = known.get("offloaded", 0), known.get("total", 0)
    asked = total if model.layers_asked is None else min(model.layers_asked, total)
    return done < asked


_BUFFERS = {"weights": "weights", "kv": "cache", "state": "state", "compute": "compute", "output": "output"}


def buffers(model: ModelView) -> list[str]:
    """Return what a model has on each device: "CUDA0: weights 4.4 GiB, cache 1.1 GiB"."""
    found: dict[str, list[str]] = {}
    for buffer in model.buffers or ():
        if buffer.bytes:
            said = f"{_BUFFERS.get(buffer.kind, buffer.kind)} {format_size(buffer.bytes)}"
            found.setdefault(buffer.device, []).append(said)
    return [f"{device}: {', '.join(said)}" for device, said in found.items()]


def gpu_name(name: str) -> str:
    """Return the name of a card without its maker's."""
    for maker in _MAKERS:
        if name.startswith(maker) and len(name) > len(maker):
            return name[len(maker) :]
    return name


def pci(address: str | None) -> str:
    """Return a PCI address without the domain where that is zero, as most people know it."""
    if not address:
        return DASH
    return re.sub(r"^0{4,8}:(?=[0-9a-fA-F]{2}:)", "", address)


def pcie(gpu: GpuView) -> str:
    """Return the link of a card: "4.0 ×16", and what it could be where it has fewer lanes: "3.0 ×8 of 4.0 ×16".

    A lower generation alone is no news: an idle card saves power that way.
    """
    now = _link(gpu.pcie_gen, gpu.pcie_width)
    narrow = None not in (gpu.pcie_width, gpu.pcie_width_max) and gpu.pcie_width != gpu.pcie_width_max
    return f"{now} of {_link(gpu.pcie_gen_max, gpu.pcie_width_max)}" if narrow else now


def _link(generation: int | None, lanes: int | None) -> str:
    if generation is None and lanes is None:
        return DASH
    version = "?" if generation is None else f"{generation}.0"
    return version if lanes is None else f"{version} ×{lanes}"


def clocks(gpu: GpuView) -> str:
    """Return the clock of the processors, now and at most: "1710/2100 MHz"."""
    if gpu.clock_sm_mhz is None:
        return DASH
    most = "" if gpu.clock_sm_max_mhz is None else f"/{gpu.clock_sm_max_mhz}"
    return f"{gpu.clock_sm_mhz}{most} MHz"


def throttle(gpu: GpuView) -> str:
    """Return what holds the clocks down, in nvidia-smi's words without their underscores."""
    if gpu.throttle_reasons is None:
        return DASH
    return ", ".join(reason.replace("_", " ") for reason in gpu.throttle_reasons) or "nothing"


def ecc(gpu: GpuView) -> str:
    """Return corrected and uncorrected errors of memory: "0/0"; "off" where they are not looked for."""
    if not gpu.ecc:
        return DASH if gpu.ecc is None else "off"
    return f"{number(gpu.ecc_corrected)}/{number(gpu.ecc_uncorrected)}"


def on_off(flag: bool | None) -> str:
    """Return "on" or "off"."""
    return DASH if flag is None else "on" if flag else "off"


def memory(gpu: GpuView) -> str:
    """Return used and whole memory in GiB: "18.2/24.0 GiB"."""
    if gpu.memory_total_bytes is None and gpu.memory_used_bytes is None:
        return DASH
    return f"{format_gib(gpu.memory_used_bytes)}/{format_gib(gpu.memory_total_bytes)} GiB"


def gib(size: int | None) -> str:
    """Return bytes in GiB with the unit."""
    return DASH if size is None else f"{format_gib(size)} GiB"


def size(value: int | None) -> str:
    """Write bytes in the unit that suits them."""
    return DASH if value is None else format_size(value)


def power(gpu: GpuView) -> str:
    """Return drawn and allowed power: "99/350 W"."""
    if gpu.power_w is None:
        return DASH
    limit = "" if gpu.power_limit_w is None else f"/{gpu.power_limit_w:.0f}"
    return f"{gpu.power_w:.0f}{limit} W"


def temperature(gpu: GpuView) -> str:
    """Return the temperature: "54 °C"."""
    return DASH if gpu.temperature_c is None else f"{gpu.temperature_c} °C"


def utilization(gpu: GpuView) -> str:
    """Return the utilization: "87 %"."""
    return DASH if gpu.utilization_percent is None else f"{gpu.utilization_percent} %"


def restarts_for_life(instance: InstanceView) -> str:
    """Return how often it was restarted by itself, and how often because somebody asked, since it was first run."""
    if instance.auto_restarts is None and instance.manual_restarts is None:
        return DASH
    return f"{number(instance.auto_restarts)}/{number(instance.manual_restarts)}"


def number(value: int | None) -> str:
    """Return a number that has no unit."""
    return DASH if value is None else str(value)


def short_model(name: str) -> str:
    """Return the name of a model without the registry and the owner it came from."""
    return name.rsplit("/", 1)[-1] or name


def canary(instance: InstanceView, now: float | None) -> str:
    """Return what came of the last question for a token, and how long ago that was."""
    last = instance.canary
    if last is None:
        return DASH
    said = "no verdict" if last.ok is None else "ok" if last.ok else "failed"
    asked = epoch(last.at)
    ago = "" if asked is None or now is None else f", {coarse(now - asked)} ago"
    return f"{short_model(last.model)} {said}{ago}"


def age(seen: GpuView | ModelView, status: Status, now: float | None) -> float | None:
    """Return how old the sample of a card is now, or what was said of a model."""
    if seen.age_s is None:
        return None
    taken = epoch(status.time)
    return seen.age_s + (max(now - taken, 0.0) if now is not None and taken is not None else 0.0)


def is_stale(seen: GpuView | ModelView, status: Status, now: float | None) -> bool:
    """Tell whether the figures of a card, or a model, are too old to be taken for the present."""
    old = age(seen, status, now)
    return old is not None and old > STALE_AFTER_S


def exit_of(instance: InstanceView) -> str:
    """Return the last end of the instance's process: "code 1", "SIGKILL"."""
    end = instance.exit or {}
    if end.get("signal") is not None:
        return str(end["signal"])
    return DASH if end.get("code") is None else f"code {end['code']}"
