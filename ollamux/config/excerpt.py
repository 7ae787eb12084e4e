"""One line of the file as it may be shown under a problem: safe, without secrets, with the caret in the right place."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from ollamux.config.locate import KeyPath, Places, Span, locate
from ollamux.domain.secrets import MASK, is_secret, mask
from ollamux.domain.text import safe_text

WIDEST = 100
_TAB = "    "
_BEFORE_CARET = 40
# For lines that are not valid TOML, and for comments: what looks like NAME = value, the name telling of a secret.
_SETTING = re.compile(
    r"""(?<![\w.-])[\w.-]{0,64}?(?:key|token|secret|pass|credential|auth|bearer|cookie|_pwd)[\w.-]{0,64}["']?\s{0,9}[=:]\s*"""
    r"""(?P<value>"(?:\\.|[^"\\\n])*"?|'[^'\n]*'?|[^\s#,}\]]+[^\n#,}\]]*)""",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)[^\s\"']*(?=@)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """A line to print, and where on it the carets go: columns from 0."""

    text: str
    caret: int
    width: int


class Excerpts:
    """The lines of one file, with its secrets known."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._secrets: dict[int, list[tuple[int, int]]] = {}
        self._drawn: dict[int, tuple[str, str, list[int]]] = {}
        places = locate(source)
        for span in _secret_spans(places):
            self._hide(places, span)

    def of(self, line: int, column: int, end_column: int) -> Excerpt:
        """Return the line as it may be shown, with the carets under the columns given."""
        text, shown, starts = self._draw(line)
        first = starts[min(column - 1, len(text))]
        last = starts[min(max(end_column - 1, column), len(text))]
        return _cropped(shown, first, max(_width(shown[first:last]), 1))

    def _draw(self, line: int) -> tuple[str, str, list[int]]:
        if line not in self._drawn:
            text = self._lines[line - 1].rstrip("\r") if line <= len(self._lines) else ""
            hidden = [*self._secrets.get(line, ()), *_by_looks(text)]
            self._drawn[line] = (text, *_shown(text, hidden))
        return self._drawn[line]

    def _hide(self, places: Places, span: Span) -> None:
        offset = span.start
        for piece in places.text[span.start : span.end].split("\n"):
            place = places.place(Span(offset, offset + max(len(piece), 1)))
            self._secrets.setdefault(place.line, []).append((place.column - 1, place.column - 1 + len(piece)))
            offset += len(piece) + 1


def _secret_spans(places: Places) -> list[Span]:
    """Find values that are never shown; where the text broke off within one, all that follows."""
    spans = [
        span
        for path, span in places.values.items()
        if (any(map(is_secret, _names(path))) or _shows_password(path, places.text[span.start : span.end]))
        and not places.text.startswith(("[", "{"), span.start)
    ]
    if places.lost_in is not None:
        path, start = places.lost_in
        if any(map(is_secret, _names(path))):
            spans.append(Span(start, len(places.text)))
    return spans


def _names(path: KeyPath) -> list[str]:
    """Return the keys of a path, without what an instance is called."""
    return [part for part in (path[2:] if path[0] == "instances" else path) if isinstance(part, str)]


def _shows_password(path: KeyPath, value: str) -> bool:
    return "://" in value and mask(str(path[-1]), value) != value


def _by_looks(text: str) -> list[tuple[int, int]]:
    settings = [match.span("value") for match in _SETTING.finditer(text)]
    return settings + [match.span() for match in _USER_INFO.finditer(text)]


def _shown(text: str, hidden: list[tuple[int, int]]) -> tuple[str, list[int]]:
    """Return the text to print, and for each character of the original where it begins in it."""
    shown: list[str] = []
    starts: list[int] = []
    length = 0
    secret = bytearray(len(text))
    for start, end in hidden:
        secret[start:end] = bytes([1]) * len(secret[start:end])
    for index, character in enumerate(text):
        if secret[index]:
            piece = "" if index and secret[index - 1] else MASK
        else:
            piece = _TAB if character == "\t" else safe_text(character)
        starts.append(length)
        shown.append(piece)
        length += len(piece)
    return "".join(shown), [*starts, length]


def _cropped(shown: str, first: int, width: int) -> Excerpt:
    begin = 0
    if len(shown) > WIDEST and first > WIDEST - _BEFORE_CARET:
        begin = first - _BEFORE_CARET
        shown = "…" + shown[begin + 1 :]
    if len(shown) > WIDEST:
        shown = shown[: WIDEST - 1] + "…"
    caret = _width(shown[: first - begin])
    return Excerpt(text=shown, caret=caret, width=max(min(width, _width(shown) - caret), 1))


def _width(text: str) -> int:
    """Count the columns that a terminal gives a text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )
