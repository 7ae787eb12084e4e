"""A driver with two cards for the helper process of a chaos run. A file `nvml-hang` in OX_NVML makes it hang."""

import os
import time
import types

CARDS = ("GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000")
GIB = 1024**3


class NVMLError(Exception):
    """What the driver raises; never here."""

    value = 999


def nvmlInit():
    """Open the library."""


def nvmlShutdown():
    """Close the library."""


def nvmlDeviceGetCount():
    folder = os.environ["OX_NVML"]
    while os.path.exists(f"{folder}/nvml-hang"):
        with open(f"{folder}/nvml-hung", "w", encoding="ascii"):
            pass
        time.sleep(0.05)
    return len(CARDS)


def nvmlSystemGetDriverVersion():
    return "580.95.05"


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetUUID(index):
    return CARDS[index]


def nvmlDeviceGetName(index):
    return "NVIDIA GeForce RTX 3090"


def nvmlDeviceGetPciInfo(index):
    return types.SimpleNamespace(busId=f"00000000:6{index}:00.0")


def nvmlDeviceGetMemoryInfo(index):
    return types.SimpleNamespace(total=24 * GIB, used=GIB)
