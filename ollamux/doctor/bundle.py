"""The file for a bug report: all that was found, with what is secret taken out. Never overwrites, never sends."""

from __future__ import annotations

import gzip
import io
import json
import os
import platform
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ollamux import __version__
from ollamux.config.show import effective
from ollamux.doctor.facts import Facts
from ollamux.doctor.findings import Report, as_json
from ollamux.doctor.scrub import Scrubber
from ollamux.domain import snapshot
from ollamux.domain.errors import DeniedError, OllamuxError, RefusedError
from ollamux.domain.secrets import MASK
from ollamux.domain.spec import FleetSpec
from ollamux.domain.text import safe_text
from ollamux.supervisor.journal import FILE_NAME
from ollamux.system.logfile import tail
from ollamux.system.places import home, log_dir, state_dir

_OF_A_LOG = 256 * 1024
_MOST_LOGS = 64
_FOLDER = "ollamux-doctor"
_NOTIFIER = "notify_token"


def write_bundle(name: str, report: Report, facts: Facts, env: Mapping[str, str]) -> Path:
    """Write the file, readable by its owner alone, and return its path. Raises OllamuxError."""
    path = Path(os.path.abspath(name))
    # On some systems /home is a link, and what the kernel tells of a path is behind it.
    homes = (home(env), os.path.realpath(home(env)), home({}))
    scrub = Scrubber(secrets=_known_secrets(facts, env), homes=homes)
    data = _packed({file: scrub.text(text) for file, text in _contents(report, facts, env)})
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise RefusedError(f"{safe_text(str(path))} is there already", hint="name another file") from None
    except OSError as error:
        raise DeniedError(f"cannot write {safe_text(str(path))}: {error.strerror}") from None
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OllamuxError(f"cannot write {safe_text(str(path))}: {error.strerror}") from None
    return path


def _contents(report: Report, facts: Facts, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "doctor.json", _json(as_json(report))
    yield "versions.txt", _versions(facts)
    if facts.status is not None:
        yield "status.json", _json(snapshot.as_json(facts.status))
    if facts.fleet is not None:
        uuids = {spec.name: tuple(gpu.uuid for gpu in facts.gpus_of(spec)) for spec in facts.fleet.instances}
        known = {name: found for name, found in uuids.items() if found}
        yield "config.toml", effective(_discreet(facts.fleet), known)
    state, logs = (place(env, simulated=report.simulated) for place in (state_dir, log_dir))
    files = {FILE_NAME: Path(state) / FILE_NAME}
    try:
        files |= {f"logs/{name}": Path(logs) / name for name in sorted(os.listdir(logs)) if name.endswith(".log")}
    except OSError:
        pass  # nothing has been logged yet
    for name, path in list(files.items())[: _MOST_LOGS + 1]:
        text = _last(path)
        if text is not None:
            yield name, text


def _discreet(fleet: FleetSpec) -> FleetSpec:
    """Return a fleet without what its notifier is told: that is where tokens and the addresses of webhooks stand."""
    program, told = fleet.supervisor.notify[:1], fleet.supervisor.notify[1:]
    return replace(fleet, supervisor=replace(fleet.supervisor, notify=(*program, *(MASK for _ in told))))


def _last(path: Path) -> str | None:
    """Return the whole lines at the end of a file: half a line might be half a secret, which nobody knows again."""
    if not path.is_file() or path.is_symlink():
        return None
    try:
        data = tail(str(path), _OF_A_LOG, since=0)
    except OSError:
        return None
    if len(data) == _OF_A_LOG:
        data = data.partition(b"\n")[2]
    return data.decode("utf-8", "replace")


def _versions(facts: Facts) -> str:
    inventory = facts.inventory
    told: dict[str, object] = {
        "ollamux": __version__,
        "python": sys.version.split()[0],
        "kernel": platform.release(),
        "machine": platform.machine(),
        "system": facts.host.system,
        "driver": None if inventory is None else inventory.driver,
        "cuda": None if inventory is None else inventory.cuda,
    }
    lines = [f"{name}: {value or 'unknown'}" for name, value in told.items()]
    lines += [
        f"ollama: {program.path or program.name}: {program.version_text or program.problem or 'unknown'}"
        f"{'' if program.libraries is None else f' {list(program.libraries.cuda)}'}"
        for program in dict.fromkeys((*facts.programs, *facts.on_path))
    ]
    return "\n".join(lines) + "\n"


def _known_secrets(facts: Facts, env: Mapping[str, str]) -> dict[str, str]:
    """Return every variable that we know of, from our own environment and from the configuration."""
    told = dict(env)
    for number, word in enumerate(() if facts.fleet is None else facts.fleet.supervisor.notify[1:]):
        told[f"{_NOTIFIER} {number}"] = word
    for number, spec in enumerate(() if facts.fleet is None else facts.fleet.instances):
        told |= {f"{name} {number}": value for name, value in spec.env}
    for name, value in () if facts.service is None else facts.service.environment:
        told[f"{name} unit"] = value
    return {name: value for name, value in told.items() if value}


def _json(plain: object) -> str:
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


def _packed(files: Mapping[str, str]) -> bytes:
    """Return the archive. It names neither its file nor a user: both would tell the home folder."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, text in files.items():
            data = text.encode("utf-8", "backslashreplace")
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
