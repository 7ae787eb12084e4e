"""Make a simulated box: its cards and the programs that run on it. It starts nothing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ollamux.domain.spec import GpuRef, GpuRefKind
from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import create_folders, write_cards

GIB = 1024**3

# name, memory in GiB, power limit in W, PCIe generation and width
_MIX = (
    ("NVIDIA GeForce RTX 3090", 24, 350.0, 4, 16),
    ("NVIDIA RTX A2000 12GB", 12, 70.0, 4, 8),
    ("NVIDIA GeForce RTX 4090", 24, 450.0, 4, 16),
    ("NVIDIA RTX A6000", 48, 300.0, 4, 16),
    ("NVIDIA GeForce RTX 3060", 12, 170.0, 4, 16),
    ("NVIDIA RTX 6000 Ada Generation", 48, 300.0, 4, 16),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", 16, 285.0, 4, 16),
    ("NVIDIA A100-PCIE-40GB", 40, 250.0, 4, 16),
)
_AMD = ("AMD Radeon RX 7900 XTX", 24, 303.0, 4, 16)

# A discovery child needs no interpreter: it lives until its parent has heard enough or is gone.
_WRAPPER = """#!/bin/sh
case "$1" in
gpu-discover) IFS= read -r line; echo "$line"; exit 0 ;;
esac
case " $* " in
*" --list-devices "* | *" --verbose "* | *" runner --ollama-engine --port "*)
    IFS= read -r line; echo "$line"; exit 0 ;;
