"""Write PCI addresses one way: "0000:65:00.0". Pure."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})(?:\.([0-7]))?")


def normal_pci(text: str) -> str | None:
    """Return an address with a four-digit domain in lower case, or None where it is none.

    nvidia-smi writes eight digits for the domain, lspci none, and both leave it to the reader.
    """
    match = _ADDRESS.fullmatch(text.strip().lower())
    if match is None:
        return None
    domain, bus, slot, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{int(bus, 16):02x}:{int(slot, 16):02x}.{function or 0}"
