"""Rules about NVIDIA's driver. Pure: facts to findings."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ollamux.doctor.facts import Facts, Program
from ollamux.doctor.findings import Finding, Severity
from ollamux.domain.snapshot import GpuView
from ollamux.domain.spec import GpuRefKind, InstanceSpec, Pinning
from ollamux.ollama.version import FIRST_LLAMA_SERVER

_REBOOT = "sudo reboot"
_CLOSED = {
    "mismatch": ("driver-mismatch", "The NVIDIA driver was updated while the old one still runs", _REBOOT),
    "silent": ("driver-silent", "The NVIDIA driver does not answer", _REBOOT),
    "denied": ("driver-denied", "This user may not use the NVIDIA driver", "ls -l /dev/nvidia*"),
    "lost": ("driver-odd", "A card has fallen off the bus, and the driver answers for none", _REBOOT),
    "odd": ("driver-odd", "The NVIDIA driver answers with an error", _REBOOT),
}
_INSTALL = {
    "ubuntu": "sudo ubuntu-drivers install && sudo reboot",
    "debian": "sudo apt install nvidia-driver && sudo reboot",
    "fedora": "sudo dnf install akmod-nvidia && sudo reboot",
    "arch": "sudo pacman -S nvidia && sudo reboot",
}
_OLD_CARD = (6, 2)
_FOR_LLAMA_SERVER, _FOR_OLD_CARDS = 550, 570
_FOR_CUDA = {12: 525, 13: 580}


def driver_closed(facts: Facts) -> Iterable[Finding]:
    """Report a driver that is there and of no use. The kinds are NVML's return codes (nvml.h)."""
    inventory = facts.inventory
    if inventory is None or inventory.error_key not in _CLOSED:
        return
    name, title, fix = _CLOSED[inventory.error_key]
    module = f" The kernel runs {facts.host.nvidia_module}." if facts.host.nvidia_module else ""
    evidence = f"{_sentence(inventory.error)}{module} Until then instances that need a card wait or compute on the CPU."
    yield Finding(id=name, severity=Severity.BROKEN, title=title, evidence=evidence, fix=fix)


def driver_absent(facts: Facts) -> Iterable[Finding]:
    """Report a driver that is missing or not loaded, where there is a card or an instance that wants one."""
    inventory = facts.inventory
    if inventory is None or inventory.error_key not in ("missing", "not-loaded"):
        return
    wanting = [spec.name for spec in facts.enabled if wants_nvidia(spec)]
    if not wanting and not facts.host.nvidia_cards:
        return
    who = f"{', '.join(wanting)} cannot start without it." if wanting else "The card is of no use without it."
    evidence = f"{_sentence(inventory.error)} {who}"
    severity = Severity.BROKEN if wanting else Severity.WARNING
    if inventory.error_key == "missing":
        title, fix = "NVIDIA's driver is not installed", install_command(facts)
        known = facts.host.system in _INSTALL
        yield Finding(id="driver-missing", severity=severity, title=title, evidence=evidence, fix=fix, is_command=known)
    else:
        title, fix = "NVIDIA's driver is not loaded", "sudo modprobe nvidia && nvidia-smi -L"
        yield Finding(id="driver-not-loaded", severity=severity, title=title, evidence=evidence, fix=fix)


def gpus_unread(facts: Facts) -> Iterable[Finding]:
    """Report that our own reader of the cards failed: everything about cards is then unknown, and not well."""
    inventory = facts.inventory
    if inventory is None or inventory.error_key != "unread":
        return
    yield Finding(
        id="gpus-unread",
        severity=Severity.WARNING,
        title="The cards could not be read",
        evidence=f"{_sentence(inventory.error)} Nothing is known about cards because of it.",
        fix="nvidia-smi",
    )


def driver_too_old(facts: Facts) -> Iterable[Finding]:
    """Report a driver that cannot run the CUDA code of an ollama.

    CUDA 12.x needs driver 525 and 13.x 580 (docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility);
    ollama from 0.30 on needs 550, and 570 for cards up to compute capability 6.2 (ollama, docs/gpu.mdx).
    """
    driver = major(facts.inventory.driver) if facts.inventory is not None else None
    if driver is None or facts.inventory is None:
        return
    needs = [need for spec in facts.enabled if (need := _need(facts, spec)) is not None]
    if facts.fleet is None:
        needs = [need for program in facts.programs if (need := _needed(program, facts.gpus)) is not None]
    needed, why = max(needs, default=(0, ""))
    if driver >= needed:
        return
    yield Finding(
        id="driver-too-old",
        severity=Severity.BROKEN,
        title=f"The NVIDIA driver is too old for this ollama: it needs {needed} or newer",
        evidence=f"Driver {facts.inventory.driver} is loaded; {why}. Models fail to load, or run on the CPU.",
        fix=install_command(facts),
        is_command=facts.host.system in _INSTALL,
    )


def _need(facts: Facts, spec: InstanceSpec) -> tuple[int, str] | None:
    program = facts.program_of(spec)
    return None if program is None else _needed(program, facts.gpus_of(spec))


def _needed(program: Program, gpus: tuple[GpuView, ...]) -> tuple[int, str] | None:
    """Return the oldest driver that will do, and why; None where it cannot be told."""
    cards = [gpu for gpu in gpus if gpu.vendor == "nvidia"]
    brought = () if program.libraries is None else program.libraries.cuda
    if not cards or any(name.startswith("cuda_jetpack") for name in brought):
        return None  # a Jetson has a driver of its own, with a count of its own
    found: list[tuple[int, str]] = []
    if program.version is not None and program.version >= FIRST_LLAMA_SERVER:
        old = [card for card in cards if (at := capability(card)) is not None and at <= _OLD_CARD]
        if old:
            found.append((_FOR_OLD_CARDS, f"ollama {program.version_text} needs {_FOR_OLD_CARDS} for {old[0].name}"))
        else:
            found.append((_FOR_LLAMA_SERVER, f"ollama {program.version_text} needs {_FOR_LLAMA_SERVER}"))
    versions = cuda_versions(program)
    if versions:
        oldest = min(versions)
        if oldest in _FOR_CUDA:
            found.append((_FOR_CUDA[oldest], f"the CUDA {oldest} that it brings needs {_FOR_CUDA[oldest]}"))
    return max(found, default=None)


def cuda_versions(program: Program) -> tuple[int, ...]:
    """Return the versions of CUDA that a program brings, as far as the names of its folders tell."""
    names = () if program.libraries is None else program.libraries.cuda
    return tuple(int(found[1]) for name in names if (found := re.fullmatch(r"cuda_v(\d{1,3})", name)))


def capability(gpu: GpuView) -> tuple[int, int] | None:
    """Return the compute capability as numbers."""
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})", gpu.compute_capability or "")
    return (int(found[1]), int(found[2])) if found else None


def wants_nvidia(spec: InstanceSpec) -> bool:
    """Tell whether an instance is pinned to a card of NVIDIA."""
    return spec.pinning is Pinning.GPUS and any(ref.kind is not GpuRefKind.AMD for ref in spec.gpus)


def install_command(facts: Facts) -> str:
    """Return what installs a driver here, in words where no one command does."""
    known = _INSTALL.get(facts.host.system or "")
    return known or "install the newest driver for your cards (https://www.nvidia.com/drivers), then: sudo reboot"


def major(version: str | None) -> int | None:
    """Return the first number of a driver's version."""
    found = re.match(r"(\d{2,4})(\.|$)", version or "")
    return int(found[1]) if found else None


def _sentence(text: str | None) -> str:
    text = (text or "no reason was given").strip()
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
