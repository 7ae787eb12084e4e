"""What terminals send, and what it means: whole, in pieces, and what nobody knows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.cli.keys import keys


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (b"q", ["q"]),
        (b"rY?", ["r", "Y", "?"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA\x1bOB", ["up", "down"]),
        (b"\x1b[5~\x1b[6~", ["page-up", "page-down"]),
        (b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1bOH", ["home", "end", "home", "end", "home"]),
        (b"\n\r", ["enter", "enter"]),
        (b"\x7f\x08\x15", ["backspace", "backspace", "ctrl-u"]),
        ("ä通🙂".encode(), ["ä", "通", "🙂"]),
        (b"\x1b[1;5A", ["unknown key"]),
        (b"\x1b[200~x", ["unknown key", "x"]),
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"\x1bq", ["escape", "q"]),
        (b"\x01\x00", ["unknown key", "unknown key"]),
        (b"\xff\xfe", ["�", "�"]),
        (b"", []),
    ],
)
def test_what_is_sent_is_understood(sent: bytes, meant: list[str]) -> None:
    found, rest = keys(sent)
    last, left = keys(rest, whole=True)
    assert (found + last, left) == (meant, b"")


@pytest.mark.parametrize("sent", [b"\x1b", b"\x1b[", b"\x1b[5", "通".encode()[:2]])
def test_the_beginning_of_a_longer_key_waits_for_its_rest(sent: bytes) -> None:
    assert keys(sent) == ([], sent)
    assert keys(sent, whole=True)[1] == b""


@settings(derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=40), st.integers(0, 40))
def test_anything_at_all_comes_to_an_end(sent: bytes, cut: int) -> None:
    first, rest = keys(sent[:cut])
    second, rest = keys(rest + sent[cut:])
    third, left = keys(rest, whole=True)
    assert left == b""
    assert all(key.isprintable() or len(key) == 1 for key in (*first, *second, *third))
