"""Wrong configurations, each with exactly the text that a person reads.

After a deliberate change of words: python tests/config/test_config_wrong.py, and read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ollamux.config.load import ConfigInvalid, parse

WRONG = sorted((Path(__file__).parent / "wrong").glob("*.toml"))


def told(path: Path) -> str:
    """Return what a wrong file prints, on a machine where ports from 1024 up are open."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(path.read_bytes(), "ollamux.toml", open_port=1024)
    return caught.value.message + "\n"


def test_there_are_enough_of_them() -> None:
    assert len(WRONG) >= 30


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_wrong_configuration_is_told_exactly(path: Path) -> None:
    assert told(path) == path.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_nothing_told_is_wide_unsafe_or_secret(path: Path) -> None:
    text = told(path)
    assert all(line.isprintable() and len(line) <= 140 for line in text.splitlines())
    assert not any(secret in text for secret in ("hf_abcdef", "geheim", "4711"))
    assert text.endswith(("problem. Nothing was changed.\n", "problems. Nothing was changed.\n"))


if __name__ == "__main__":
    for each in WRONG:
        each.with_suffix(".txt").write_text(told(each), encoding="utf-8")
