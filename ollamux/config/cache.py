"""The outcome of reading a configuration, kept for exactly these bytes: validation costs more than all else at start.

What is kept is used only if the text, the versions and the ports we may listen on are the same; whatever is odd about
it, the file is read afresh. Nothing slow may be imported here: no tomllib, no pydantic, no difflib, no hashlib.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from ollamux import __version__
from ollamux.config.codec import fleet_from_json, fleet_to_json
from ollamux.config.source import first_open_port
from ollamux.domain.errors import RefusedError
from ollamux.domain.spec import FleetSpec
from ollamux.system.reserve import spare

_FORMAT = 1
_LARGEST = 8 * 1024 * 1024


def cache_path(state: str) -> Path:
    """Return where the outcome is kept, given the folder of state."""
    return Path(state) / "config-cache.json"


def load_fleet(source: bytes, file: str, cache: Path | None, *, for_supervisor: bool = False) -> FleetSpec:
    """Return the fleet that a configuration asks for, from the cache where it was read before.

    Raises `ConfigInvalid`, as `parse` does; only valid configurations are kept. `for_supervisor`: it is to take the
    outcome from the cache, so that RefusedError is raised where it cannot be kept.
    """
    open_port = first_open_port()
    key = _key(source, open_port)
    if cache is not None and key is not None:
        kept = _kept(cache, key)
        if kept is not None:
            return kept
    from ollamux.config.load import parse  # slow, and not needed where the cache has it

    fleet = parse(source, file, open_port=open_port)
    if cache is not None and key is not None:
        trouble = _keep(cache, {**key, "fleet": fleet_to_json(fleet)})
        if trouble is not None and for_supervisor:
            raise RefusedError(
                f"the supervisor is to read it in {cache}, which cannot be written: {trouble.strerror}",
                hint="nothing was changed; mend that, then run the command again",
            )
    return fleet


def kept_fleet(cache: Path, digest: str) -> tuple[bytes, FleetSpec]:
    """Return the text with this SHA-256 and the fleet it asks for, as the command kept it that validated it.

    Raises RefusedError where the newest that was kept is another, or from another version.
    """
    with spare():  # a supervisor without descriptors left is mended by a reload at times
        import hashlib

        kept = _read(cache)
    source = str(kept.get("source", "")).encode()
    if hashlib.sha256(source).hexdigest() != digest:
        raise RefusedError("the configuration changed while it was read", hint="run the command again")
    key = _key(source, first_open_port())
    plain = kept.pop("fleet", None)
    if kept != key:
        raise RefusedError(
            f"the configuration was read by another version than the supervisor's, which is {__version__}",
            hint="ollamux upgrade puts the new version in its place",
        )
    return source, fleet_from_json(plain)


def _key(source: bytes, open_port: int) -> dict[str, Any] | None:
    try:
        text = source.decode()
    except UnicodeDecodeError:
        return None
    return {
        "format": _FORMAT,
        "ollamux": __version__,
        "python": sys.version,
        "open_port": open_port,
        "source": text,
    }


def _kept(cache: Path, key: dict[str, Any]) -> FleetSpec | None:
    kept = _read(cache)
    plain = kept.pop("fleet", None)
    try:
        return fleet_from_json(plain) if kept == key else None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None  # a damaged cache is no cache


def _read(cache: Path) -> dict[str, Any]:
    """Return what is kept; nothing where it is damaged, or others could have written it."""
    try:
        descriptor = os.open(cache, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022 and stat.S_ISREG(status.st_mode)
            if not ours or status.st_size > _LARGEST:
                return {}
            kept = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _keep(cache: Path, content: dict[str, Any]) -> OSError | None:
    """Replace the cache as a whole, readable for us alone: the text may hold secrets. Returns why that failed."""
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        return error  # no cache is slower, and nothing else
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, cache)
    except OSError as error:
        _remove(temporary)
        return error
    return None


def _remove(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it was never there, or the disk is past caring
