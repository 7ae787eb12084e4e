"""Who is asked by a thread, and who may be asked directly, since it lies on a disk of this machine."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ollamux.system import patience
from ollamux.system.patience import patiently


@pytest.fixture(autouse=True)
def on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the folder of a test lie on a disk, whatever it lies on, and what is called "far" on none."""
    monkeypatch.setattr(patience, "_near", {})
    device = os.lstat(tmp_path).st_dev
    monkeypatch.setattr(patience.os, "major", lambda number: 254 if number == device else 0)


def asked_directly(path: Path) -> bool:
    return patiently(str(path), threading.get_ident, at=(str(path),)) == threading.get_ident()


def test_what_was_seen_on_a_disk_is_asked_directly(tmp_path: Path) -> None:
    (tmp_path / "ollama").touch()

    assert [asked_directly(tmp_path / "ollama") for _ in range(3)] == [False, True, True]
    assert [asked_directly(tmp_path / "not/there") for _ in range(2)] == [False, True]


def test_what_is_on_no_disk_is_asked_by_a_thread_every_time() -> None:
    assert [asked_directly(Path("/proc/self/status")) for _ in range(2)] == [False, False]


def test_a_link_may_lead_anywhere_tomorrow(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to("there")

    assert [asked_directly(tmp_path / "link") for _ in range(2)] == [False, False]

    assert [asked_directly(tmp_path / "there") for _ in range(2)] == [False, True]
    (tmp_path / "there").unlink()
    (tmp_path / "there").symlink_to("elsewhere")
    assert not asked_directly(tmp_path / "there")


def test_where_no_path_is_known_a_thread_asks() -> None:
    assert [patiently("names", threading.get_ident) == threading.get_ident() for _ in range(2)] == [False, False]


def test_what_is_raised_is_raised_to_whoever_asked(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            patiently("nothing", lambda: os.stat(tmp_path / "nothing"), at=(str(tmp_path),))
