"""The ways to name a GPU in a configuration, and their normal form. Asks no driver whether the GPU is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ollamux.config.keys import ANY
from ollamux.config.rules import Wrong, kind
from ollamux.domain.spec import GpuRef, GpuRefKind

HIGHEST_INDEX = 1023

_SHOWN_BY = "nvidia-smi -L shows indices and UUIDs"
_HEX = "[0-9a-fA-F]"
_UUID = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"
# The beginning of a UUID 8-4-4-4-12, or the 16 digits that AMD cards have.
_PREFIX = (
    f"(?:{_HEX}{{1,16}}|{_HEX}{{8}}-{_HEX}{{0,4}}|{_HEX}{{8}}(?:-{_HEX}{{4}}){{1}}-{_HEX}{{0,4}}"
    f"|{_HEX}{{8}}(?:-{_HEX}{{4}}){{2}}-{_HEX}{{0,4}}|{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{0,12}})"
)
_PCI = f"(?:{_HEX}{{4}}:|{_HEX}{{8}}:)?{_HEX}{{2}}:[01]{_HEX}\\.[0-7]"
_AMD = "amd:[0-9]{1,3}"

GPU_PATTERN = f"^(?:GPU-{_PREFIX}|MIG-{_UUID}|{_PCI}|{_AMD})$"
GPU_RULE = 'must be an index (0), "GPU-…", "MIG-…", a PCI bus id ("0000:65:00.0") or "amd:0"'

_IS_UUID = re.compile(f"GPU-{_PREFIX}")
_IS_MIG = re.compile(f"MIG-{_UUID}")
_IS_PCI = re.compile(_PCI)
_IS_AMD = re.compile(_AMD)


def parse_ref(value: object) -> GpuRef:
    """Return the GPU that one entry of `gpus` names; the same GPU by the same means gives the same value."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= HIGHEST_INDEX:
            raise Wrong(f"an index must be between 0 and {HIGHEST_INDEX}", _SHOWN_BY)
        return GpuRef(kind=GpuRefKind.INDEX, value=str(value))
    if not isinstance(value, str):
        raise Wrong(f"{GPU_RULE}, not {kind(value)}", _SHOWN_BY)
    if _IS_UUID.fullmatch(value):
        return GpuRef(kind=GpuRefKind.UUID, value="GPU-" + value[4:].lower())
    if _IS_MIG.fullmatch(value):
        return GpuRef(kind=GpuRefKind.MIG, value="MIG-" + value[4:].lower())
    if _IS_PCI.fullmatch(value):
        return GpuRef(kind=GpuRefKind.PCI, value=_normal_pci(value))
    if _IS_AMD.fullmatch(value):
        return GpuRef(kind=GpuRefKind.AMD, value=str(int(value[4:])))
    raise _not_a_gpu(value)


def _normal_pci(text: str) -> str:
    *domain, bus, place = text.lower().split(":")
    return f"{int(domain[0], 16) if domain else 0:04x}:{bus}:{place}"


def _not_a_gpu(text: str) -> Wrong:
    if text.isascii() and text.isdigit() and len(text) < 5:
        return Wrong(f"an index is written without quotes: {int(text)}")
    if text in ("any", "all", "auto"):
        return Wrong('"any" is not the name of a GPU', 'for no pinning write gpus = "any", without brackets')
    if text.lower() in ("cpu", "none", ""):
        return Wrong("this is not the name of a GPU", "for CPU only write gpus = []")
    if text[:4].lower() == "gpu-" and not text.startswith("GPU-"):
        return Wrong('a UUID begins with "GPU-" in capitals', _SHOWN_BY)
    if _IS_AMD.fullmatch(text.lower()):
        return Wrong(f'this is written in small letters: "{text.lower()}"')
    if text.startswith(("GPU-", "MIG-")):
        return Wrong(
            "this is no UUID, 8-4-4-4-12 hexadecimal digits; only that of a GPU may be cut short",
            _SHOWN_BY,
        )
    return Wrong(GPU_RULE, _SHOWN_BY)


def gpu_list(value: object, each: Callable[[object], Any]) -> Any:
    """Return what `each` makes of a list of GPUs, or the word for no pinning; say of anything else how to write it."""
    if value == ANY:
        return ANY
    if isinstance(value, int) and not isinstance(value, bool):
        raise Wrong(f"must be a list: gpus = [{value}]")
    if isinstance(value, str):
        if value.lower() in ("cpu", "none", ""):
            raise Wrong("must be a list", "for CPU only write gpus = []")
        if re.fullmatch(GPU_PATTERN[1:-1], value):
            raise Wrong(f'must be a list: gpus = ["{value}"]')
        raise Wrong('must be a list as [0] or ["GPU-…"], [] for CPU only, or "any" for no pinning')
    if not isinstance(value, list):
        raise Wrong(f'must be a list, or "any" for no pinning, not {kind(value)}')
    return each(value)


GPUS_SCHEMA = {
    "anyOf": [
        {
            "type": "array",
            "uniqueItems": True,
            "items": {
                "anyOf": [
                    {"type": "integer", "minimum": 0, "maximum": HIGHEST_INDEX},
                    {"type": "string", "pattern": GPU_PATTERN},
                ]
            },
        },
        {"const": ANY},
    ],
    "$comment": 'list of index, "GPU-…", "MIG-…", PCI bus id or "amd:0"; `[]`; `"any"`',
}
