"""What is wrong with a text that is no TOML, in words that a person at night understands. Judges no key."""

from __future__ import annotations

import re

from ollamux.config.findings import dotted
from ollamux.config.locate import Place, Span, locate
from ollamux.config.problems import Problem

LABEL = "not valid TOML"
_AT = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
_QUOTES = 'text stands in quotes, as in host = "127.0.0.1"'
# What the parser says: what we say, and the way out.
_SAID: dict[str, tuple[str, str | None]] = {
    "Expected '=' after a key in a key/value pair": ('"=" is missing after the key', "write key = value"),
    "Expected newline or end of document after a statement": ("the line should end here", _QUOTES),
    "Illegal character '\\n'": ("the quote is not closed on its line", None),
    "Unterminated string": ("the quote is not closed", None),
    "Expected \"'''\"": ("the quote ''' is not closed", None),
    "Unclosed array": ('the list before this is not closed with "]"', "between two entries stands a comma"),
    "Unclosed inline table": ('the table before this is not closed with "}"', "it has to stay on one line"),
    "Invalid initial character for a key part": ("a key is missing here", None),
    "Unescaped '\\' in a string": ("a backslash in double quotes must be doubled", "or use single quotes"),
    "Escaped character is not a Unicode scalar value": ("this is no character of Unicode", None),
    "Invalid hex value": ("this is no character of Unicode", None),
    "Expected ']' at the end of a table declaration": ('the heading is not closed with "]"', None),
    "Expected ']]' at the end of an array declaration": ('the heading is not closed with "]]"', None),
    "Invalid statement": ("this is neither a key, a [heading] nor a # comment", None),
    "Invalid date or datetime": ("there is no such date", _QUOTES),
}


def explain(error: ValueError, text: str) -> Problem:
    """Turn what the parser says into a problem with its place."""
    match = _AT.fullmatch(str(error))
    if match is None:
        return _unplaced(text)
    repeated = _repeated(match["what"], text)
    if repeated is not None:
        return repeated
    lines = text.split("\n")
    if match["line"] is None:
        line, column = len(lines), len(lines[-1]) + 1
        while line > 1 and not lines[line - 1].strip():
            line, column = line - 1, len(lines[line - 2].rstrip("\r")) + 1
    else:
        line, column = int(match["line"]), int(match["column"])
    rest = lines[line - 1][column - 1 :]
    message, hint = _words(match["what"], rest)
    if text.lstrip().startswith("{"):
        message, hint = "this looks like JSON; the file has to be TOML", "ollamux init --stdout shows one"
    return _problem(Place(line, column, column + 1), message, hint)


def _words(what: str, rest: str) -> tuple[str, str | None]:
    if what.startswith("Invalid initial character") and not rest.strip():
        return "a table in { } has to stay on its line", "for several lines use a [heading] of its own"
    if what == "Invalid value":
        return _invalid_value(rest.strip())
    if what.startswith("Expected '=' after a key") and rest.lstrip().startswith(":"):
        return '"=" belongs here, not ":"', "write key = value"
    said = _SAID.get(what.replace('"', "'")) or _SAID.get(what)
    if said is not None:
        return said
    if what.startswith(("Found invalid character", "Illegal character")):
        return "this character may not stand here", None
    return what[:1].lower() + what[1:], None


def _invalid_value(rest: str) -> tuple[str, str | None]:
    if not rest or rest.startswith("#"):
        return "the value is missing", None
    word = re.split(r"[\s,\]}#]", rest)[0]
    if word in ("True", "False"):
        return "this is no value", f"write {word.lower()}"
    if word.lower() in ("yes", "no", "on", "off"):
        return "this is no value", "write true or false"
    if word.lower() in ("none", "null", "nil"):
        return "this is no value", "for no value leave the key out"
    return "this is no value", _QUOTES


def _repeated(what: str, text: str) -> Problem | None:
    if not what.startswith(("Cannot overwrite", "Cannot declare", "Cannot mutate", "Duplicate inline")):
        return None
    places = locate(text)
    if not places.repeats:
        return None
    path, first, again = places.repeats[0]
    line = places.place(first).line
    if path in places.values:
        return _problem(places.place(again), f"{dotted(path)} is already set in line {line}", "keep one of the two")
    heading = f"the table {dotted(path)} is already begun in line {line}"
    return _problem(places.place(again), heading, "put its keys together under one heading")


def _unplaced(text: str) -> Problem:
    """A number beyond what Python converts is the only mistake that comes without a place."""
    digits = re.search(r"[0-9_]{4000,}", text)
    span = Span(*digits.span()) if digits else Span(0, 1)
    return _problem(locate(text).place(span), "this number is too large", None)


def _problem(place: Place, message: str, hint: str | None) -> Problem:
    return Problem(
        line=place.line,
        column=place.column,
        end_column=place.end_column,
        path=LABEL,
        message=message,
        hint=hint,
    )
