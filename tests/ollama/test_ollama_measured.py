"""The file of measurements: what is written is read, and whatever else is found there is told, and no error."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollamux.domain.calibration import MOST_LOADS, MeasuredLoad, Share
from ollamux.ollama import measured

SHARE = Share(uuid="GPU-1", name="Karte ü", total_bytes=5, weights_bytes=1, kv_bytes=2, state_bytes=0, compute_bytes=3)
LOAD = MeasuredLoad(
    model="m:latest",
    digest="d",
    version="0.32.15",
    context_length=8192,
    parallel=2,
    kv_type="f16",
    flash_attention=True,
    batch=1024,
    offloaded=None,
    host_bytes=0,
    ps_bytes=6,
    shares=(SHARE, SHARE),
    time="2026-01-31T12:00:00Z",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert measured.read(str(tmp_path)) == ((), None)
    measured.write(str(tmp_path), [LOAD] * 3)
    assert measured.read(str(tmp_path)) == ((LOAD,) * 3, None)
    assert os.stat(tmp_path / "measured.json").st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["measured.json"]


def test_keys_of_a_later_version_are_passed_over_and_no_more_are_read_than_are_kept(tmp_path: Path) -> None:
    measured.write(str(tmp_path), [LOAD] * (MOST_LOADS + 5))
    plain = json.loads((tmp_path / "measured.json").read_text())
    plain["more"] = plain["loads"][0]["more"] = plain["loads"][0]["shares"][0]["more"] = {"x": 1}
    (tmp_path / "measured.json").write_text(json.dumps(plain))
    assert measured.read(str(tmp_path)) == ((LOAD,) * MOST_LOADS, None)


@pytest.mark.parametrize(
    "change", [{"model": "\ud800"}, {"digest": "d" * 500}, {"ps_bytes": 1 << 60}, {"version": "\udcff"}, {"shares": ()}]
)
def test_what_a_server_says_never_makes_a_file_that_cannot_be_read(change: dict[str, Any]) -> None:
    assert measured.is_sound(LOAD)
    assert not measured.is_sound(replace(LOAD, **change))


def changed(**change: Any) -> str:
    plain = {"schema": 1, "loads": [json.loads(json.dumps(_plain() | change))]}
    return json.dumps(plain)


def _plain() -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(LOAD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": 2, "loads": []}',
        '{"schema": 1}',
        '{"schema": 1, "loads": [5]}',
        '{"schema": 1, "loads": [{}]}',
        "[" * 100_000,
        changed(shares=[]),
        changed(shares="x"),
        changed(shares=[{}]),
        changed(shares=[5]),
        changed(batch=-1),
        changed(batch=True),
        changed(batch=None),
        changed(batch=1 << 60),
        changed(batch="1"),
        changed(flash_attention=1),
        changed(model="x" * 1000),
        changed(model="\ud800"),
        changed(time=None),
        "x" * (5 << 20),
        "\x00" * 4096,
    ],
)
def test_a_damaged_or_foreign_file_is_told_and_put_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    loads, trouble = measured.read(str(tmp_path))
    assert loads == () and trouble is not None and "measured.json" in trouble and trouble.isprintable()
    assert "put aside" in measured.put_aside(str(tmp_path))
    assert measured.read(str(tmp_path)) == ((), None) and (tmp_path / "measured.json.bad").exists()


def test_what_is_no_plain_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "measured.json")
    loads, trouble = measured.read(str(tmp_path))
    assert loads == () and trouble is not None
