"""Keys and values are found where they stand, however the file is written."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from ollamux.config.locate import KeyPath, Places, locate

from .config_values import REPEATABLE, documents


def leaves(value: Any, path: KeyPath = ()) -> list[tuple[KeyPath, Any]]:
    """Return every value within tables and lists, with its path."""
    if isinstance(value, dict) and value:
        return [leaf for key, each in value.items() for leaf in leaves(each, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for number, each in enumerate(value) for leaf in leaves(each, (*path, number))]
    return [(path, value)]


@REPEATABLE
@given(document=documents, crlf=st.booleans())
def test_every_value_of_a_written_document_is_found(document: dict[str, Any], crlf: bool) -> None:
    text = tomli_w.dumps(document)
    if crlf:
        text = text.replace("\n", "\r\n")
    written = tomllib.loads(text)
    places = locate(text)
    assert places.lost_in is None
    assert not places.repeats
    for path, value in leaves(written):
        if not path or value == {}:
            continue  # an empty table has a heading and no value
        span = places.values[path]
        assert tomllib.loads(f"x = {text[span.start : span.end]}")["x"] == value
        if isinstance(path[-1], str):
            name = places.keys[path]
            assert tomllib.loads(f"{text[name.start : name.end]} = 1") == {path[-1]: 1}


WRITTEN = '''# a comment with [brackets] = "and more"
version = 1 # one
a.b . "c d" = 'literal # no comment'
[instances.gpu0] # = x
gpus = [ 0, # first
  "x]", ["]", {k = "}"}],
]
env = { A = "1", "B.C" = { d = 2 } }
text = """
[not.a.heading]
key = "no key" \\""" """
health.interval = "5s"
[instances."gpu 1".health]
timeout = 1979-05-27 07:32:00
[[list]]
x = 1
[[list]]
x = 2
[list.sub]
y = 3
'''


@pytest.mark.parametrize(
    ("path", "line", "column", "end"),
    [
        (("version",), 2, 11, 12),
        (("a", "b", "c d"), 3, 15, 37),
        (("instances", "gpu0", "gpus", 0), 5, 10, 11),
        (("instances", "gpu0", "gpus", 1), 6, 3, 7),
        (("instances", "gpu0", "gpus", 2, 1, "k"), 6, 20, 23),
        (("instances", "gpu0", "env", "B.C", "d"), 8, 32, 33),
        (("instances", "gpu0", "text"), 9, 8, 11),
        (("instances", "gpu0", "health", "interval"), 12, 19, 23),
        (("instances", "gpu 1", "health", "timeout"), 14, 11, 30),
        (("list", 0, "x"), 16, 5, 6),
        (("list", 1, "x"), 18, 5, 6),
        (("list", 1, "sub", "y"), 20, 5, 6),
        # What is not there is told at the table it would be in.
        (("instances", "gpu0", "port"), 4, 12, 16),
        (("instances", "gpu 1", "health", "failures"), 13, 20, 26),
        (("instances", "gpu 1", "port"), 13, 12, 19),
    ],
)
def test_value_is_found(path: KeyPath, line: int, column: int, end: int) -> None:
    place = locate(WRITTEN).value(path)
    assert place is not None
    assert (place.line, place.column, place.end_column) == (line, column, end)


def test_keys_are_found() -> None:
    places = locate(WRITTEN)
    found = {path: places.key(path) for path in [("a", "b", "c d"), ("instances", "gpu0"), ("list", 1)]}
    assert [(each.line, each.column) for each in found.values() if each] == [(3, 7), (4, 12), (17, 3)]
    assert places.key(("nowhere",)) is None


def test_what_was_set_twice_is_known() -> None:
    assert [path for path, _, _ in locate("a = 1\n[t]\nb = 1\nb = 2\n[t]\n").repeats] == [("t", "b"), ("t",)]


@REPEATABLE
@given(text=st.text(st.sampled_from("ab=.[]{}\"'\\#,\n \r\t1é"), max_size=40))
def test_no_text_is_too_broken_to_be_read(text: str) -> None:
    places = locate(text)
    assert isinstance(places, Places)
    for span in (*places.keys.values(), *places.values.values()):
        assert places.place(span).line >= 1


def test_depth_ends_the_search_and_not_the_program() -> None:
    assert locate("x = " + "[" * 5000).lost_in is not None
    assert locate("x = " + "{a=" * 5000).lost_in is not None
