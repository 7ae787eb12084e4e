"""Read the head of a model file: what it says of itself, and which tensors it holds. Never the tensors' data.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian: what every ollama of
today reads. A file may be truncated or hostile: every count and length is compared with what the file can still hold
before anything is read, and with a limit of ours, so memory and time are bounded. Long arrays, such as a vocabulary,
are stepped over; only how long they are is kept.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from ollamux.domain.errors import Exit, OllamuxError
from ollamux.domain.text import safe_text
from ollamux.ollama.gguf_bytes import Bytes, TooShortError
from ollamux.ollama.gguf_types import TYPES

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_PAIRS = 16_384
_MOST_TENSORS = 65_536
_MOST_ELEMENTS = 8_000_000
"""Of all arrays together whose elements have to be stepped over one by one: the largest vocabularies have a tenth."""
_NESTED = 100
"""For how many an array within an array counts: each costs so much more time."""
_MOST_KEPT = 4 * 1024**2
_LONGEST_KEY = 65_535
_LONGEST_TEXT = 64 * 1024
_LONGEST_ARRAY = 4096
_DEEPEST = 4
_MOST_DIMENSIONS = 4
_MOST_BYTES = 1 << 60
_LARGEST_ALIGNMENT = 1024**2
_STRING, _ARRAY = 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class GgufError(OllamuxError):
    """A model file that cannot be read; the message names it and says what is wrong."""

    exit_code = Exit.DEGRADED


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A value that was stepped over: how many elements an array has, or bytes a text."""

    length: int


Value = bool | int | float | str | tuple["Value", ...] | Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor: its name, type, shape, and where its data begin, from the start of all data."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    elements: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a model file."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int
    file_bytes: int


def read_head(path: Path) -> Head:
    """Read the head of a model file; GgufError where it is none, or not whole."""
    try:
        # Non-blocking, so that a FIFO in its place does not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise GgufError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _BadError("it is no regular file")
        return _Reader(Bytes(descriptor, status.st_size)).head()
    except TooShortError as error:
        raise GgufError(f"{path} ends too early: {error}") from None
    except _BadError as error:
        raise GgufError(f"{path} is no model file that can be read: {error}") from None
    except OSError as error:
        raise GgufError(f"cannot read {path}: {error.strerror or error}") from None
    finally:
        os.close(descriptor)


class _BadError(Exception):
    """What is wrong with a file."""


