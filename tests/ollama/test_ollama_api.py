"""The answers of the API, as recorded and as nobody should send them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.text import full_name, same_model
from ollamux.ollama.api import (
    LONGEST_BODY,
    BadAnswerError,
    parse_loaded,
    parse_server_version,
    spilled,
)

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
VERSIONS = ["v0.24.0", "v0.32.15"]
NOW = 1_795_398_000.0  # 2026-11-23, when the recordings were made


def recorded(version, name):
    return (RECORDINGS / version / name).read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
def test_version(version) -> None:
    answer = parse_server_version(recorded(version, "version.json"))
    assert f"v{answer.text}" == version
    assert answer.numbers == tuple(int(part) for part in answer.text.split("."))


def test_a_build_from_source_has_no_number() -> None:
    assert parse_server_version(b'{"version":"0.0.0"}').numbers is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["ps-idle.json", "ps-while-loading.json", "ps-after-expiry.json"])
def test_nothing_loaded(version, name) -> None:
    assert parse_loaded(recorded(version, name), now=NOW) == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_loaded_model(version) -> None:
    [model] = parse_loaded(recorded(version, "ps-loaded.json"), now=NOW)
    assert model.name == "tiny:latest"
    assert len(model.digest or "") == 64
    assert (model.size_vram_bytes, model.context_length) == (0, 2048)
    assert (model.family, model.parameter_size, model.quantization) == ("llama", "152K", "F16")
    assert model.expires_at is not None
    assert abs(model.expires_at - NOW) < 86400
    assert spilled(model) == model.size_bytes > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pinned_model_is_kept_for_ever(version) -> None:
    [model] = parse_loaded(recorded(version, "ps-pinned.json"), now=NOW)
    assert model.expires_at is None


@pytest.mark.parametrize("version", VERSIONS)
def test_two_models(version) -> None:
    models = parse_loaded(recorded(version, "ps-two-models.json"), now=NOW)
    assert sorted(model.name for model in models) == ["tiny2:latest", "tiny:latest"]


def test_spill() -> None:
    [model] = parse_loaded(recorded("v0.32.15", "ps-loaded.json"), now=NOW)
    assert spilled(replace(model, size_vram_bytes=model.size_bytes)) == 0
    assert spilled(replace(model, size_bytes=10, size_vram_bytes=30)) == 0


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b'"x"', b"\xff", b"[" * 100_000, b" " * (LONGEST_BODY + 1), b'{"models":3}']
)
def test_garbage_is_one_small_error(body) -> None:
    with pytest.raises(BadAnswerError):
        parse_loaded(body, now=NOW)
    with pytest.raises(BadAnswerError):
        parse_server_version(body)


def test_S21_wrong_types_are_left_out() -> None:
    body = {
        "models": [
            7,
            {"name": 5},
            {"name": "x", "size": -1, "size_vram": "8", "context_length": True, "expires_at": "soon", "details": []},
            {"model": "y", "size": 1 << 80, "expires_at": "0001-01-01T00:00:00Z", "digest": 4},
        ]
    }
    x, y = parse_loaded(json.dumps(body).encode(), now=NOW)
    assert (x.name, x.size_bytes, x.size_vram_bytes, x.context_length, x.expires_at) == ("x", 0, 0, None, None)
    assert (y.name, y.size_bytes, y.digest) == ("y", 0, None)
    assert y.expires_at is not None
    assert y.expires_at < 0


def test_S21_too_many_models() -> None:
    with pytest.raises(BadAnswerError):
        parse_loaded(json.dumps({"models": [{"name": "x"}] * 1001}).encode(), now=NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "size", "details"]), inner),
    max_leaves=8,
)


@given(st.one_of(st.binary(max_size=100), st.builds(lambda m: json.dumps({"models": m, "version": m}).encode(), JSON)))
def test_any_body_gives_a_value_or_the_small_error(body) -> None:
    for parse in (lambda: parse_loaded(body, now=NOW), lambda: parse_server_version(body)):
        try:
            parse()
        except BadAnswerError:
            pass


@pytest.mark.parametrize(
    ("name", "full"),
    [("x", "x:latest"), ("x:8b", "x:8b"), ("a/x", "a/x:latest"), ("host:5000/a/x", "host:5000/a/x:latest")],
)
def test_names(name, full) -> None:
    assert full_name(name) == full
    assert same_model(name, full.upper())
    assert not same_model(name, "other")
