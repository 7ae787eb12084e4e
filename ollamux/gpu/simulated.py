"""A simulated box on disk: its cards, who uses them, and which faults are set; and the reader that acts as the driver.

A box is a folder: `cards.json`, `usage/<pid>.json` written by simulated runners, `faults/<fault>@<target>`. Nothing
here starts a process or decides what a fault does. A usage file counts only while the very process that wrote it
lives, so memory is free the moment a runner is gone, as on a real card; on one with the fault vram-late it stays taken.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from ollamux.gpu.model import Gpu, GpuProcess, Inventory

DRIVER = "580.95.05"
CUDA = "13.0"
EVERY = "*"
_CARDS, _USAGE, _FAULTS = "cards.json", "usage", "faults"
_HANG_POLL_S = 0.05
# The part of a card's memory that CUDA offers.
_USABLE = 0.983
_SAMPLE_FIELDS = (
    *("processes", "memory_used_bytes", "memory_reserved_bytes"),
    *("utilization_percent", "temperature_c", "power_w", "energy_j"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one living process holds: bytes by the UUID of the card. `busy` is how many requests it is at."""

    pid: int
    name: str
    memory: Mapping[str, int]
    busy: int = 0


def create_folders(box: Path) -> None:
    """Make the folders of a box; what is there stays."""
    for name in (_USAGE, _FAULTS):
        (box / name).mkdir(parents=True, exist_ok=True)


def write_cards(box: Path, cards: Sequence[Gpu]) -> None:
    """Store the cards, without what only a sample can tell."""
    rows = [{k: v for k, v in asdict(card).items() if k not in _SAMPLE_FIELDS} for card in cards]
    write_atomically(box / _CARDS, json.dumps(rows, indent=1))


