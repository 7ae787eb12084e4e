"""Which processes compute on which AMD card, as the amdkfd driver shows them below /sys/class/kfd. Read-only.

`proc/PID/vram_ID` is how much memory of a card a process holds, in bytes; ID is the `gpu_id` of a node of the topology,
whose properties name its PCI address (`domain`, and bus, device and function packed into `location_id`). A driver
without these files shows no processes, which is not the same as that there are none.
"""

from __future__ import annotations

from pathlib import Path

from ollamux.gpu.model import GpuProcess

KFD = Path("/sys/class/kfd/kfd")


def read_processes(root: Path = KFD) -> dict[str, tuple[GpuProcess, ...]]:
    """Return the processes of each card by its PCI address, as in "0000:03:00.0"; those without memory are left out."""
    addresses = _addresses(root / "topology/nodes")
    found: dict[str, list[GpuProcess]] = {address: [] for address in addresses.values()}
    for folder in _entries(root / "proc"):
        if not folder.name.isdigit():
            continue
        for file in _entries(folder):
            address = addresses.get(file.name.removeprefix("vram_"))
            held = _whole(file) if address and file.name.startswith("vram_") else None
            if address is not None and held:
                found[address].append(GpuProcess(pid=int(folder.name), memory_bytes=held))
    return {address: tuple(sorted(seen, key=lambda process: process.pid)) for address, seen in found.items()}


def _addresses(nodes: Path) -> dict[str, str]:
    """Return the PCI address of each card by its `gpu_id`; a node with the id 0 is a processor."""
    found: dict[str, str] = {}
    for node in _entries(nodes):
        number = _whole(node / "gpu_id")
        properties = dict(line.split(" ", 1) for line in (_read(node / "properties") or "").splitlines() if " " in line)
        place = properties.get("location_id", "")
        if number and place.isdigit():
            domain, at = int(properties.get("domain", "0") or 0), int(place)
            found[str(number)] = f"{domain:04x}:{at >> 8 & 0xFF:02x}:{at >> 3 & 0x1F:02x}.{at & 7}"
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _whole(path: Path) -> int | None:
    text = (_read(path) or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
