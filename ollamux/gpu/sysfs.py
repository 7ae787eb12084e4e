"""Read AMD cards from /sys, where the amdgpu driver shows them. Read-only; no library, no root."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ollamux.gpu.kfd import KFD, read_processes
from ollamux.gpu.model import Gpu, Inventory
from ollamux.gpu.pci import normal_pci

DRM = Path("/sys/class/drm")
_CARD = re.compile(r"card\d+")
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_AMD = "0x1002"
_OTHERS = {"0x8086": "Intel"}
# The rate of one lane in each generation of PCI Express.
_GENERATIONS = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}


def read_inventory(root: Path = DRM, *, kfd: Path = KFD) -> Inventory:
    """Read all AMD cards, numbered in the order of their PCI addresses."""
    try:
        folders = [entry / "device" for entry in root.iterdir() if _CARD.fullmatch(entry.name)]
    except OSError:
        folders = []
    cards = [(_pci(folder) or "", folder) for folder in folders if _is_amd(folder)]
    running = read_processes(kfd) if cards else {}
    gpus = tuple(
        replace(_card(folder, index, pci), processes=running.get(pci, ()))
        for index, (pci, folder) in enumerate(sorted(cards))
    )
    others = tuple(sorted(text for folder in folders if (text := _unsupported(folder)) is not None))
    return Inventory(source="sysfs" if gpus else "none", gpus=gpus, unsupported=others)


def _unsupported(folder: Path) -> str | None:
    """Name a card that is driven, and that ollamux can neither read nor pin to; another maker's is not looked at."""
    maker = _OTHERS.get(_read(folder / "vendor") or "")
    return (
        None if maker is None else f"{maker} GPU {_read(folder / 'device') or ''} ({_pci(folder) or 'no PCI address'})"
    )


def _is_amd(folder: Path) -> bool:
    """Say whether a card is AMD's, and driven by amdgpu: only that tells of its memory."""
    return _read(folder / "vendor") == _AMD and _whole(folder / "mem_info_vram_total") is not None


def _card(folder: Path, index: int, pci: str) -> Gpu:
    serial = (_read(folder / "unique_id") or "").lower().removeprefix("0x")
    has_serial = re.fullmatch(r"[0-9a-f]{1,16}", serial) is not None and int(serial, 16) != 0
    sensors = next(iter(sorted(folder.glob("hwmon/hwmon*"))), folder)
    millidegrees = _whole(sensors / "temp1_input")
    way = _way_to_the_processor(folder)
    return Gpu(
        # What the ROCm runtime calls it; cards without a serial have no such name.
        uuid=f"GPU-{serial.zfill(16)}" if has_serial else f"AMD-{pci}",
        index=index,
        vendor="amd",
        name=_read(folder / "product_name") or f"AMD GPU {_read(folder / 'device') or ''}".strip(),
        pci=pci or None,
        memory_total_bytes=_whole(folder / "mem_info_vram_total"),
        memory_used_bytes=_whole(folder / "mem_info_vram_used"),
        utilization_percent=_whole(folder / "gpu_busy_percent"),
        temperature_c=None if millidegrees is None else millidegrees // 1000,
        power_w=_watts(sensors, "power1_average", "power1_input"),
        power_limit_w=_watts(sensors, "power1_cap"),
        pcie_gen=_narrowest([_generation(step / "current_link_speed") for step in way]),
        pcie_width=_narrowest([_whole(step / "current_link_width") for step in way]),
        pcie_gen_max=_narrowest([_generation(step / "max_link_speed") for step in way]),
        pcie_width_max=_narrowest([_whole(step / "max_link_width") for step in way]),
        power_default_w=_watts(sensors, "power1_cap_default"),
        clock_sm_mhz=_megahertz(sensors, "sclk"),
        clock_memory_mhz=_megahertz(sensors, "mclk"),
    )


def _pci(folder: Path) -> str | None:
    for line in (_read(folder / "uevent") or "").splitlines():
        if line.startswith("PCI_SLOT_NAME="):
            return normal_pci(line.partition("=")[2])
    return None


def _way_to_the_processor(folder: Path) -> list[Path]:
    """Return the card and the bridges above it. A card of today brings a switch, and says of itself what that can do.

    The slot is what lies above the switch: an RX 6800 on a board for PCIe 3 calls its own link 4.0 ×16
    (github.com/Umio-Yasuno/amdgpu_top/issues/33, github.com/nokyan/resources/issues/512).
    """
    place = folder.resolve()
    way = [place]
    while _ADDRESS.fullmatch(place.parent.name):
        place = place.parent
        way.append(place)
    return way


def _narrowest(values: list[int | None]) -> int | None:
    """Return what all that has to be passed allows; a bridge that is none of PCI Express tells 0, or nothing."""
    own, *above = values
    return None if own is None else min([own, *(value for value in above if value)])


def _generation(path: Path) -> int | None:
    speed = (_read(path) or "").split(" ")[0]
    return _GENERATIONS.get(speed if "." in speed else f"{speed}.0")


def _megahertz(sensors: Path, label: str) -> int | None:
    """Return a clock; hwmon numbers them in any order and names each in a file of its own."""
    for number in (1, 2):
        if _read(sensors / f"freq{number}_label") == label:
            hertz = _whole(sensors / f"freq{number}_input")
            return None if hertz is None else hertz // 1_000_000
    return None


def _watts(sensors: Path, *names: str) -> float | None:
    for name in names:
        microwatts = _whole(sensors / name)
        if microwatts is not None:
            return microwatts / 1_000_000
    return None


def _whole(path: Path) -> int | None:
    text = _read(path) or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _read(path: Path) -> str | None:
    """Read a value; a sleeping or dying card answers some with an error."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None
