"""What is shown or kept of a configuration is the same configuration, without its secrets."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from ollamux.config import cache as cache_module
from ollamux.config.cache import load_fleet
from ollamux.config.codec import fleet_from_json, fleet_to_json
from ollamux.config.load import ConfigInvalid, parse
from ollamux.config.show import effective
from ollamux.domain.secrets import is_secret, mask
from ollamux.domain.spec import FleetSpec

from .config_values import REPEATABLE, fleets

ONE = b'version = 1\n[instances.gpu0]\ngpus = [0]\nport = 11435\nenv = { HF_TOKEN = "hf_x", A = "1" }\n'


def fleet() -> FleetSpec:
    """Return a small fleet with a secret."""
    return parse(ONE, "x", open_port=1024)


@REPEATABLE
@given(fleet=fleets())
def test_the_effective_configuration_is_the_configuration(fleet: FleetSpec) -> None:
    text = effective(fleet, reveal=True)
    assert parse(text.encode(), "x", open_port=1024) == fleet
    assert all(line.isprintable() for line in text.splitlines())


@REPEATABLE
@given(fleet=fleets())
def test_json_gives_the_same_fleet_back(fleet: FleetSpec) -> None:
    assert fleet_from_json(json.loads(json.dumps(fleet_to_json(fleet)))) == fleet


def damaged() -> list[Any]:
    """Return almost-fleets, each wrong in one place."""
    plain = fleet_to_json(fleet())
    first = plain["instances"][0]
    wrong: list[Any] = [None, [], 1, "x", {}, {**plain, "more": 1}, {**plain, "instances": {}}]
    changes: dict[str, list[Any]] = {
        "port": ["1", True, 1.0, None],
        "gpus": [None, [None], [{"kind": "nosuch", "value": "0"}]],
        "env": [[["A"]], [["A", "1", "2"]], ["A"]],
        "pinning": ["nosuch", None],
        "health": [None, {}],
        "restart": [{**first["restart"], "cap_s": 1}],
    }
    for key, values in changes.items():
        wrong += [{**plain, "instances": [{**first, key: value}]} for value in values]
    return wrong


@pytest.mark.parametrize("plain", damaged())
def test_anything_else_is_no_fleet(plain: object) -> None:
    with pytest.raises(ValueError):
        fleet_from_json(plain)


def test_C24_S7_secrets_are_masked_unless_asked_for() -> None:
    assert 'env = { A = "1", HF_TOKEN = "***" }' in effective(fleet(), None)
    assert "hf_x" not in effective(fleet(), None)
    assert 'HF_TOKEN = "hf_x"' in effective(fleet(), None, reveal=True)


def test_resolved_gpus_are_shown_where_they_can_be_written() -> None:
    uuid = "GPU-8f3c2a90-1111-2222-3333-444455556666"
    assert f'gpus = ["{uuid}"]' in effective(fleet(), {"gpu0": (uuid,)})
    assert "gpus = [0]" in effective(fleet(), {"gpu0": ("AMD-0000:03:00.0",)})
    assert "gpus = [0]" in effective(fleet(), {})


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HF_TOKEN", "x", "***"),
        ("hf_token", "x", "***"),
        ("AWS_SECRET_ACCESS_KEY", "x", "***"),
        ("DB_PASSWORD", "x", "***"),
        ("X_PASS", "x", "***"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "x", "***"),
        ("BASIC_AUTH", "x", "***"),
        ("DB_PWD", "x", "***"),
        ("GITHUB_PAT", "x", "***"),
        ("SLACK_WEBHOOK_URL", "https://hooks.example/x", "***"),
        ("HF_TOKEN", "", ""),
        ("OLLAMA_DEBUG", "1", "1"),
        ("PWD", "/x", "/x"),
        ("HTTPS_PROXY", "http://me:pw@proxy:3128", "http://***@proxy:3128"),
        ("https_proxy", "http://me:p/w@x@proxy:3128", "http://***@proxy:3128"),
        ("ALL_PROXY", "me:pw@proxy:3128", "***@proxy:3128"),
        ("HTTPS_PROXY", "http://proxy:3128", "http://proxy:3128"),
        ("MIRROR", "https://x/y?a=1&api_key=abc&b=2", "https://x/y?a=1&api_key=***&b=2"),
    ],
)
def test_C24_S7_masks(name: str, value: str, shown: str) -> None:
    assert mask(name, value) == shown
    assert is_secret(name) == (shown == "***" or value == "")


def test_the_cache_answers_for_exactly_these_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    assert load_fleet(ONE, "x", cache) == fleet()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    first = cache.read_bytes()
    kept = json.loads(first)
    kept["fleet"]["instances"][0]["port"] = 4711  # to see that it is really used
    cache.write_text(json.dumps(kept))
    assert load_fleet(ONE, "x", cache).instances[0].port == 4711
    assert load_fleet(ONE + b"\n", "x", cache).instances[0].port == 11435
    for name, value in (("__version__", "9.9"), ("first_open_port", lambda: 7)):
        cache.write_text(json.dumps(kept))
        with monkeypatch.context() as patch:
            patch.setattr(cache_module, name, value)
            assert load_fleet(ONE, "x", cache).instances[0].port == 11435


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}", b"[" * 100_000])
def test_a_damaged_cache_is_no_cache(tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(content)
    assert load_fleet(ONE, "x", cache) == fleet()
    assert load_fleet(ONE, "x", cache) == fleet()
    assert len(cache.read_bytes()) > 1000


def test_a_cache_that_others_could_write_is_not_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_fleet(ONE, "x", cache)
    cache.write_text(cache.read_text().replace("11435,", "4711,"))
    cache.chmod(0o622)
    assert load_fleet(ONE, "x", cache).instances[0].port == 11435
    (tmp_path / "link").symlink_to(cache)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for odd in ("link", "fifo"):
        assert load_fleet(ONE, "x", tmp_path / odd).instances[0].port == 11435


def test_without_a_place_for_the_cache_all_goes_on(tmp_path: Path) -> None:
    assert load_fleet(ONE, "x", tmp_path / "no" / "folder") == fleet()
    assert load_fleet(ONE, "x", tmp_path) == fleet()
    assert load_fleet(ONE, "x", None) == fleet()
    assert list(tmp_path.iterdir()) == []


def test_wrong_configurations_are_not_kept(tmp_path: Path) -> None:
    for wrong in (b"version = 2\n", b"\xff"):
        with pytest.raises(ConfigInvalid):
            load_fleet(wrong, "x", tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_kept_configuration_costs_no_slow_import(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_fleet(ONE, "x", cache)
    program = (
        "import sys; from pathlib import Path; from ollamux.config.cache import load_fleet\n"
        f"fleet = load_fleet({ONE!r}, 'x', Path({str(cache)!r}))\n"
        "slow = {'tomllib', 'pydantic', 'pydantic_core', 'difflib', 'hashlib', 'tomli_w', 'typer', 'rich'}\n"
        "print(fleet.instances[0].port, sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "11435 []\n"
