"""Which faults a simulation can play, and how they are set and cleared. What a fault does is up to who meets it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ollamux.domain.errors import NotFoundError, RefusedError, UsageError
from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import (
    EVERY,
    fault_path,
    has_fault,
    read_cards,
    set_faults,
    write_atomically,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault: `target` is "instance" or "gpu"; a one-shot fault is gone once it has acted."""

    name: str
    description: str
    target: str = "instance"
    one_shot: bool = False


_ALL = (
    Fault(name="crash", description="the server is killed (SIGKILL); its runners are orphaned", one_shot=True),
    Fault(name="exit-code", description="the server exits with 1 and an error line", one_shot=True),
    Fault(name="hang-api", description="the server accepts connections and answers nothing"),
    Fault(name="hang-scheduler", description="version answers, ps and every inference hang"),
    Fault(name="slow-start", description="from the next start on, HTTP answers 20 s late"),
    Fault(name="never-ready", description="from the next start on, the port is open and nothing answers"),
    Fault(name="ignore-term", description="the server swallows SIGTERM"),
    Fault(
        name="orphan-runner",
        description="the server is killed; its runners leave the group and ignore SIGTERM",
        one_shot=True,
    ),
    Fault(name="cpu-fallback", description="from the next start on, no GPU is found and all is computed on the CPU"),
    Fault(name="wrong-gpu", description="from the next start on, another card is used than the one asked for"),
    Fault(name="spill", description="from the next load on, only part of a model fits on the card"),
    Fault(name="gpu-lost", description="the card falls off the bus", target="gpu"),
    Fault(name="vram-late", description="memory of processes that end stays taken until this is cleared", target="gpu"),
    Fault(name="nvml-hang", description="the driver stops answering questions about every card", target="gpu"),
    Fault(name="port-taken", description="the server ends and a stranger takes its port"),
    Fault(name="log-flood", description="the server writes some 10 MB of log a second"),
    Fault(name="disk-full", description="no space is left for models and logs"),
)
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveFault:
    """A fault that is set; `target` None means every instance, or the driver."""

    name: str
    target: str | None


def inject(box: Path, fault: str, target: str | None) -> None:
    """Set a fault. A GPU is named by index, UUID or unique prefix; no target means every one of its kind."""
    known = FAULTS.get(fault)
    if known is None:
        near = difflib.get_close_matches(fault, FAULTS, n=1)
        hint = f"did you mean {near[0]}?" if near else "one of: " + ", ".join(FAULTS)
        raise UsageError(f"there is no fault “{fault}”", hint=hint)
    if known.target == "gpu":
        target = None if fault == "nvml-hang" or target is None else _uuid(box, target)
    elif fault == "wrong-gpu" and len(read_cards(box)) < 2:
        raise RefusedError("wrong-gpu needs a second card", hint="simulate two cards or more")
    write_atomically(fault_path(box, fault, target), "")


def clear(box: Path, target: str | None = None) -> None:
    """Unset every fault, or those of one instance or card."""
    wanted: set[str | None] = {target}
    if target is not None:
        wanted |= {card.uuid for card in matching_cards(box, target)}
    # A hanging driver is no single card's fault, and clearing any card clears it.
    driver = len(wanted) > 1
    for fault, whose in set_faults(box):
        if target is None or whose in wanted or (driver and fault == "nvml-hang"):
            fault_path(box, fault, whose).unlink(missing_ok=True)


def active(box: Path) -> tuple[ActiveFault, ...]:
    """Return the faults that are set, by name."""
    pairs = set_faults(box)
    return tuple(ActiveFault(name=fault, target=None if whose == EVERY else whose) for fault, whose in pairs)


def is_active(box: Path | None, fault: str, target: str | None) -> bool:
    """Say whether a fault concerns this target. Without a box there are no faults."""
    return box is not None and has_fault(box, fault, target)


def consume(box: Path, fault: str, target: str | None) -> bool:
    """Take a one-shot fault away; true for the one caller who may act on it."""
    for whose in (target, EVERY):
        try:
            os.unlink(fault_path(box, fault, whose))
        except OSError:
            continue
        return True
    return False


def _uuid(box: Path, name: str) -> str:
    found = matching_cards(box, name)
    if len(found) != 1:
        known = ", ".join(card.uuid for card in read_cards(box)) or "none"
        raise NotFoundError(f"no single simulated card is “{name}”", hint=f"cards: {known}")
    return found[0].uuid


def matching_cards(box: Path, name: str) -> list[Gpu]:
    """Return the cards that an index, a UUID, a prefix of one or a PCI address may mean."""
    cards = read_cards(box)
    if name.isdigit():
        return [card for card in cards if card.index == int(name) and card.mig_parent is None]
    return [card for card in cards if name in (card.uuid, card.pci) or (card.uuid.startswith(name) and len(name) > 4)]
