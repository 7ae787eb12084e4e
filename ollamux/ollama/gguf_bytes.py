"""The bytes of a file from its start, in pieces, and never more than asked for. It knows nothing of models."""

from __future__ import annotations

import os
import struct
from typing import Any

_PIECE = 256 * 1024
_LENGTH = struct.Struct("<Q")


class TooShortError(Exception):
    """The file ends before something that it says it holds."""


class Bytes:
    """A place in a file that only moves on. What is asked for is compared with what is left before it is read."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._descriptor = descriptor
        self._piece = b""
        self._piece_at = 0
        self._offset = 0

    @property
    def position(self) -> int:
        """Return how many bytes were taken or stepped over."""
        return self._piece_at + self._offset

    @property
    def left(self) -> int:
        """Return how many bytes follow."""
        return self.size - self.position

    def take(self, length: int, what: str) -> bytes:
        """Return the next bytes."""
        self._hold(length, what)
        start = self._offset
        self._offset += length
        return self._piece[start : self._offset]

    def unpack(self, form: str, what: str) -> tuple[Any, ...]:
        """Return the next values, as `struct` names them."""
        form = f"<{form}"
        return struct.unpack(form, self.take(struct.calcsize(form), what))

    def skip(self, length: int, what: str) -> None:
        """Step over bytes, without reading them."""
        self._check(length, what)
        if self._offset + length <= len(self._piece):
            self._offset += length
        else:
            self._piece_at, self._piece, self._offset = self.position + length, b"", 0

    def skip_texts(self, count: int, what: str) -> None:
        """Step over so many texts, each behind its length."""
        done = 0
        while done < count:
            self._hold(8, what)
            piece, offset = self._piece, self._offset
            last = len(piece) - 8
            # The loop that a vocabulary of 150,000 tokens goes through: nothing in it but what must be.
            while done < count and offset <= last:
                (length,) = _LENGTH.unpack_from(piece, offset)
                offset += 8 + length
                done += 1
            over = offset - len(piece)
            self._offset = min(offset, len(piece))
            if over > 0:
                self.skip(over, what)

    def _check(self, length: int, what: str) -> None:
        if length > self.left:
            raise TooShortError(f"{what} needs {length} bytes more, and {self.left} are left")

    def _hold(self, length: int, what: str) -> None:
        self._check(length, what)
        if self._offset + length <= len(self._piece):
            return
        at = self.position
        wanted = max(length, min(_PIECE, self.left))
        piece = os.pread(self._descriptor, wanted, at)
        while len(piece) < length:
            more = os.pread(self._descriptor, wanted - len(piece), at + len(piece))
            if not more:
                raise TooShortError(f"{what} could not be read: the file became shorter")
            piece += more
        self._piece, self._piece_at, self._offset = piece, at, 0
