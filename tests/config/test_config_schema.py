"""The JSON Schema is valid itself, takes what we take and rejects what we reject, as far as a schema can see."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from ollamux.config.keys import key_of, written
from ollamux.config.schema import json_schema
from ollamux.config.show import effective
from ollamux.domain import spec
from ollamux.domain.spec import FleetSpec

from .config_values import REPEATABLE, fleets

ROOT = Path(__file__).parents[2]
VALIDATOR = Draft202012Validator(json_schema())
# What spans several keys, or lies below TOML, no schema can see.
BEYOND = ("same-port", "wildcard-port", "same-gpu", "exclude-each-other", "multi-line")


def read(path: Path) -> dict[str, Any] | None:
    """Return a document, or None where it is no TOML at all."""
    try:
        return tomllib.loads(path.read_bytes().decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


WRONG = [
    (path, document)
    for path in sorted((Path(__file__).parent / "wrong").glob("*.toml"))
    if (document := read(path)) is not None and path.stem.partition("-")[2] not in BEYOND
]


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"].endswith("2020-12/schema")
    assert json_schema()["title"] == "ollamux configuration"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_examples_fit(path: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(path.read_text()))] == []


@pytest.mark.parametrize(("path", "document"), WRONG, ids=[path.stem for path, _ in WRONG])
def test_wrong_files_do_not_fit(path: Path, document: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document)


@REPEATABLE
@given(fleet=fleets())
def test_every_fleet_fits(fleet: FleetSpec) -> None:
    text = effective(fleet, reveal=True)
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))] == []


def test_every_key_helps_an_editor() -> None:
    for table in json_schema()["$defs"].values():
        for name, key in table["properties"].items():
            if "$ref" not in key:
                assert key["title"] == name
                assert key["description"].endswith((".", "wait", "READY")), name
                assert "default" not in key or key["default"] is not None


@pytest.mark.parametrize(
    ("table", "defaults"),
    [
        ("SupervisorTable", spec.SupervisorSpec()),
        ("HealthTable", spec.HealthSpec()),
        ("RestartTable", spec.RestartSpec()),
        ("OnTable", spec.OnFault()),
        ("CanaryTable", spec.CanarySpec()),
        ("InstanceTable", spec.InstanceSpec(name="x", port=1, pinning=spec.Pinning.CPU)),
    ],
)
def test_defaults_are_those_of_the_specification(table: str, defaults: object) -> None:
    keys = json_schema()["$defs"][table]["properties"]
    fields = [name for name in defaults.__dataclass_fields__ if name not in ("name", "pinning")]  # type: ignore[attr-defined]
    assert {key_of(name) for name in fields} == set(keys)
    for name in fields:
        key = keys[key_of(name)]
        value = getattr(defaults, name)
        if "$ref" not in key and name not in ("gpus", "port"):
            assert key.get("default") == (None if value is None else written(name, value))


def test_only_two_modules_know_pydantic() -> None:
    knows = [
        path.name
        for path in (ROOT / "ollamux").rglob("*.py")
        if re.search(r"^\s*(from|import) pydantic", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert sorted(knows) == ["schema.py", "typed.py"]
