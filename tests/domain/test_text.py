"""Durations and sizes read back as written, nothing lax is read, and no text from outside reaches a terminal raw."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.domain.text import (
    LARGEST_BYTES,
    LONGEST_S,
    exact_duration,
    exact_size,
    format_duration,
    format_gib,
    format_size,
    parse_duration,
    parse_size,
    safe_text,
)

ESC = "\x1b"
steady = settings(derandomize=True, deadline=None, database=None, max_examples=200)

# Format characters that are drawn, as a part of the number or word they stand before.
DRAWN_FORMAT = {
    *range(0x0600, 0x0606),
    0x06DD,
    0x070F,
    0x0890,
    0x0891,
    0x08E2,
    0x110BD,
    0x110CD,
    *range(0x13430, 0x13440),
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0), ("250ms", 0.25), ("30s", 30.0), ("5m", 300.0), ("2h", 7200.0), ("8760h", LONGEST_S),
        ("007s", 7.0), ("000000000001s", 1.0),
    ],
)  # fmt: skip
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "", "10", "s", "ms", "10 minutes", "10min", "-5s", "+5s", " 5s", "5s ", "5 s", "5s\n", "1e3s", "1.5s", "1_000s",
        "0x10s", "٣s", "５s", "²s", "5S", "5M", "5H", "5d", "1h30m", "1m ", "infs", "nans", "1e400s",
        "8761h", "9" * 12 + "h", "0" * 12 + "1s", "9" * 5000 + "s",
    ],
)  # fmt: skip
def test_C20_what_only_looks_like_a_duration_is_refused(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0KB", 0), ("1KiB", 1024), ("1.5GiB", 3 << 29), ("20MiB", 20 << 20), ("2GB", 2 * 10**9), ("0.5MB", 500_000),
        ("1.001KB", 1001), ("0.57MB", 570_000), ("1048576GiB", LARGEST_BYTES),
    ],
)  # fmt: skip
def test_sizes_are_read_to_the_byte(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "", "10", "GiB", "-1GiB", "+1GiB", "1e3MiB", "1.GiB", ".5GiB", "1.5.2GiB", "1,5GiB", "1_0GiB", "1 0GiB", "٣GiB",
        "５GiB", "1gib", "1G", "1GiB ", "1GiB\n", "1B", "infGiB", "nanGiB", "0x1GiB", "1048577GiB", "9" * 16 + "KiB",
        "1." + "1" * 16 + "KiB",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_size_is_refused(text: str) -> None:
    assert parse_size(text) is None


@steady
@given(st.integers(0, int(LONGEST_S) * 1000))
def test_an_exact_duration_reads_back(milliseconds: int) -> None:
    read = parse_duration(exact_duration(milliseconds / 1000))
    assert read is not None
    assert round(read * 1000) == milliseconds
    assert parse_duration(exact_duration(read)) == read


@steady
@given(st.integers(0, LARGEST_BYTES) | st.integers(0, 1 << 20).map(lambda n: n << 30) | st.integers(0, 5000))
def test_an_exact_size_reads_back(size: int) -> None:
    assert parse_size(exact_size(size)) == size


@steady
@given(st.text())
def test_no_text_at_all_makes_the_readers_fail(text: str) -> None:
    for unit in ("", "s", "GiB"):
        parse_duration(text + unit)
        parse_size(text + unit)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (0.25, "250ms"), (90, "90s"), (300, "5m"), (7200, "2h"), (1.5, "1500ms"), (86400, "24h")],
)
def test_durations_are_written_in_the_largest_exact_unit(value: float, text: str) -> None:
    assert exact_duration(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"), (0, "0 s"), (0.04, "0 s"), (0.42, "0.4 s"), (3, "3 s"), (9.9, "9.9 s"), (9.96, "10 s"),
        (59.4, "59 s"), (59.6, "1 min"), (60, "1 min"), (185, "3 min 5 s"), (3599.7, "1 h"), (3600, "1 h"),
        (10925, "3 h 2 min"), (86400, "1 d"), (273600, "3 d 4 h"), (86400 + 59 * 60, "1 d"), (400 * 86400, "400 d"),
    ],
)  # fmt: skip
def test_durations_for_people_have_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (150 << 10, "150 KiB"), (1536 << 10, "1.5 MiB"),
        (19541262336, "18.2 GiB"), (1 << 40, "1024.0 GiB"),
    ],
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


def test_an_unknown_size_is_a_dash_and_never_zero() -> None:
    assert format_gib(None) == "–"
    assert format_gib(0) == "0.0"
    assert format_gib(25769803776) == "24.0"


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_S8_every_control_byte_is_made_visible(code: int) -> None:
    assert safe_text(f"a{chr(code)}b") == f"a\\x{code:02x}b"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (f"{ESC}]0;owned\x07", "\\x1b]0;owned\\x07"),
        (f"{ESC}[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("two\nlines", "two\\x0alines"),
        ("gpu\u202e0upg", "gpu\\u202e0upg"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("qw\u200ben", "qw\\u200ben"),
        ("\ufeffqwen", "\\ufeffqwen"),
        ("a\u2028b", "a\\u2028b"),
        ("soft\u00adhyphen", "soft\\u00adhyphen"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("half\udce9", "half\\udce9"),
        ("hf.co/x[q4] [/bold]", "hf.co/x[q4] [/bold]"),
        ("größe 模型 🦙", "größe 模型 🦙"),
    ],
)
def test_S8_what_a_terminal_would_obey_or_hide_is_written_out(text: str, safe: str) -> None:
    assert safe_text(text) == safe


def test_S8_no_control_format_or_surrogate_character_of_all_of_unicode_passes() -> None:
    passed = {
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and safe_text(chr(code)) == chr(code)
    }
    assert passed <= DRAWN_FORMAT, sorted(map(hex, passed - DRAWN_FORMAT))


@steady
@given(st.text())
def test_safe_text_is_safe_already(text: str) -> None:
    safe = safe_text(text)
    assert safe_text(safe) == safe
    safe.encode()


@steady
@given(st.text(), st.integers(0, 40))
def test_a_limit_is_kept_to_the_character(text: str, limit: int) -> None:
    whole, cut = safe_text(text), safe_text(text, limit=limit)
    assert len(cut) <= limit
    assert cut == whole if len(whole) <= limit else cut == (whole[: max(limit - 1, 0)] + "…")[:limit]
    assert safe_text(cut, limit=limit) == cut