esac
{path}exec {python} -P -X box={box} -m ollamux.simulation.{module} "$@"
"""


def create_box(box: Path, cards: tuple[Gpu, ...]) -> None:
    """Make the folder of a box with these cards; a box that is there gets them instead of its own."""
    create_folders(box)
    write_cards(box, cards)


def write_binaries(box: Path) -> Path:
    """Write `bin/ollama` and `lib/ollama/llama-server` into the box and return the path of the former."""
    path = "" if _found_anywhere() else f"PYTHONPATH={shlex.quote(str(_root()))}${{PYTHONPATH:+:$PYTHONPATH}} "
    programs = {"bin/ollama": "ollama", "lib/ollama/llama-server": "llama_server"}
    for name, module in programs.items():
        target = box / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = _WRAPPER.format(
            path=path,
            python=shlex.quote(sys.executable),
            box=shlex.quote(str(box.absolute())),
            module=module,
        )
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.chmod(0o755)
        draft.replace(target)
    return (box / "bin/ollama").absolute()


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


def _found_anywhere() -> bool:
    """Say whether a bare interpreter in any folder imports this very package."""
    code = "import ollamux.simulation; print(ollamux.simulation.__file__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd="/", env={}, capture_output=True, check=False)
    return done.returncode == 0 and os.fsdecode(done.stdout).strip() == str(Path(__file__).with_name("__init__.py"))


def default_cards(n: int) -> tuple[Gpu, ...]:
    """Return n believable cards, the same ones every time, in the order nvidia-smi lists them."""
    return tuple(_card(index) for index in range(n))


def _card(index: int, identity: str | None = None, pci: str | None = None) -> Gpu:
    name, gib, limit, generation, width = _MIX[index % len(_MIX)]
    return Gpu(
        uuid=identity or f"GPU-{_uuid('card', index)}",
        index=index,
        name=name,
        pci=pci or _slot(index),
        memory_total_bytes=gib * GIB,
        power_limit_w=limit,
        pcie_gen=generation,
        pcie_width=width,
    )


def _slot(index: int) -> str:
    # Bus numbers of a workstation board: ascending, as nvidia-smi lists them.
    return f"0000:{0x01 + index * 0x20 if index < 8 else 0x02 + index:02x}:00.0"


def _uuid(kind: str, index: int | str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{kind}{index}.simulation.ollamux"))


def _completed(prefix: str, written: str) -> str:
    """Return a whole UUID that starts as written in a configuration."""
    body = written.removeprefix(prefix).lower()
    return prefix + body + _uuid("whole", written)[len(body) :]


def cards_for(refs: Sequence[GpuRef], at_least: int) -> tuple[Gpu, ...]:
    """Return cards on which every reference of a configuration resolves, at least so many NVIDIA or any cards."""
    by_kind = {kind: list(dict.fromkeys(r.value for r in refs if r.kind is kind)) for kind in GpuRefKind}
    uuids = _without_prefixes(by_kind[GpuRefKind.UUID])
    migs = by_kind[GpuRefKind.MIG]
    defaults = {card.uuid for card in default_cards(max(at_least, 8))}
    named = [u for u in uuids if not any(d.lower().startswith(u.lower()) for d in defaults)]
    amd = _amd_cards([int(v) for v in by_kind[GpuRefKind.AMD] if v.isdigit()])
    wanted_slots = by_kind[GpuRefKind.PCI]
    highest = max((int(v) for v in by_kind[GpuRefKind.INDEX] if v.isdigit()), default=-1)
    count = max(at_least - len(amd), highest + 1, len(named) + bool(migs), 0)
    if len(uuids) > len(named):
        count = max(count, _position_of_defaults(uuids))
    slots = _slots(wanted_slots, max(count, len(wanted_slots)))
    cards = [_card(index, pci=slot) for index, slot in enumerate(slots)]
    # Cards without a named UUID keep their own; the named ones take the last places, so that indices stay known.
    free = [i for i, card in enumerate(cards) if not any(card.uuid.lower().startswith(u.lower()) for u in uuids)]
    while len(free) < len(named):
        cards.append(_card(len(cards), pci=_slots([*slots, "ff"], len(cards) + 1)[-1]))
        free.append(len(cards) - 1)
    for place, written in zip(free[::-1][: len(named)][::-1], named, strict=True):
        cards[place] = _card(place, _completed("GPU-", written), cards[place].pci)
    return (*_with_slices(cards, migs), *amd)


def _without_prefixes(uuids: Sequence[str]) -> list[str]:
    """Leave out what is a prefix of another: both mean one card."""
    return [u for u in uuids if not any(o != u and o.lower().startswith(u.lower()) for o in uuids)]


def _position_of_defaults(uuids: Sequence[str]) -> int:
    places = [i for i in range(64) for u in uuids if _card(i).uuid.lower().startswith(u.lower())]
    return max(places, default=-1) + 1


def _slots(wanted: Sequence[str], count: int) -> list[str]:
    slots = [slot for slot in wanted if slot.count(":") == 2]
    for index in range(64):
        if len(slots) >= count:
            break
        if _slot(index) not in slots:
            slots.append(_slot(index))
    return sorted(slots)


def _with_slices(cards: list[Gpu], migs: Sequence[str]) -> tuple[Gpu, ...]:
    if not migs:
        return tuple(cards)
    parent = next((card for card in cards if "A100" in card.name), cards[-1])
    if "A100" not in parent.name:
        parent = _card(7, parent.uuid, parent.pci)
        parent = replace(parent, index=cards[-1].index)
    share = (parent.memory_total_bytes or 0) // max(2, len(migs))
    slices = tuple(
        Gpu(
            uuid=_completed("MIG-", written),
            index=parent.index,
            name=f"{parent.name} MIG 3g.20gb",
            pci=parent.pci,
            mig_parent=parent.uuid,
            memory_total_bytes=share,
        )
        for written in migs
    )
    out: list[Gpu] = []
    for card in cards:
        out.extend((parent, *slices) if card.uuid == parent.uuid else (card,))
    return tuple(out)


def _amd_cards(indices: Sequence[int]) -> tuple[Gpu, ...]:
    name, gib, limit, generation, width = _AMD
    return tuple(
        Gpu(
            uuid=f"GPU-{_uuid('amd', index)[:18].replace('-', '')}",
            index=index,
            vendor="amd",
            name=name,
            pci=f"0000:{0xC1 + index:02x}:00.0",
            memory_total_bytes=gib * GIB,
            power_limit_w=limit,
            pcie_gen=generation,
            pcie_width=width,
        )
        for index in range(max(indices, default=-1) + 1)
    )
