"""How the cards of a simulated box are joined: made up, but as boards are built. Pure.

Up to four cards hang on one socket, each two of them on one host bridge. More stand on two sockets, each two behind a
switch. Equal cards of a model that takes an NVLink bridge have one, in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ollamux.domain.links import kind_of
from ollamux.gpu.model import Gpu, Link

_ONE_SOCKET = 4
_BRIDGES = {"NVIDIA GeForce RTX 3090": 4, "NVIDIA RTX A6000": 4, "NVIDIA A100-PCIE-40GB": 12}


def board_links(gpus: Sequence[Gpu]) -> tuple[Link, ...]:
    """Return one link for each two NVIDIA cards that are there; of others, and of lost cards, nothing is known."""
    cards = [gpu for gpu in gpus if gpu.vendor == "nvidia" and gpu.mig_parent is None]
    bridged = _bridged(cards)
    links = []
    for (place, one), (further, other) in combinations(enumerate(cards), 2):
        if one.state == other.state == "ok":
            nvlinks = (
                bridged.get((one.uuid, other.uuid), 0) if one.name in _BRIDGES and other.name in _BRIDGES else None
            )
            kind = kind_of(_kind(place, further, len(cards)), nvlinks)
            links.append(Link(a=one.uuid, b=other.uuid, kind=kind, nvlinks=nvlinks))
    return tuple(links)


def _bridged(cards: Sequence[Gpu]) -> dict[tuple[str, str], int]:
    found = {}
    for model, count in _BRIDGES.items():
        equal = [card.uuid for card in cards if card.name == model]
        found.update(dict.fromkeys(zip(equal[::2], equal[1::2], strict=False), count))
    return found


def _kind(one: int, other: int, count: int) -> str:
    if count <= _ONE_SOCKET:
        return "host-bridge" if one // 2 == other // 2 else "socket"
    half = (count + 1) // 2
    if one // half != other // half:
        return "system"
    if one // 2 == other // 2:
        return "switch"
    return "switches" if one // 4 == other // 4 else "socket"
