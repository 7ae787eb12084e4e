"""What NVML says of two cards: how they reach each other over PCI Express, and how many NVLinks join them.

Asked only on demand, in the helper process. What the driver does not tell is unknown, each on its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from types import ModuleType
from typing import Any, NamedTuple

from ollamux.domain.links import UNKNOWN, kind_of
from ollamux.gpu.model import Link
from ollamux.gpu.nvml_values import text, value, whole
from ollamux.gpu.pci import normal_pci

_LEVELS = {0: "same-board", 10: "switch", 20: "switches", 30: "host-bridge", 40: "socket", 50: "system"}
"""Levels of the common ancestor (nvml.h)."""
_TO_SWITCH = 2
_MOST_NVLINKS = 36


class _Card(NamedTuple):
    """A card with its active NVLinks: how many lead to each PCI address, and how many to a switch; None if unknown."""

    handle: Any
    uuid: str
    pci: str | None
    peers: Counter[str] | None
    switched: int


def card_links(library: ModuleType, count: int) -> tuple[Link, ...]:
    """Return one link for each two of so many cards; a card that cannot be reached has none."""
    cards = [card for index in range(count) if (card := _card(library, index)) is not None]
    return tuple(_link(library, one, other) for one, other in combinations(cards, 2))


def _card(library: ModuleType, index: int) -> _Card | None:
    handle = value(library, "nvmlDeviceGetHandleByIndex", index)
    uuid = None if handle is None else text(value(library, "nvmlDeviceGetUUID", handle))
    if uuid is None:
        return None
    peers, switched = _nvlinks(library, handle)
    pci = value(library, "nvmlDeviceGetPciInfo", handle)
    return _Card(handle, uuid, normal_pci(text(getattr(pci, "busId", None)) or ""), peers, switched)


def _nvlinks(library: ModuleType, handle: Any) -> tuple[Counter[str] | None, int]:
    peers: Counter[str] = Counter()
    switched, told = 0, False
    for number in range(_MOST_NVLINKS):
        active = whole(value(library, "nvmlDeviceGetNvLinkState", handle, number))
        if active is None:
            if number == 0:
                break  # a card without NVLink says so of the first one already
            continue
        told = True
        if not active:
            continue
        if whole(value(library, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, number)) == _TO_SWITCH:
            switched += 1
            continue
        remote = value(library, "nvmlDeviceGetNvLinkRemotePciInfo", handle, number)
        address = normal_pci(text(getattr(remote, "busId", None)) or "")
        if address is not None:
            peers[address] += 1
    return (peers if told else None), switched


def _link(library: ModuleType, one: _Card, other: _Card) -> Link:
    level = whole(value(library, "nvmlDeviceGetTopologyCommonAncestor", one.handle, other.handle))
    nvlinks = _joined((one, other))
    kind = kind_of(UNKNOWN if level is None else _LEVELS.get(level, UNKNOWN), nvlinks)
    return Link(a=one.uuid, b=other.uuid, kind=kind, nvlinks=nvlinks)


def _joined(pair: Sequence[_Card]) -> int | None:
    """Return how many NVLinks join two cards: those between them, or what both have to the switches that join all."""
    counts = [
        card.peers[peer.pci]
        for card, peer in (pair, (pair[1], pair[0]))
        if card.peers is not None and peer.pci is not None
    ]
    if not counts:
        return None
    return max(counts) or min(card.switched for card in pair)
