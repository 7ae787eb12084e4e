"""What the schema has against a document, in plain words and with a way out. Knows keys, not their rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ollamux.config.findings import Finding
from ollamux.config.keys import literal
from ollamux.config.locate import KeyPath
from ollamux.config.managed import refusal
from ollamux.config.rules import Wrong, did_you_mean, kind

# What people write who know another tool: ollama's own names, docker compose, systemd.
_SYNONYMS = {
    "address": "host",
    "bind": "host",
    "listen": "host",
    "models": "store",
    "models_dir": "store",
    "model_dir": "store",
    "num_ctx": "context_length",
    "ctx": "context_length",
    "context": "context_length",
    "parallel": "num_parallel",
    "max_models": "max_loaded_models",
    "environment": "env",
    "binary": "ollama",
    "command": "ollama",
    "path": "ollama",
    "device": "gpus",
    "devices": "gpus",
    "cuda_visible_devices": "gpus",
    "gpu_overhead": "headroom",
    "disabled": "enabled",
    "models_preload": "preload",
    "instance": "instances",
    "servers": "instances",
    "default": "defaults",
}
_CONTEXT = frozenset({"num_ctx", "context_length", "context"})
_GUESS = re.compile(r'did you mean "(\w+)"\?')
_MISSING = {
    "port": ("port is missing", "write for instance port = 11435"),
    "gpus": ("gpus is missing", 'write gpus = [0], or [] for CPU only, or "any" for no pinning'),
    "version": ("version is missing", "write version = 1 above the first [heading]"),
}


def explain(errors: list[Any], schema: Mapping[str, Any]) -> list[Finding]:
    """Turn the errors of the schema into findings."""
    # That instances are missing is told by the check across keys, which sees an empty table, too.
    findings = [
        _explain(error, schema) for error in errors if error["loc"] != ("instances",) or error["type"] != "missing"
    ]
    # A misspelt key is one mistake, not two.
    meant = {(*each.path[:-1], guess[1]) for each in findings if (guess := _GUESS.fullmatch(each.hint or ""))}
    return [each for each in findings if each.path not in meant or not each.message.endswith(" is missing")]


def _explain(error: Mapping[str, Any], schema: Mapping[str, Any]) -> Finding:
    path: KeyPath = error["loc"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Wrong):
        at_key = path[-1] == "[key]"
        return Finding(path=path[:-1] if at_key else path, message=cause.message, hint=cause.hint, at_key=at_key)
    match error["type"]:
        case "extra_forbidden":
            message, hint = _unknown(path, error["input"], schema)
            return Finding(path=path, message=message, hint=hint, at_key=True)
        case "missing":
            message, hint = _MISSING[str(path[-1])]
            return Finding(path=path, message=message, hint=hint, at_key=True)
        case "model_type" | "dict_type":
            return Finding(path=path, message=f"must be a table, not {kind(error['input'])}", hint=_as_table(path))
        case _:
            return Finding(
                path=path, message=f"must be a list, not {kind(error['input'])}", hint='as in ["one", "two"]'
            )


def _as_table(path: KeyPath) -> str | None:
    match path:
        case ("instances",):
            return "each instance is a table [instances.NAME], with single brackets"
        case ("models",):
            return 'each model is a table [models."NAME"]; where models are stored says the key store'
        case ("models", str()):
            return f"as in [models.{literal(str(path[-1]))}] with replicas = 2 below it"
        case (*_, "env"):
            return 'as env = { OLLAMA_DEBUG = "1" }'
        case ("instances", str()):
            return "write its keys below a heading [instances.NAME]"
        case _:
            return None


def _unknown(path: KeyPath, value: object, schema: Mapping[str, Any]) -> tuple[str, str | None]:
    name, table = str(path[-1]), path[:-1]
    known = list(_keys_of(schema, table))
    if name.isupper():
        return "variables are no keys", refusal(name) or f"write env = {{ {name} = … }}"
    if name in ("port", "gpus") and table == ("defaults",):
        return f"{name} belongs to each instance, not to the defaults", None
    if not table and isinstance(value, dict) and "port" in value:
        return "unknown table", f"did you mean [instances.{name}]?"
    what = "unknown table" if isinstance(value, dict) else "unknown key"
    synonyms = [_SYNONYMS.get(name.lower()), "ctx" if name.lower() in _CONTEXT else None]
    synonym = next((each for each in synonyms if each in known), None)
    if synonym is not None:
        return what, f'did you mean "{synonym}"?'
    homes = _homes(name, table, schema)
    if homes:
        return f"{what} here", f"it belongs in {homes}"
    return what, did_you_mean(name, known) or f"known here: {', '.join(known)}"


def _keys_of(schema: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any]:
    """Return the keys that the schema knows in a table."""
    here: Mapping[str, Any] = schema
    for part in path:
        here = here.get("properties", {}).get(part) or _any_of(here)
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
    keys: Mapping[str, Any] = here.get("properties", {})
    return keys


def _any_of(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the tables are whose names are free, as those of instances and models."""
    patterns: Mapping[str, Any] = table.get("patternProperties") or {}
    found: Mapping[str, Any] = table.get("additionalProperties") or next(iter(patterns.values()), {})
    return found


def _homes(name: str, table: KeyPath, schema: Mapping[str, Any]) -> str | None:
    """Say in which other table a key would be right: in the same instance, else where it is for all."""
    owner = table[:2] if table[:1] == ("instances",) else table[:1] if table[:1] == ("defaults",) else ("defaults",)
    owner_text = ".".join(map(str, owner))
    for group in ("health", "restart", "on", "canary"):
        if name in _keys_of(schema, ("defaults", group)) and table != (*owner, group):
            return f"[{owner_text}.{group}]"
    if name in _keys_of(schema, ("supervisor",)) and table != ("supervisor",):
        return "[supervisor]"
    if name in _keys_of(schema, ("instances", "x")) and len(table) != 2:
        return f"[{owner_text}]" if table[:1] == ("instances",) else _for_all(name)
    return None


def _for_all(name: str) -> str:
    return "[instances.NAME]" if name in ("port", "gpus") else "[defaults] or [instances.NAME]"
