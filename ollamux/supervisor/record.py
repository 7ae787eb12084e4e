"""What the supervisor remembers on disk: intents, generations, and how to find its processes again.

Pids are worthless after a reboot, so the file is synced only when an intent changes. A damaged file is put aside and
said, never trusted. It holds no environment and so no secret.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from ollamux.system.files import read_bounded, write_atomic

FILE_NAME = "state.json"
SCHEMA = 1
_LARGEST = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """What is kept of one instance. `proof` is the pinning proof: logs rotate, so it cannot be read again.

    The generation and the two counts of restarts are for life: neither `down` nor a reboot ends them.
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

    def for_life(self) -> UnitRecord:
        """Return it without what concerns the present run."""
        return UnitRecord(gen=self.gen, auto_restarts=self.auto_restarts, manual_restarts=self.manual_restarts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The whole file. `boot_id` is that of the boot in which it was written."""

    boot_id: str = ""
    units: dict[str, UnitRecord] = field(default_factory=dict)


def save(folder: str, record: Record, *, sync: bool) -> None:
    """Write the file. Raises OSError."""
    units = {name: {slot: getattr(unit, slot) for slot in UnitRecord.__slots__} for name, unit in record.units.items()}
    plain = {"schema": SCHEMA, "boot_id": record.boot_id, "units": units}
    write_atomic(f"{folder}/{FILE_NAME}", json.dumps(plain).encode(), sync=sync)


def load(folder: str, boot_id: str) -> tuple[Record, str | None]:
    """Return what was remembered and, where the file could not be used, what was done about it.

    After a reboot only what is for life counts: processes are gone, and a `stop` does not outlive the boot.
    """
    path = f"{folder}/{FILE_NAME}"
    data = read_bounded(path, _LARGEST)
    if data is None:
        return Record(boot_id=boot_id), None
    try:
        plain = json.loads(data)
        if plain["schema"] != SCHEMA:
            raise ValueError(f"written by another version (schema {plain['schema']})")
        units = {str(name): _unit(entry) for name, entry in plain["units"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Record(boot_id=boot_id), f"the state file could not be read{_put_aside(path)}: {error}"
    if plain.get("boot_id") != boot_id:
        units = {name: unit.for_life() for name, unit in units.items()}
    return Record(boot_id=boot_id, units=units), None


def _put_aside(path: str) -> str:
    try:
        os.replace(path, path + ".bad")
    except OSError as error:
        return f" nor put aside ({error.strerror})"
    return f" and was put aside as {path}.bad"


def _unit(entry: dict[str, Any]) -> UnitRecord:
    proof = entry.get("proof")
    unit = UnitRecord(
        gen=int(entry["gen"]),
        stopped=bool(entry["stopped"]),
        pid=_number(entry.get("pid")),
        start_ticks=_number(entry.get("start_ticks")),
        fingerprint=_text(entry.get("fingerprint")),
        restarts=int(entry.get("restarts", 0)),
        auto_restarts=int(entry.get("auto_restarts", 0)),
        manual_restarts=int(entry.get("manual_restarts", 0)),
        proof=None if proof is None else (str(proof[0]), str(proof[1])),
        version=_text(entry.get("version")),
        gpus=_texts(entry.get("gpus")),
        log_start=_number(entry.get("log_start")) or 0,
        incidents=_texts(entry.get("incidents")),
    )
    if unit.gen < 0:
        raise ValueError("a negative generation")
    return unit


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
