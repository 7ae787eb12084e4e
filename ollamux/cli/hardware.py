"""What the machine has, asked once for a command: its GPUs and an ollama."""

from __future__ import annotations

import os
from pathlib import Path

from ollamux.domain.errors import OllamuxError
from ollamux.domain.snapshot import LinkView
from ollamux.gpu.allocation import allowed
from ollamux.gpu.client import read_once
from ollamux.gpu.helper import REQUEST, TOPOLOGY
from ollamux.gpu.model import Inventory
from ollamux.ollama.binary import find_ollama
from ollamux.system.places import state_dir

PATIENCE_S = 10.0


def read_gpus(*, links: bool = False) -> Inventory:
    """Return the GPUs we may use, with how they are joined where that is asked for.

    A driver that hangs costs ten seconds and gives a list with `error`.
    """
    return allowed(read_once("auto", None, PATIENCE_S, request=TOPOLOGY if links else REQUEST), os.environ)


def read_links(*, simulated: bool) -> Inventory:
    """Return how the cards are joined, of the machine or of the simulated box, with the cards."""
    if not simulated:
        return read_gpus(links=True)
    box = Path(state_dir(os.environ, simulated=True)) / "box"
    return read_once("simulated", box, PATIENCE_S, request=TOPOLOGY)


def links_of(inventory: Inventory) -> dict[frozenset[str], LinkView]:
    """Return how each two cards are joined, by the pair of their UUIDs."""
    return {
        frozenset((link.a, link.b)): LinkView(a=link.a, b=link.b, kind=link.kind, nvlinks=link.nvlinks)
        for link in inventory.links or ()
    }


def has_ollama() -> bool:
    """Whether there is an `ollama` to start."""
    try:
        find_ollama("ollama", os.environ)
    except OllamuxError:
        return False
    return True