def read_cards(box: Path) -> tuple[Gpu, ...]:
    """Return the cards without a sample; none where there is no box."""
    try:
        rows = json.loads((box / _CARDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(Gpu(**row) for row in rows)


def write_usage(box: Path, usage: Usage) -> None:
    """Say what a process holds. It is read together with the start time of that process."""
    row = {**asdict(usage), "memory": dict(usage.memory), "start": start_ticks(usage.pid)}
    write_atomically(box / _USAGE / f"{usage.pid}.json", json.dumps(row))


def read_usages(box: Path) -> tuple[Usage, ...]:
    """Return what processes hold, by pid. Files of dead ones are swept on the way, once nothing of theirs is late."""
    usages = []
    late = {target for fault, target in set_faults(box) if fault == "vram-late"}
    try:
        names = sorted(os.listdir(box / _USAGE), key=lambda name: (len(name), name))
    except OSError:
        return ()
    for name in names:
        if name.endswith(".json"):
            usage = _read_usage(box / _USAGE / name, late)
            if usage is not None:
                usages.append(usage)
    return tuple(usages)


def _read_usage(path: Path, late: set[str]) -> Usage | None:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        start = row.pop("start")
        usage = Usage(**row)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if start is not None and start_ticks(usage.pid) == start:
        return usage
    kept = {uuid: size for uuid, size in usage.memory.items() if late & {EVERY, uuid}}
    if kept:
        return replace(usage, memory=kept, busy=0)
    path.unlink(missing_ok=True)
    return None


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rfind(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def fault_path(box: Path, fault: str, target: str | None) -> Path:
    """Return the file whose presence means that a fault is set. No target means every one."""
    return box / _FAULTS / f"{fault}@{quote(target or EVERY, safe='*')}"


def set_faults(box: Path) -> tuple[tuple[str, str], ...]:
    """Return the faults that are set, as (fault, target)."""
    try:
        names = sorted(os.listdir(box / _FAULTS))
    except OSError:
        return ()
    pairs = (name.partition("@") for name in names if "@" in name and not name.startswith("."))
    return tuple((fault, unquote(target)) for fault, _, target in pairs)


def has_fault(box: Path, fault: str, target: str | None) -> bool:
    """Say whether a fault is set for this target, or for every one."""
    targets = {EVERY, target or EVERY}
    return any(fault_path(box, fault, each).exists() for each in targets)


def sample(box: Path) -> tuple[Gpu, ...]:
    """Return the cards with their newest sample, without ever waiting. A lost card measures nothing."""
    usages = read_usages(box)
    lost = {target for fault, target in set_faults(box) if fault == "gpu-lost"}
    cards = read_cards(box)
    children = {card.uuid: [c.uuid for c in cards if c.mig_parent == card.uuid] for card in cards}
    sampled = []
    for card in cards:
        if lost & {EVERY, card.uuid, card.mig_parent}:
            sampled.append(_lost(card))
        else:
            sampled.append(_measured(card, usages, {card.uuid, *children[card.uuid]}))
    return tuple(sampled)


def _lost(card: Gpu) -> Gpu:
    reason = "GPU is lost: it has fallen off the bus (Xid 79); a reboot is needed to bring it back"
    return replace(card, state="lost", lost_reason=reason)


def _measured(card: Gpu, usages: Sequence[Usage], uuids: set[str]) -> Gpu:
    held = [(usage, sum(usage.memory.get(uuid, 0) for uuid in uuids)) for usage in usages]
    held = [(usage, size) for usage, size in held if size]
    busy = sum(1 for usage, _ in held if usage.busy)
    load = min(97, 84 + 6 * busy) if busy else 0
    limit = card.power_limit_w or 250.0
    return replace(
        card,
        memory_used_bytes=sum(size for _, size in held),
        memory_reserved_bytes=reserved_bytes(card),
        utilization_percent=load,
        temperature_c=34 + load * 38 // 100 + (3 if held else 0),
        power_w=round(limit * (0.06 + (0.04 if held else 0.0) + 0.0082 * load), 1),
        processes=tuple(GpuProcess(pid=u.pid, memory_bytes=size, name=u.name) for u, size in held),
    )


def reserved_bytes(card: Gpu) -> int:
    """Return what the driver keeps of a card for itself, which CUDA does not offer."""
    total = card.memory_total_bytes or 0
    return total - int(total * _USABLE)


def read_inventory(box: Path) -> Inventory:
    """Return what the driver would tell. While the fault nvml-hang is set this blocks, as NVML does."""
    while any(fault == "nvml-hang" for fault, _ in set_faults(box)):
        time.sleep(_HANG_POLL_S)
    return Inventory(source="simulated", driver=DRIVER, cuda=CUDA, gpus=sample(box))


def read_topology(box: Path) -> Inventory:
    """Return the same, and how the cards are joined."""
    from ollamux.gpu.simulated_links import board_links

    inventory = read_inventory(box)
    return replace(inventory, links=board_links(inventory.gpus))


def visible_cards(cards: Sequence[Gpu], mask: str | None, vendor: str = "nvidia") -> tuple[Gpu, ...]:
    """Return what a mask such as CUDA_VISIBLE_DEVICES leaves visible, in the order of the mask.

    As CUDA does: an invalid entry hides itself and everything after it, a UUID may be shortened to a unique prefix,
    and at most one MIG slice is usable by a process. A lost card is not there at all.
    """
    family = [card for card in cards if card.vendor == vendor and card.state != "lost"]
    slices = {card.uuid: [c for c in family if c.mig_parent == card.uuid] for card in family}
    ordinals = [(slices[card.uuid] or [card])[0] for card in family if card.mig_parent is None]
    if mask is None or not mask.strip():
        return _one_slice(ordinals)
    seen: list[Gpu] = []
    for token in mask.split(","):
        card = _named(token.strip(), family, ordinals)
        if card is None or card in seen:
            break
        seen.append(card)
    return _one_slice(seen)


def _named(token: str, family: Sequence[Gpu], ordinals: Sequence[Gpu]) -> Gpu | None:
    if token.isascii() and token.isdigit():
        return ordinals[int(token)] if int(token) < len(ordinals) else None
    if not token.startswith(("GPU-", "MIG-")):
        return None
    found = [card for card in family if card.uuid.lower().startswith(token.lower())]
    return found[0] if len(found) == 1 else None


def _one_slice(cards: Sequence[Gpu]) -> tuple[Gpu, ...]:
    first_slice = next((card for card in cards if card.mig_parent is not None), None)
    return tuple(card for card in cards if card.mig_parent is None or card is first_slice)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
