"""The runs that `ollamux bench` has kept: the last fifty, each a file that only its owner can read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ollamux.domain.benchdiff import is_run
from ollamux.domain.errors import NotFoundError, OllamuxError, UsageError
from ollamux.domain.text import safe_text, same_model
from ollamux.system.files import private_dir, sweep_drafts, write_atomic
from ollamux.system.places import state_dir

MOST_KEPT = 50
LARGEST = 64 << 20
_FOLDER = "bench"


def _folder(simulated: bool) -> str:
    return f"{state_dir(os.environ, simulated=simulated)}/{_FOLDER}"


def keep(plain: dict[str, Any], *, simulated: bool) -> str:
    """Keep a run, and let the oldest go; return the path. Raises OllamuxError."""
    folder = _folder(simulated)
    private_dir(folder)
    path = f"{folder}/{plain['time'].replace(':', '')}-{os.getpid()}.json"
    write(path, plain)
    sweep_drafts(folder)
    for old in _kept(folder)[:-MOST_KEPT]:
        old.unlink(missing_ok=True)
    return path


def write(path: str, plain: dict[str, Any]) -> None:
    """Write a run into a file. Raises OllamuxError."""
    data = json.dumps(plain, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    try:
        write_atomic(path, data)
    except OSError as error:
        raise OllamuxError(f"{safe_text(path)} could not be written: {error.strerror}") from None


def _kept(folder: str) -> list[Path]:
    """Return the kept runs, the oldest first: their names begin with the time."""
    try:
        return sorted(path for path in Path(folder).iterdir() if path.suffix == ".json")
    except OSError:
        return []


def read(path: Path) -> dict[str, Any]:
    """Read a run from a file. Raises NotFoundError, and UsageError where it is none."""
    shown = safe_text(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise NotFoundError(f"--compare {shown}: {error.strerror}") from None
    try:
        plain = json.loads(data) if len(data) <= LARGEST else None
    except (ValueError, RecursionError):
        plain = None
    if plain is None or not is_run(plain):
        raise UsageError(f"--compare {shown}: this is no run of ollamux bench", hint="ollamux bench --save FILE")
    found: dict[str, Any] = plain
    return found


def last(model: str, *, simulated: bool) -> dict[str, Any]:
    """Return the last run that was kept of a model. Raises NotFoundError."""
    for path in reversed(_kept(_folder(simulated))):
        try:
            plain = read(path)
        except OllamuxError:
            continue
        if same_model(plain["model"], model):
            return plain
    shown = safe_text(model)
    raise NotFoundError(f"no run of {shown} is kept", hint=f"ollamux bench {shown} keeps one")
