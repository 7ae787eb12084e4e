"""The effective configuration as TOML: every default written out, every secret masked. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from ollamux.config.keys import gpus_of, key_of, literal, name_literal, written
from ollamux.config.refs import parse_ref
from ollamux.config.rules import Wrong
from ollamux.domain.secrets import mask
from ollamux.domain.spec import FleetSpec, InstanceSpec, Pinning

_GROUPS = ("health", "restart", "on", "canary")
_UNSET = {"ctx": "as its Modelfile says, else context_length"}
_APART = frozenset({"name", "pinning", "gpus", "port", "env", *_GROUPS})


def effective(fleet: FleetSpec, resolved: Mapping[str, tuple[str, ...]] | None = None, *, reveal: bool = False) -> str:
    """Write a fleet as a configuration that needs no defaults.

    `resolved` gives the UUIDs of each instance's GPUs where they are known.
    """
    lines = ["version = 1", f"placement = {literal(fleet.placement.value)}"]
    lines += ["", "[supervisor]", *_keys(fleet.supervisor)]
    for spec in fleet.instances:
        heading = f"instances.{name_literal(spec.name)}"
        known = (resolved or {}).get(spec.name)
        lines += ["", f"[{heading}]", f"gpus = {literal(_gpus(spec, known))}", f"port = {spec.port}"]
        lines += _keys(spec)
        env = {name: value if reveal else mask(name, value) for name, value in spec.env}
        lines.append(f"env = {literal(env)}")
        for group in _GROUPS:
            lines += ["", f"[{heading}.{group}]", *_keys(getattr(spec, group))]
    for model in fleet.models:
        lines += ["", f"[models.{name_literal(model.name)}]", *_keys(model)]
    return "\n".join(lines) + "\n"


def _keys(spec: object) -> list[str]:
    lines: list[str] = []
    for name in (each.name for each in fields(spec) if each.name not in _APART):  # type: ignore[arg-type]
        value = getattr(spec, name)
        if value is None:
            otherwise = _UNSET.get(name, "ollama's own default")
            lines.append(f"# {key_of(name)}: {otherwise}")
        else:
            lines.append(f"{key_of(name)} = {literal(written(name, value))}")
    return lines


def _gpus(spec: InstanceSpec, resolved: tuple[str, ...] | None) -> object:
    if spec.pinning is not Pinning.GPUS or not resolved or not all(map(_can_be_written, resolved)):
        return gpus_of(spec)
    return list(resolved)


def _can_be_written(uuid: str) -> bool:
    """Some cards have no UUID of their own and are only known by number."""
    try:
        parse_ref(uuid)
    except Wrong:
        return False
    return True
