"""What this package needs to know of a GPU, so that it depends on no package that reads GPUs."""

from __future__ import annotations

import re
from typing import Protocol

_PCI = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])")


class Device(Protocol):
    """A device that an instance is pinned to; `ollamux.gpu.model.Gpu` is one."""

    @property
    def uuid(self) -> str:
        """The UUID, as the driver writes it."""

    @property
    def index(self) -> int | None:
        """The number among the cards of this vendor."""

    @property
    def vendor(self) -> str:
        """Either "nvidia" or "amd"."""

    @property
    def name(self) -> str:
        """The name of the product."""

    @property
    def pci(self) -> str | None:
        """The normalised PCI address."""


def normal_pci(text: str) -> str:
    """Write a PCI address with a four-digit domain in lower case; empty where it is none."""
    match = _PCI.fullmatch(text.strip().lower())
    if match is None:
        return ""
    domain, bus, slot, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{int(bus, 16):02x}:{int(slot, 16):02x}.{function}"
