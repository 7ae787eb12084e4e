"""Write and read the head of a model file (GGUF version 3). The weights behind it are a hole in a sparse file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
_ALIGNMENT = 32
# name: (number in the file, values a block, bytes a block), by the GGUF specification
TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q8_0": (8, 32, 34),
    "Q5_0": (6, 32, 22),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
    "MXFP4": (39, 32, 17),
}
_TYPE_NAMES = {number: name for name, (number, _, _) in TYPES.items()}
FILE_TYPES = {0: "F32", 1: "F16", 7: "Q8_0", 15: "Q4_K_M", 32: "BF16", 38: "MXFP4"}
_U8, _I32, _U32, _F32, _BOOL, _STRING, _ARRAY, _U64 = 0, 5, 4, 6, 7, 8, 9, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor: its name, type and shape."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Return how many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def size_bytes(self) -> int:
        """Return the bytes it takes."""
        _, block, size = TYPES[self.type]
        return -(-self.elements // block) * size


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """The head of a model file."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """Return the family, such as "llama"."""
        return str(self.metadata.get("general.architecture", "unknown"))

    def get(self, key: str, default: Any = 0) -> Any:
        """Return a value of the architecture's own."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def weights_bytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def quantization(self) -> str:
        """Return the name of the file type."""
        return FILE_TYPES.get(int(self.metadata.get("general.file_type", 0)), "unknown")


def head_of(gguf: Gguf) -> bytes:
    """Return the bytes before the weights."""
    parts = [MAGIC, struct.pack("<IQQ", 3, len(gguf.tensors), len(gguf.metadata))]
    for key, value in gguf.metadata.items():
        parts += [_string(key), _typed(value)]
    offset = 0
    for tensor in gguf.tensors:
        shape = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        parts += [_string(tensor.name), struct.pack("<I", len(tensor.shape)), shape]
        parts.append(struct.pack("<IQ", TYPES[tensor.type][0], offset))
        offset += -(-tensor.size_bytes // _ALIGNMENT) * _ALIGNMENT
    head = b"".join(parts)
    return head + b"\0" * (-len(head) % _ALIGNMENT)


def file_size(gguf: Gguf) -> int:
    """Return the size of the whole file."""
    padded = sum(-(-tensor.size_bytes // _ALIGNMENT) * _ALIGNMENT for tensor in gguf.tensors)
    return len(head_of(gguf)) + padded


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _typed(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: Sequence[Any]) -> bytes:
    if values and isinstance(values[0], int):
        return struct.pack(f"<IQ{len(values)}i", _I32, len(values), *values)
    return struct.pack("<IQ", _STRING, len(values)) + b"".join(_string(str(value)) for value in values)


def read(path: Path) -> Gguf:
    """Read the head of a model file; ValueError where it is none."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file")
        _, tensors, pairs = struct.unpack("<IQQ", file.read(20))
        metadata = {_read_string(file): _read_value(file) for _ in range(pairs)}
        return Gguf(metadata=metadata, tensors=tuple(_read_tensor(file) for _ in range(tensors)))


def _read_string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode()


def _read_value(file: BinaryIO, kind: int | None = None) -> Any:
    if kind is None:
        (kind,) = struct.unpack("<I", file.read(4))
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        kind, length = struct.unpack("<IQ", file.read(12))
        return [_read_value(file, kind) for _ in range(length)]
    form = {_U8: "<B", _I32: "<i", _U32: "<I", _F32: "<f", _BOOL: "<?", _U64: "<Q"}.get(kind or 0)
    if form is None:
        raise ValueError(f"unknown type {kind} in a GGUF head")
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return float(f"{value:.6g}") if kind == _F32 else value


def _read_tensor(file: BinaryIO) -> Tensor:
    name = _read_string(file)
    (dimensions,) = struct.unpack("<I", file.read(4))
    shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
    number, _ = struct.unpack("<IQ", file.read(12))
    return Tensor(name=name, type=_TYPE_NAMES.get(number, "F32"), shape=shape)
