"""Leave of an inventory only the devices that an outer mask hands to us. Pure.

Inside a Slurm job, a container or a shell with CUDA_VISIBLE_DEVICES set, the other cards belong to somebody else.
Cards keep their numbers: a configuration names the machine's cards, as nvidia-smi shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ollamux.domain.text import safe_text
from ollamux.gpu.model import Gpu, Inventory


def allowed(inventory: Inventory, env: Mapping[str, str]) -> Inventory:
    """Return the inventory without the devices that an outer mask hides.

    CUDA_VISIBLE_DEVICES speaks of NVIDIA cards, ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES of AMD cards only: Slurm
    sets the latter on NVIDIA machines too.
    """
    nvidia = [gpu for gpu in inventory.gpus if gpu.vendor != "amd"]
    amd = [gpu for gpu in inventory.gpus if gpu.vendor == "amd"]
    cuda = env.get("CUDA_VISIBLE_DEVICES")
    if cuda is not None:
        nvidia = _cuda_visible(nvidia, cuda)
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        mask = env.get(name)
        # HIP takes an empty list for none given, its runtime below takes it for no card.
        if mask is not None and (mask.strip() or name == "ROCR_VISIBLE_DEVICES"):
            amd = _by_tokens(mask, amd)
    kept = {gpu.uuid for gpu in (*nvidia, *amd)}
    return replace(inventory, gpus=tuple(gpu for gpu in inventory.gpus if gpu.uuid in kept))


def allocation_note(env: Mapping[str, str]) -> str | None:
    """Say how an outer mask was read where it leaves room for doubt; None where it does not."""
    mask = env.get("CUDA_VISIBLE_DEVICES", "")
    numbers = any(token.strip().isdigit() for token in mask.split(","))
    if not numbers or env.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return None
    shown = safe_text(mask, limit=80)
    return f"CUDA_VISIBLE_DEVICES={shown} was read in PCI order, as nvidia-smi has it; CUDA may number cards otherwise"


def _cuda_visible(gpus: Sequence[Gpu], mask: str) -> list[Gpu]:
    cards = [gpu for gpu in gpus if gpu.mig_parent is None]
    visible: list[Gpu] = []
    for token in mask.split(","):
        gpu = _named(token.strip(), cards, gpus)
        if gpu is None:
            # As CUDA does: an invalid entry hides itself and all after it.
            break
        visible.append(gpu)
        visible.extend(part for part in gpus if part.mig_parent == gpu.uuid)
    return visible


def _by_tokens(mask: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    visible: list[Gpu] = []
    for token in mask.split(","):
        gpu = _named(token.strip(), gpus, gpus)
        if gpu is None:
            break
        visible.append(gpu)
    return visible


def _named(token: str, cards: Sequence[Gpu], gpus: Sequence[Gpu]) -> Gpu | None:
    """Return what one entry of a mask means: a position among the cards, a UUID or the beginning of just one."""
    if token.isascii() and token.isdigit():
        return cards[int(token)] if len(token) < 5 and int(token) < len(cards) else None
    lowered = token.lower()
    if not lowered.startswith(("gpu-", "mig-")):
        return None
    matches = [gpu for gpu in gpus if gpu.uuid.lower().startswith(lowered)]
    return matches[0] if len(matches) == 1 else None