class _Reader:
    """One pass over a head. `_elements` and `_kept` count against the limits of the whole file."""

    def __init__(self, source: Bytes) -> None:
        self._source = source
        self._elements = 0
        self._kept = 0

    def head(self) -> Head:
        version = self._version()
        (tensor_count, pair_count) = self._source.unpack("QQ", "the counts")
        self._plausible("metadata", pair_count, _MOST_PAIRS, 8 + 1 + 4 + 1)
        self._plausible("tensors", tensor_count, _MOST_TENSORS, 8 + 1 + 4 + 4 + 8)
        metadata: dict[str, Value] = {}
        for number in range(pair_count):
            key = self._name(f"metadata {number + 1} of {pair_count}")
            if key in metadata:
                raise _BadError(f"the key {safe_text(key, limit=80)} is there twice")
            metadata[key] = self._value(f"the value of {safe_text(key, limit=80)}")
        tensors = self._tensors(tensor_count)
        alignment = metadata.get("general.alignment", 32)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or not 1 <= alignment <= _LARGEST_ALIGNMENT:
            raise _BadError("general.alignment is no alignment")
        start = -(-self._source.position // alignment) * alignment
        self._check_places(tensors, start, alignment)
        return Head(
            version=version, metadata=metadata, tensors=tensors, data_offset=start, file_bytes=self._source.size
        )

    def _version(self) -> int:
        magic = self._source.take(4, "the magic number")
        if magic != MAGIC:
            raise _BadError(f"it begins with {magic!r}, not with {MAGIC!r}")
        (version,) = self._source.unpack("I", "the version")
        if version in _VERSIONS:
            return int(version)
        if version & 0xFFFF == 0 and version >> 24 in (1, *_VERSIONS):
            raise _BadError("it is big-endian, which no ollama on this kind of machine reads")
        raise _BadError(f"it is of version {version}, and only {' and '.join(map(str, _VERSIONS))} are known")

    def _plausible(self, what: str, count: int, most: int, least_bytes: int) -> None:
        if count > most:
            raise _BadError(f"it counts {count} {what}, more than the {most} that any model has")
        if count * least_bytes > self._source.left:
            raise TooShortError(f"it counts {count} {what}, more than its {self._source.size} bytes can hold")

    def _name(self, what: str) -> str:
        (length,) = self._source.unpack("Q", what)
        if not 0 < length <= _LONGEST_KEY:
            raise _BadError(f"{what} has a name of {length} bytes")
        return self._source.take(length, what).decode("utf-8", "replace")

    def _value(self, what: str) -> Value:
        (kind,) = self._source.unpack("I", what)
        if kind == _STRING:
            return self._text(what)
        if kind == _ARRAY:
            return self._array(what, 1)
        form = self._form(kind, what)
        value: Value = self._source.unpack(form, what)[0]
        return value

    def _form(self, kind: int, what: str) -> str:
        form = _FORMS.get(kind)
        if form is None:
            raise _BadError(f"{what} is of the unknown type {kind}")
        return form

    def _text(self, what: str) -> Value:
        (length,) = self._source.unpack("Q", what)
        if length > _LONGEST_TEXT or self._kept + length > _MOST_KEPT:
            self._source.skip(length, what)
            return Skipped(length=length)
        self._kept += length
        return self._source.take(length, what).decode("utf-8", "replace")

    def _array(self, what: str, depth: int) -> Value:
        kind, length = self._source.unpack("IQ", what)
        if kind in (_STRING, _ARRAY):
            self._count(length, what, cost=1 if kind == _STRING else _NESTED)
        if kind == _STRING:
            self._source.skip_texts(length, what)
            return Skipped(length=length)
        if kind == _ARRAY:
            if depth >= _DEEPEST:
                raise _BadError(f"{what} nests arrays more than {_DEEPEST} deep")
            for _ in range(length):
                self._array(what, depth + 1)
            return Skipped(length=length)
        form = self._form(kind, what)
        size = length * struct.calcsize(f"<{form}")
        if length > _LONGEST_ARRAY or depth > 1 or self._kept + size > _MOST_KEPT:
            self._source.skip(size, what)
            return Skipped(length=length)
        self._kept += size
        return self._source.unpack(f"{length}{form}", what)

    def _count(self, length: int, what: str, *, cost: int) -> None:
        if length * 8 > self._source.left:
            raise TooShortError(f"{what} counts {length} elements, more than the file can hold")
        self._elements += length * cost
        if self._elements > _MOST_ELEMENTS:
            raise _BadError(f"its arrays count more than the {_MOST_ELEMENTS} elements that any model has")

    def _tensors(self, count: int) -> tuple[Tensor, ...]:
        found: dict[str, Tensor] = {}
        for number in range(count):
            tensor = self._tensor(f"tensor {number + 1} of {count}")
            if tensor.name in found:
                raise _BadError(f"the tensor {safe_text(tensor.name, limit=80)} is there twice")
            found[tensor.name] = tensor
        return tuple(found.values())

    def _tensor(self, what: str) -> Tensor:
        name = self._name(what)
        what = f"the tensor {safe_text(name, limit=80)}"
        (dimensions,) = self._source.unpack("I", what)
        if dimensions > _MOST_DIMENSIONS:
            raise _BadError(f"{what} has {dimensions} dimensions")
        shape = self._source.unpack(f"{dimensions}Q", what)
        number, offset = self._source.unpack("IQ", what)
        if number not in TYPES:
            raise _BadError(f"{what} is of the unknown type {number}")
        kind, block, block_bytes = TYPES[number]
        elements = 1
        for size in shape:
            elements *= size
        size_bytes = elements // block * block_bytes
        if elements == 0 or size_bytes > _MOST_BYTES or (shape and shape[0] % block):
            raise _BadError(f"{what} has the impossible shape {' x '.join(map(str, shape))}")
        return Tensor(name=name, type=kind, shape=shape, offset=offset, elements=elements, size_bytes=size_bytes)

    def _check_places(self, tensors: tuple[Tensor, ...], start: int, alignment: int) -> None:
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            what = f"the tensor {safe_text(tensor.name, limit=80)}"
            if tensor.offset % alignment or tensor.offset < end:
                raise _BadError(f"{what} is said to begin at {tensor.offset}, which cannot be")
            end = tensor.offset + tensor.size_bytes
            if start + end > self._source.size:
                raise TooShortError(f"{what} would end at {start + end}, and there are {self._source.size} bytes")
