"""The process that reads the GPUs: `python -m ollamux.gpu.helper --source auto|nvml|simulated|none [--box DIR]`.

A line "sample" on its input is answered by one line of JSON; so are "topology", which tells besides how the cards are
joined, and "energy", which tells what each has used. It ends with its input. What reads the cards can hang and crash,
and takes only this process with it.
Nothing but answers ever reaches its output.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ollamux.gpu.codec import inventory_to_json
from ollamux.gpu.model import Inventory

SOURCES = ("auto", "nvml", "simulated", "none")
REQUEST = b"sample"
TOPOLOGY = b"topology"
ENERGY = b"energy"
Read = Callable[[], Inventory]


def main(arguments: Sequence[str]) -> int:
    """Answer requests until the input ends."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    source, box = options.get("--source", "auto"), options.get("--box")
    if source not in SOURCES or (source == "simulated" and not box):
        os.write(2, b"usage: python -m ollamux.gpu.helper --source auto|nvml|simulated|none [--box DIR]\n")
        return 2
    answers = os.dup(1)
    # Libraries print where they like; from here on that is not where the answers go.
    os.dup2(2, 1)
    try:
        _serve({word: reader_for(source, box, word) for word in (REQUEST, TOPOLOGY, ENERGY)}, answers)
    except BrokenPipeError:
        # Whoever asked is gone, and with it the reason to be here.
        pass
    return 0


def _serve(readers: Mapping[bytes, Read], answers: int) -> None:
    with open(0, "rb", buffering=0, closefd=False) as requests:
        pending = b""
        while chunk := requests.read(4096):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                read = readers.get(line.strip())
                if read is not None:
                    _write(answers, inventory_to_json(read()).encode() + b"\n")


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def reader_for(source: str, box: str | None = None, word: bytes = REQUEST) -> Read:
    """Return the function that reads the cards; what it needs is imported only then."""
    if source == "simulated":
        from ollamux.gpu import simulated, simulated_energy

        words = {TOPOLOGY: simulated.read_topology, ENERGY: simulated_energy.read_energy}
        of_box = words.get(word, simulated.read_inventory)
        return lambda: of_box(Path(box or "."))
    if source == "none":
        return Inventory
    from ollamux.gpu import nvml

    of_nvidia = {TOPOLOGY: nvml.read_topology, ENERGY: nvml.read_energy}.get(word, nvml.read_inventory)
    return of_nvidia if source == "nvml" else lambda: _with_amd(of_nvidia())


def _with_amd(nvidia: Inventory) -> Inventory:
    from ollamux.gpu import sysfs

    return merged(nvidia, sysfs.read_inventory())


def merged(nvidia: Inventory, amd: Inventory) -> Inventory:
    """Put AMD cards behind the NVIDIA cards; with AMD cards alone, a missing NVIDIA driver is no trouble."""
    if amd.gpus and nvidia.source == "none":
        return amd
    return replace(nvidia, gpus=(*nvidia.gpus, *amd.gpus), unsupported=amd.unsupported)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
