"""What the machine has, asked once for a command: its GPUs and an ollama."""

from __future__ import annotations

import os

from ollamux.domain.errors import OllamuxError
from ollamux.gpu.allocation import allowed
from ollamux.gpu.client import read_once
from ollamux.gpu.model import Inventory
from ollamux.ollama.binary import find_ollama

PATIENCE_S = 10.0


def read_gpus() -> Inventory:
    """Return the GPUs we may use; a driver that hangs costs ten seconds and gives a list with `error`."""
    return allowed(read_once("auto", None, PATIENCE_S), os.environ)


def has_ollama() -> bool:
    """Whether there is an `ollama` to start."""
    try:
        find_ollama("ollama", os.environ)
    except OllamuxError:
        return False
    return True
