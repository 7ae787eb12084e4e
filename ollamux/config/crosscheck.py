"""What one value alone cannot tell: names, ports and GPUs of all instances, and values that exclude each other.

Works on the document as it was parsed, so that these problems are told in the same run as all others; a value that
is wrong by itself is left to the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ollamux.config import words
from ollamux.config.findings import Finding, dotted
from ollamux.config.keys import key_of, written
from ollamux.config.locate import KeyPath, Places
from ollamux.config.refs import parse_ref
from ollamux.config.rules import Wrong, did_you_mean
from ollamux.domain.spec import GpuRef, InstanceSpec, RestartSpec
from ollamux.domain.text import exact_duration, parse_duration, safe_text, same_model

Table = Mapping[str, Any]
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - to be recognised, not to be bound
_ORDINARY = {key_of(each.name): written(each.name, each.default) for each in fields(InstanceSpec)}
_ORDINARY_RESTART = {key_of(each.name): written(each.name, each.default) for each in fields(RestartSpec)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    """An instance as written; what it leaves out comes from the defaults, then from the specification."""

    path: KeyPath
    own: Table
    defaults: Table

    def get(self, key: str) -> Any:
        return self.own.get(key, self.defaults.get(key, _ORDINARY.get(key)))

    def where(self, *places: tuple[str, ...]) -> KeyPath:
        """Return where the first of these is set: in the instance, else in the defaults, else the instance itself."""
        for table, path in ((self.own, self.path), (self.defaults, ("defaults",))):
            for keys in places:
                if _reach(table, keys) is not None:
                    return (*path, *keys)
        return self.path

    @property
    def runs(self) -> bool:
        return self.get("enabled") is not False


def crosscheck(document: Table, places: Places, *, first_open_port: int) -> Iterator[Finding]:
    """Yield what is wrong between keys."""
    instances = document.get("instances")
    if "instances" not in document or instances == {}:
        yield Finding(
            path=("instances",),
            message="there is no instance to run",
            hint="each is a table [instances.NAME] with gpus and port; ollamux init --stdout shows one for each GPU",
        )
    if not isinstance(instances, dict):
        return
    defaults = document.get("defaults")
    known = [
        _Instance(path=("instances", name), own=own, defaults=defaults if isinstance(defaults, dict) else {})
        for name, own in instances.items()
        if isinstance(own, dict)
    ]
    yield from _names(instances, places)
    yield from _models(document.get("models"), instances, places)
    yield from _listening([each for each in known if each.runs], places, first_open_port=first_open_port)
    yield from _devices(known, places)
    seen: set[tuple[KeyPath, str]] = set()
    for each in known:
        for finding in (*_cache_type(each), *_delays(each)):
            if (finding.path, finding.message) not in seen:  # one in the defaults concerns every instance
                seen.add((finding.path, finding.message))
                yield finding


def _names(instances: Table, places: Places) -> Iterator[Finding]:
    for name in instances:
        path: KeyPath = ("instances", name)
        twin = next((each for each in instances if each != name and each.lower() == name.lower()), None)
        if name in words.RESERVED_NAMES:
            yield Finding(path=path, message="this name is taken by ollamux itself", hint="choose another", at_key=True)
        elif not re.fullmatch(words.NAME_PATTERN[1:-1], name):
            rule = "a name is made of a-z, 0-9, _ and -, begins with a letter or digit and has at most 32 characters"
            hint = None
            if twin is not None and re.fullmatch(words.NAME_PATTERN[1:-1], twin):
                hint = f"{twin}{_in_line(places, ('instances', twin))} is the same but for capitals"
            elif re.fullmatch(words.NAME_PATTERN[1:-1], name.lower()):
                hint = f'did you mean "{name.lower()}"?'
            yield Finding(path=path, message=rule, hint=hint, at_key=True)


def _models(models: Any, instances: Table, places: Places) -> Iterator[Finding]:
    if not isinstance(models, dict):
        return
    for number, (name, table) in enumerate(models.items()):
        path: KeyPath = ("models", name)
        twin = next((each for each in list(models)[:number] if same_model(each, name)), None)
        if twin is not None:
            there = f"{twin}{_in_line(places, ('models', twin))}"
            yield Finding(path=path, message=f"{there} is the same model", hint="one table says all of it", at_key=True)
        prefer = table.get("prefer") if isinstance(table, dict) else None
        single = isinstance(prefer, str)
        for at, each in enumerate([prefer] if single else prefer if isinstance(prefer, list) else ()):
            if isinstance(each, str) and each not in instances:
                yield Finding(
                    path=(*path, "prefer") if single else (*path, "prefer", at),
                    message=f"there is no instance {safe_text(each, limit=40)!r}",
                    hint=did_you_mean(each, list(instances)) or f"there are: {', '.join(instances)}",
                )


def _listening(instances: list[_Instance], places: Places, *, first_open_port: int) -> Iterator[Finding]:
    taken: list[tuple[str, int, _Instance]] = []
    for each in instances:
        port = each.get("port")
        if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
            continue
        path = (*each.path, "port")
        if port < first_open_port:
            hint = f"take one from {first_open_port} up; ollama's own is 11434"
            yield Finding(path=path, message=f"ports below {first_open_port} are for root", hint=hint)
        try:
            host = words.HOST.check(each.get("host"))
        except Wrong:
            continue
        rival = next((other for other in taken if port == other[1] and _overlap(host, other[0])), None)
        if rival is not None:
            there = f"{dotted(rival[2].path)}{_in_line(places, (*rival[2].path, 'port'))}"
            wide: str | None = None
            if host != rival[0]:
                there += f", which listens on {rival[0]}"
                wide = "0.0.0.0 and :: take a port on every address of the machine"
            yield Finding(path=path, message=f"{_address(host, port)} is taken by {there}", hint=wide)
        taken.append((host, port, each))


def _overlap(one: str, other: str) -> bool:
    # ollama listens on both families for either wildcard, so one stands in the way of every address.
    return one == other or one in WILDCARDS or other in WILDCARDS


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _devices(instances: list[_Instance], places: Places) -> Iterator[Finding]:
    users: dict[GpuRef, tuple[_Instance, KeyPath]] = {}
    for each in instances:
        own: dict[GpuRef, KeyPath] = {}
        gpus = each.own.get("gpus")
        for number, entry in enumerate(gpus if isinstance(gpus, list) else ()):
            path = (*each.path, "gpus", number)
            try:
                ref = parse_ref(entry)
            except Wrong:
                continue
            if ref in own:
                yield Finding(path=path, message=f"GPU {ref} is already in this list")
                continue
            own[ref] = path
            if not each.runs:
                continue
            user = users.setdefault(ref, (each, path))
            if user[0] is not each and not (each.get("share_gpu") is True and user[0].get("share_gpu") is True):
                there = f"{dotted(user[0].path)}{_in_line(places, user[1])}"
                yield Finding(
                    path=path,
                    message=f"GPU {ref} is already used by {there}",
                    hint="if both shall use it, write share_gpu = true in both",
                )


def _cache_type(each: _Instance) -> Iterator[Finding]:
    cache_type = each.get("kv_cache_type")
    if cache_type in ("q8_0", "q4_0") and each.get("flash_attention") is False:
        yield Finding(
            path=each.where(("kv_cache_type",), ("flash_attention",)),
            message=f'kv_cache_type "{cache_type}" needs flash attention, which flash_attention = false switches off',
            hint="take one of the two out",
        )


def _delays(each: _Instance) -> Iterator[Finding]:
    base, cap = _duration(each, "base"), _duration(each, "cap")
    if base is not None and cap is not None and cap < base:
        yield Finding(
            path=each.where(("restart", "cap"), ("restart", "base")),
            message=f"restart.cap is {exact_duration(cap)}, shorter than restart.base, which is {exact_duration(base)}",
        )


def _duration(each: _Instance, key: str) -> float | None:
    for table in (each.own, each.defaults, {"restart": _ORDINARY_RESTART}):
        value = _reach(table, ("restart", key))
        if value is not None:
            return (parse_duration(value) or None) if isinstance(value, str) else None
    return None


def _reach(table: Table, keys: tuple[str, ...]) -> Any:
    here: Any = table
    for key in keys:
        here = here.get(key) if isinstance(here, dict) else None
    return here


def _in_line(places: Places, path: KeyPath) -> str:
    place = places.value(path)
    return f" (line {place.line})" if place else ""
