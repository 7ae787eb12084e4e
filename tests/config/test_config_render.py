"""What is printed under a problem is in the right place, safe, and free of secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.config.excerpt import WIDEST, Excerpts
from ollamux.config.load import ConfigInvalid, parse
from ollamux.config.problems import Problem, render

from .config_values import REPEATABLE

SECRET = "s3cr3t0123"


def test_the_look() -> None:
    source = "version = 1\n\n\n\n\nprot = 11434\n\n\n\n\nport = 99999\n"
    problems = [
        Problem(line=11, column=8, end_column=13, path="instances.gpu1.port", message="must be between 1 and 65535"),
        Problem(
            line=6,
            column=1,
            end_column=5,
            path="instances.gpu0.prot",
            message="unknown key",
            hint='did you mean "port"?',
        ),
    ]
    expected = """\
ollamux.toml:6:1   instances.gpu0.prot
    6 | prot = 11434
      | ^^^^ unknown key; did you mean "port"?
ollamux.toml:11:8  instances.gpu1.port
   11 | port = 99999
      |        ^^^^^ must be between 1 and 65535"""
    assert render(problems, "ollamux.toml", source, count_line=False) == expected
    assert render(problems * 2, "ollamux.toml", source) == f"{expected}\n2 problems. Nothing was changed."


def test_S8_names_and_words_from_outside_are_made_safe() -> None:
    problem = Problem(line=1, column=1, end_column=9, path="x", message="is \x1b[31m", hint="\u202eno")
    text = render([problem], "a\x1b.toml\n", "x = \x1b]0;\x07\u202e\r\n")
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    ("line", "column", "end", "shown", "caret", "width"),
    [
        ("port = 1", 8, 9, "port = 1", 7, 1),
        ("\tport = 1", 9, 10, "    port = 1", 11, 1),
        ("日本 = 1", 6, 7, "日本 = 1", 7, 1),
        ("日本 = 1", 1, 3, "日本 = 1", 0, 4),
        ("e\u0301 = 1", 6, 7, "e\u0301 = 1", 4, 1),
        ("x\x1b = 1", 6, 7, "x\\x1b = 1", 8, 1),
        ("x", 9, 12, "x", 1, 1),
        ("", 1, 2, "", 0, 1),
        ('A_KEY = "abc" # x', 9, 14, "A_KEY = *** # x", 8, 3),
        ("HF_TOKEN: abc", 9, 10, "HF_TOKEN: ***", 8, 1),
        ('u = "http://me:pw@x"', 5, 21, "u = ***", 4, 3),
        ('# u = "http://me:pw@x"', 1, 2, '# u = "http://***@x"', 0, 1),
    ],
)
def test_the_caret_is_under_what_is_meant(line: str, column: int, end: int, shown: str, caret: int, width: int) -> None:
    excerpt = Excerpts(line).of(1, column, end)
    assert (excerpt.text, excerpt.caret, excerpt.width) == (shown, caret, width)


@REPEATABLE
@given(before=st.integers(0, 400), after=st.integers(0, 400), width=st.integers(1, 150))
def test_a_long_line_is_cropped_around_the_caret(before: int, after: int, width: int) -> None:
    line = "b" * before + "X" * width + "a" * after
    excerpt = Excerpts(line).of(1, before + 1, before + 1 + width)
    assert len(excerpt.text) <= WIDEST
    marked = excerpt.text[excerpt.caret : excerpt.caret + excerpt.width]
    assert set(marked) <= {"X", "…"} and marked.startswith("X")


@pytest.mark.parametrize(
    "text",
    [
        f'HF_TOKEN = "{SECRET}"\n',
        f'[env]\nHF_TOKEN = """\n{SECRET}\n"""\nHF_TOKEN = 1\n',
        f'[env]\nHF_TOKEN = """\n{SECRET}\n\x01"""\n',
        f"[env]\nHF_TOKEN = '''\n{SECRET}\n",
        f"[env]\nHF_TOKEN = {SECRET}\n",
        f"[env]\nHF_TOKEN = {SECRET} more {SECRET}\n",
        f'[env]\nHF_TOKEN = ["{SECRET}",\n"{SECRET}"\n',
        f'[env]\n"HF_TOKEN" = "{SECRET}\\q"\n',
        f'env = {{ HF_TOKEN = "{SECRET}", A = 1, A = 2 }}\n',
        f'env = {{ HF_TOKEN = {{ a = "{SECRET}" }} }}\n',
        f'[env]\nA = "http://me:{SECRET}@host/"\nA = 1\n',
        f'env = ["HF_TOKEN={SECRET}"]\n',
        f'HF_TOKEN: "{SECRET}"\n',
        f'version = 2 # HF_TOKEN = "{SECRET}"\n',
        f"export HF_TOKEN={SECRET}\n",
        f'[HF_TOKEN]\nvalue = "{SECRET}"\n',
    ],
)
def test_C24_secrets_are_not_printed(text: str) -> None:
    for start in ("", "version = 1\n[instances.gpu0]\n"):
        with pytest.raises(ConfigInvalid) as caught:
            parse((start + text).encode(), "ollamux.toml", open_port=1024)
        assert SECRET not in caught.value.message


def test_the_text_of_every_line_is_found(tmp_path: Path) -> None:
    excerpts = Excerpts("a\r\nb\r\n")
    assert [excerpts.of(number, 1, 2).text for number in (1, 2, 3, 9)] == ["a", "b", "", ""]
