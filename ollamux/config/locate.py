"""Where each key and value of a TOML text stands. The parser of the standard library gives no positions.

A second reading that only finds places: whether the text is valid TOML is decided elsewhere, and where it is not,
everything up to the place that cannot be read is still found.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field

KeyPath = tuple[str | int, ...]
DEEPEST = 32

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[^\s\[\]{}=.,#\"']+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]+|[^\s,\]}#]+")


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the text, by offsets."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one line; lines and columns count from 1, `end_column` is the first one after it."""

    line: int
    column: int
    end_column: int


@dataclass(slots=True)
class Places:
    """All that was found. `repeats` are keys that were set twice, `lost_in` the value that could not be read."""

    text: str
    keys: dict[KeyPath, Span] = field(default_factory=dict)
    values: dict[KeyPath, Span] = field(default_factory=dict)
    repeats: list[tuple[KeyPath, Span, Span]] = field(default_factory=list)
    lost_in: tuple[KeyPath, int] | None = None
    _implied: dict[KeyPath, Span] = field(default_factory=dict)
    _lines: list[int] = field(default_factory=list)

    def key(self, path: KeyPath) -> Place | None:
        """Return the place of a key, else of the nearest table or list that it would be in."""
        for end in range(len(path), 0, -1):
            span = self.keys.get(path[:end]) or self._implied.get(path[:end]) or self.values.get(path[:end])
            if span is not None:
                return self.place(span)
        return None

    def value(self, path: KeyPath) -> Place | None:
        """Return the place of a value, else of its key or table."""
        span = self.values.get(path)
        return self.key(path) if span is None else self.place(span)

    def place(self, span: Span) -> Place:
        """Turn offsets into a line and columns; of several lines the first counts."""
        if not self._lines:
            self._lines = [0, *(match.end() for match in re.finditer("\n", self.text))]
        line = bisect_right(self._lines, span.start)
        begin = self._lines[line - 1]
        first_line = self.text[span.start : span.end].partition("\n")[0].rstrip("\r")
        column = span.start - begin + 1
        return Place(line, column, max(column + len(first_line), column + 1))

    def name(self, path: KeyPath, span: Span) -> None:
        """Note where a key is spelled out."""
        if path in self.keys:
            self.repeats.append((path, self.keys[path], span))
        else:
            self.keys[path] = span

    def imply(self, path: KeyPath, span: Span) -> None:
        """Note where a table comes into being on the way to a key in it."""
        self._implied.setdefault(path, span)


class _LostError(Exception):
    """This is no TOML that we can follow."""


def locate(text: str) -> Places:
    """Find every key and value of a TOML text."""
    scanner = _Scanner(text)
    try:
        scanner.document()
    except _LostError:
        scanner.places.lost_in = scanner.current
    return scanner.places


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places = Places(text)
        self.current: tuple[KeyPath, int] | None = None
        self._lists: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table, 0)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        start = self.at
        self.current = None
        double = self.text.startswith("[[", start)
        self.at += 2 if double else 1
        parts = self._dotted()
        self._expect("]]" if double else "]")
        path: KeyPath = ()
        for name, span in parts[:-1]:
            path = self._newest((*path, name))
            self.places.imply(path, span)
        name, span = parts[-1]
        path = (*path, name)
        if double:
            self._lists[path] = number = self._lists.get(path, -1) + 1
            self.places.imply(path, span)
            path = (*path, number)
        elif path in self._lists:
            path = self._newest(path)
        self.places.name(path, span)
        return path

    def _newest(self, path: KeyPath) -> KeyPath:
        return (*path, self._lists[path]) if path in self._lists else path

    def _pair(self, table: KeyPath, depth: int) -> None:
        parts = self._dotted()
        self._expect("=")
        path = table
        for name, span in parts[:-1]:
            path = (*path, name)
            self.places.imply(path, span)
        name, span = parts[-1]
        path = (*path, name)
        self.places.name(path, span)
        self._value(path, depth)

    def _dotted(self) -> list[tuple[str, Span]]:
        parts = [self._part()]
        while self.text.startswith(".", self._skip(_SPACE)):
            self.at += 1
            parts.append(self._part())
        return parts

    def _part(self) -> tuple[str, Span]:
        start = self._skip(_SPACE)
        if self.text.startswith(('"', "'"), start):
            raw = self._take(_STRING)
            try:
                name = raw[1:-1] if raw[0] == "'" else str(tomllib.loads(f"k={raw}")["k"])
            except tomllib.TOMLDecodeError as error:
                raise _LostError from error
        else:
            name = self._take(_BARE_KEY)
        return name, Span(start, self.at)

    def _value(self, path: KeyPath, depth: int) -> None:
        start = self._skip(_SPACE)
        self.current = (path, start)
        first = self.text[start : start + 1]
        if depth > DEEPEST:
            raise _LostError
        if first == "[":
            self._list(path, depth + 1)
        elif first == "{":
            self._inline(path, depth + 1)
        else:
            self._take(_STRING if first in ("'", '"') and first else _SCALAR)
        self.places.values[path] = Span(start, self.at)

    def _list(self, path: KeyPath, depth: int) -> None:
        self.at += 1
        number = 0
        while not self.text.startswith("]", self._skip(_BLANK)):
            self._value((*path, number), depth)
            number += 1
            if self.text.startswith(",", self._skip(_BLANK)):
                self.at += 1
            elif not self.text.startswith("]", self.at):
                raise _LostError
        self.at += 1

    def _inline(self, path: KeyPath, depth: int) -> None:
        self.at += 1
        while not self.text.startswith("}", self._skip(_BLANK)):
            self._pair(path, depth)
            if self.text.startswith(",", self._skip(_BLANK)):
                self.at += 1
            elif not self.text.startswith("}", self.at):
                raise _LostError
        self.at += 1

    def _skip(self, blank: re.Pattern[str]) -> int:
        match = blank.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None or not match[0]:
            raise _LostError
        self.at = match.end()
        return match[0]

    def _expect(self, mark: str) -> None:
        if not self.text.startswith(mark, self._skip(_SPACE)):
            raise _LostError
        self.at += len(mark)
