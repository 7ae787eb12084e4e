"""Rules about single cards: state, link, persistence, strangers. Pure: facts to findings."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from ollamux.doctor.facts import Facts, Stranger
from ollamux.doctor.findings import Finding, Severity
from ollamux.doctor.rules_driver import capability, cuda_versions
from ollamux.domain.cards import troubles
from ollamux.domain.snapshot import GpuView
from ollamux.domain.text import format_size
from ollamux.gpu.resolve import resolve, shared_gpus

_OLDEST_CARD = (5, 0)
_OLDEST_FOR_CUDA_13 = (7, 5)
_BUSY_PERCENT = 30
# A desktop holds some memory of every card it draws on; that is nobody's model.
_OF_NO_WEIGHT = 256 * 1024**2


def card_troubles(facts: Facts) -> Iterable[Finding]:
    """Report what a card says of itself: `ollamux.domain.cards` has the sources."""
    for gpu in facts.gpus:
        for trouble in troubles(gpu):
            serious = trouble.broken and facts.is_used(gpu)
            yield Finding(
                id=f"card-{trouble.key}",
                severity=Severity.BROKEN if serious else Severity.WARNING,
                title=f"{_named(gpu)}: {_TITLES[trouble.key]}",
                evidence=f"{trouble.words[:1].upper()}{trouble.words[1:]}.{_users(facts, gpu)}",
                fix=trouble.fix or "sudo reboot",
                is_command=trouble.fix is None or trouble.fix.startswith("sudo "),
            )


_TITLES = {
    "lost": "the driver has lost it",
    "unknown": "nobody knows its state",
    "compute-mode": "its compute mode shuts programs out",
    "memory-defective": "its memory is defective",
    "memory-reset": "its memory waits for a reset",
    "memory-errors": "its memory has errors",
    "thermal": "it is too hot",
    "power": "it gets too little power",
    "slowdown": "its hardware slows it down",
}


def card_missing(facts: Facts) -> Iterable[Finding]:
    """Report an instance whose card is not there; with a driver that tells nothing that is a consequence."""
    inventory = facts.inventory
    if inventory is None or inventory.error is not None:
        return
    for spec in facts.enabled:
        found = resolve(spec, inventory)
        if found.problem is None or any(gpu.state != "ok" for gpu in found.gpus):
            continue
        yield Finding(
            id="card-missing",
            severity=Severity.BROKEN,
            title=f"{spec.name} cannot have the card that it is configured for",
            evidence=f"{found.problem[:1].upper()}{found.problem[1:]}. {spec.name} waits for it.",
            fix=f"name another card in gpus of [instances.{spec.name}] in {facts.file} (nvidia-smi -L lists them); "
            "then: ollamux reload",
            is_command=False,
        )


def card_shared(facts: Facts) -> Iterable[Finding]:
    """Report a card in two instances: each counts on memory that the other takes (ollama computes what is free)."""
    if facts.fleet is None or facts.inventory is None:
        return
    for clash in shared_gpus(facts.fleet, facts.inventory):
        first, second = clash.instances
        yield Finding(
            id="card-shared",
            severity=Severity.BROKEN,
            title=f"{first} and {second} are on one card",
            evidence=f"{clash}. The second of them waits for as long as the first runs.",
            fix=f"set share_gpu = true in both, or another card in one, in {facts.file}; then: ollamux reload",
            is_command=False,
        )


def card_unsupported(facts: Facts) -> Iterable[Finding]:
    """Report a card that this ollama has no code for.

    Ollama supports compute capability 5.0 and later (ollama, docs/gpu.mdx); CUDA 13 has none below 7.5 (CUDA 13.0
    release notes: Maxwell, Pascal and Volta were removed), for which ollama brings CUDA 12 beside it.
    """
    for gpu in facts.gpus:
        at = capability(gpu)
        if at is None or gpu.vendor != "nvidia":
            continue
        users = [spec for spec in facts.enabled if gpu in facts.gpus_of(spec)]
        programs = [program for spec in users if (program := facts.program_of(spec)) is not None]
        only_13 = any((known := cuda_versions(program)) and min(known) >= 13 for program in programs)
        if at >= _OLDEST_CARD and not (only_13 and at < _OLDEST_FOR_CUDA_13):
            continue
        least = "5.0" if at < _OLDEST_CARD else "7.5"
        why = "ollama has no code for it" if at < _OLDEST_CARD else "this ollama brings CUDA 13 alone"
        yield Finding(
            id="card-unsupported",
            severity=Severity.BROKEN if facts.is_used(gpu) else Severity.HINT,
            title=f"{_named(gpu)} is too old for this ollama",
            evidence=f"Its compute capability is {gpu.compute_capability}, below {least}: {why}, and models run on the "
            f"CPU.{_users(facts, gpu)}",
            fix=f"set gpus = [] (the CPU) or another card in {facts.file}; then: ollamux reload",
            is_command=False,
        )


def link_narrow(facts: Facts) -> Iterable[Finding]:
    """Report fewer PCIe lanes than card and slot could have. Idle cards lower their speed, not their width."""
    for gpu in _in_use(facts):
        width, most = gpu.pcie_width, gpu.pcie_width_max
        if width is not None and most is not None and 0 < width < most:
            yield Finding(
                id="link-narrow",
                severity=Severity.WARNING,
                title=f"{_named(gpu)} has {width} of {most} PCIe lanes",
                evidence=f"Over x{width} models load up to {most / width:.3g} times slower than over x{most}. A riser, "
                "dirt on the contacts, or a slot that shares its lanes does this.",
                fix="reseat the card, or use another slot; to see what slot and card can: " + _lspci(gpu),
                is_command=False,
            )


def link_slow(facts: Facts) -> Iterable[Finding]:
    """Report a link that is slow under load: an idle one slows down to save power, and that is no trouble."""
    for gpu in _in_use(facts):
        gen, most = gpu.pcie_gen, gpu.pcie_gen_max
        if gen is None or most is None or not 0 < gen < most or (gpu.utilization_percent or 0) < _BUSY_PERCENT:
            continue
        yield Finding(
            id="link-slow",
            severity=Severity.WARNING,
            title=f"{_named(gpu)} is linked with PCIe {gen}.0 under load, and could have {most}.0",
            evidence=f"It is {gpu.utilization_percent} % busy, so this is no saving of power. A setting of the BIOS, a "
            "riser, or errors on the link do this; models load slower.",
            fix=f"set the slot to Auto or Gen {most} in the BIOS; to see what slot and card can: {_lspci(gpu)}",
            is_command=False,
        )


def persistence_off(facts: Facts) -> Iterable[Finding]:
    """Report persistence mode off: the driver lets an idle card go, and waking it takes seconds (nvidia-smi(1))."""
    off = [gpu for gpu in _in_use(facts) if gpu.persistence is False and gpu.mig_parent is None]
    if off:
        yield Finding(
            id="persistence-off",
            severity=Severity.HINT,
            title=f"Persistence mode is off on {_list(off)}",
            evidence="While nobody uses a card the driver unloads its state: the next start takes seconds longer, and "
            "settings such as a power limit are lost.",
            fix="sudo systemctl enable --now nvidia-persistenced || sudo nvidia-smi -pm 1",
        )


def card_strangers(facts: Facts) -> Iterable[Finding]:
    """Report processes that take memory of cards that instances count on (ollama does not see them grow)."""
    used = {gpu.uuid: gpu for gpu in facts.gpus if facts.is_used(gpu)}
    on_them = [one for one in facts.strangers if one.gpu in used and _weighs(one)]
    for uuid, found in groupby(sorted(on_them, key=lambda one: one.gpu), key=lambda one: one.gpu):
        here = list(found)
        pids = ",".join(str(one.pid) for one in here)
        packaged = any(one.packaged for one in here)
        yield Finding(
            id="card-strangers",
            severity=Severity.WARNING,
            title=f"{_named(used[uuid])} is used by {'others' if len(here) > 1 else 'somebody else'} too",
            evidence=f"{'; '.join(map(_said, here))}. Models find less memory than the card has. End "
            f"{'them' if len(here) > 1 else 'it'}, or use another card.",
            fix="sudo systemctl disable --now ollama" if packaged else f"ps -o pid,user,etime,args -p {pids}",
        )


def _weighs(stranger: Stranger) -> bool:
    return stranger.memory_bytes is None or stranger.memory_bytes >= _OF_NO_WEIGHT


def _said(one: Stranger) -> str:
    who = ", ".join(part for part in (one.name, f"user {one.user}" if one.user else None) if part)
    size = "some memory" if one.memory_bytes is None else format_size(one.memory_bytes)
    return f"pid {one.pid} ({who or 'unknown, perhaps of another container'}) holds {size}"


def _in_use(facts: Facts) -> list[GpuView]:
    return [gpu for gpu in facts.gpus if gpu.vendor == "nvidia" and gpu.state == "ok" and facts.is_used(gpu)]


def _named(gpu: GpuView) -> str:
    number = "" if gpu.index is None else f" {'amd:' if gpu.vendor == 'amd' else ''}{gpu.index}"
    return f"GPU{number} ({gpu.name.removeprefix('NVIDIA ') or gpu.uuid})"


def _list(gpus: list[GpuView]) -> str:
    return ", ".join(map(_named, gpus))


def _users(facts: Facts, gpu: GpuView) -> str:
    users = [spec.name for spec in facts.enabled if gpu in facts.gpus_of(spec)]
    return f" It is the card of {', '.join(users)}." if users else ""


def _lspci(gpu: GpuView) -> str:
    return f"sudo lspci -vv -s {gpu.pci} | grep -E 'LnkCap|LnkSta'" if gpu.pci else "sudo lspci -vv"
