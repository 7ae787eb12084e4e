"""What the supervisor remembers on disk: intents, generations, and how to find its processes again.

Pids are worthless after a reboot, so the file is synced only when an intent changes. A damaged file is put aside and
said, never trusted. It holds no environment and so no secret.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from typing import Any

from ollamux.domain.spec import PinSpec
from ollamux.domain.tally import Tally
from ollamux.system.files import read_bounded, write_atomic

FILE_NAME = "state.json"
SCHEMA = 1
_LARGEST = 4 << 20
_LARGEST_NUMBER = 1 << 53
_PROOFS = ("proven", "wrong", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """What is kept of one instance. `proof` is the pinning proof: logs rotate, so it cannot be read again.

    The generation, the two counts of restarts and what was pinned by hand are for life: neither `down` nor a reboot
    ends them.
    """

    gen: int = 0
    stopped: bool = False
    pid: int | None = None
    start_ticks: int | None = None
    fingerprint: str | None = None
    restarts: int = 0
    auto_restarts: int = 0
    manual_restarts: int = 0
    proof: tuple[str, str] | None = None
    version: str | None = None
    gpus: tuple[str, ...] = ()
    log_start: int = 0
    incidents: tuple[str, ...] = ()
    asked_incidents: tuple[str, ...] = ()
    pins: tuple[PinSpec, ...] = ()

    def for_life(self) -> UnitRecord:
        """Return it without what concerns the present run."""
        return UnitRecord(
            gen=self.gen, auto_restarts=self.auto_restarts, manual_restarts=self.manual_restarts, pins=self.pins
        )

    def tally(self) -> Tally:
        """Return the count of restarts to go on from."""
        return Tally(auto=self.auto_restarts, manual=self.manual_restarts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The whole file. `boot_id` is that of the boot in which it was written."""

    boot_id: str = ""
    units: dict[str, UnitRecord] = field(default_factory=dict)


def save(folder: str, record: Record, *, sync: bool) -> None:
    """Write the file. Raises OSError."""
    units = {name: _plain(unit) for name, unit in record.units.items()}
    plain = {"schema": SCHEMA, "boot_id": record.boot_id, "units": units}
    write_atomic(f"{folder}/{FILE_NAME}", json.dumps(plain).encode(), sync=sync)


def _plain(unit: UnitRecord) -> dict[str, Any]:
    plain = {slot: getattr(unit, slot) for slot in UnitRecord.__slots__}
    return {**plain, "pins": [{"name": pin.name, "num_ctx": pin.num_ctx} for pin in unit.pins]}


def stamp(folder: str) -> tuple[int, int, int] | None:
    """Return what changes with the file, None where there is none."""
    try:
        found = os.stat(f"{folder}/{FILE_NAME}")
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def load(folder: str, boot_id: str) -> tuple[Record, str | None]:
    """Return what was remembered and, where the file could not be used, what was done about it.

    After a reboot only what is for life counts: processes are gone, and a `stop` does not outlive the boot.
    """
    path = f"{folder}/{FILE_NAME}"
    data = read_bounded(path, _LARGEST)
    if data is None:
        if not os.path.lexists(path):
            return Record(boot_id=boot_id), None
        obstacle = _obstacle(path)
        return Record(boot_id=boot_id), f"the state file could not be read{_put_aside(path)}: {obstacle}"
    try:
        plain = json.loads(data)
        if plain["schema"] != SCHEMA:
            raise ValueError(f"written by another version (schema {plain['schema']})")
        units = {str(name): _unit(entry) for name, entry in plain["units"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        return Record(boot_id=boot_id), f"the state file could not be read{_put_aside(path)}: {error}"
    if plain.get("boot_id") != boot_id:
        units = {name: unit.for_life() for name, unit in units.items()}
    return Record(boot_id=boot_id, units=units), None


def _obstacle(path: str) -> str:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        return "it is not a plain file"
    return f"it is larger than {_LARGEST >> 20} MiB" if found.st_size > _LARGEST else "it cannot be opened or read"


def _put_aside(path: str) -> str:
    try:
        os.replace(path, path + ".bad")
    except OSError as error:
        return f" nor put aside ({error.strerror})"
    return f" and was put aside as {path}.bad"


def _unit(entry: dict[str, Any]) -> UnitRecord:
    return UnitRecord(
        gen=_count(entry["gen"]),
        stopped=bool(entry["stopped"]),
        pid=_optional_count(entry.get("pid")),
        start_ticks=_optional_count(entry.get("start_ticks")),
        fingerprint=_text(entry.get("fingerprint")),
        restarts=_count(entry.get("restarts", 0)),
        auto_restarts=_count(entry.get("auto_restarts", 0)),
        manual_restarts=_count(entry.get("manual_restarts", 0)),
        proof=_proof(entry.get("proof")),
        version=_text(entry.get("version")),
        gpus=_texts(entry.get("gpus")),
        log_start=_count(entry.get("log_start") or 0),
        incidents=_texts(entry.get("incidents")),
        asked_incidents=_texts(entry.get("asked_incidents")),
        pins=tuple(_pin(each) for each in entry.get("pins") or ()),
    )


def _pin(entry: dict[str, Any]) -> PinSpec:
    name = _text(entry["name"])
    if name is None:
        raise ValueError("a pin without a name")
    return PinSpec(name=name, num_ctx=_optional_count(entry.get("num_ctx")))


def _proof(value: object) -> tuple[str, str] | None:
    if value is None:
        return None
    kind, reason = _texts(value)
    if kind not in _PROOFS:
        raise ValueError(f"{kind!r} is no proof")
    return kind, reason


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for item in value if (text := _text(item)) is not None) if isinstance(value, list) else ()


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST_NUMBER:
        raise ValueError(f"{str(value)[:20]} where a count is expected")
    return value


def _optional_count(value: object) -> int | None:
    return None if value is None else _count(value)


def _text(value: object) -> str | None:
    """Return a text that can be written again: JSON can name half a character, which no file takes."""
    if not isinstance(value, str):
        return None
    value.encode()
    return value
