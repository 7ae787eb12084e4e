"""`init` and `config …`: write, judge and show the configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ollamux.cli import screen
from ollamux.cli.words import find, load
from ollamux.config.warn import warnings
from ollamux.domain.errors import Exit, OllamuxError, RefusedError
from ollamux.domain.spec import FleetSpec
from ollamux.gpu.model import Inventory
from ollamux.gpu.resolve import resolve, shared_gpus
from ollamux.system import ports
from ollamux.system.places import home


def init(config: str | None, *, force: bool, stdout: bool) -> int:
    """Write the configuration for this machine."""
    text = initial_text()
    if stdout:
        screen.write(text)
        return int(Exit.OK)
    path = write_initial(init_path(config), text, force=force)
    screen.say(f"wrote {path}\nnext: look at it, then  ollamux up\n")
    return int(Exit.OK)


def init_path(config: str | None) -> Path:
    """Return where `init` writes: the file that is named, else the user's own place."""
    named = config or os.environ.get("OLLAMUX_CONFIG")
    if named:
        return Path(os.path.abspath(named))
    xdg = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path(home(os.environ)) / ".config"
    return base / "ollamux" / "config.toml"


def initial_text() -> str:
    """Return the commented configuration for the GPUs that are there."""
    from ollamux.cli.hardware import read_gpus
    from ollamux.config.write import find_store, initial_config

    store, reason = find_store(Path(home(os.environ)))
    return initial_config(
        read_gpus(),
        store=store,
        store_reason=reason,
        ports_in_use=lambda port: ports.obstacle("127.0.0.1", port) is not None,
        now=None,
    )


def write_initial(path: Path, text: str, *, force: bool) -> Path:
    """Write the file as a whole. Raises RefusedError where one is there, DeniedError where we may not."""
    from ollamux.system.files import folder_error, write_atomic

    if path.is_dir():
        raise RefusedError(f"{path} is a folder", hint="name a file")
    if os.path.lexists(path) and not force:
        raise RefusedError(f"{path} is there already", hint="ollamux init --force overwrites it, --stdout only prints")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(str(path), text.encode(), mode=0o644)
    except OSError as error:
        raise folder_error(str(path), error) from None
    return path


def check(explicit: str | None, *, here: bool, quiet: bool) -> int:
    """Judge the file; with `here` also whether this machine has what it names."""
    path, _, fleet = load(explicit)
    for warning in (*warnings(fleet), *(_warnings_here(fleet) if here else ())):
        screen.say(f"warning: {warning}\n", fd=2)
    missing = _missing_here(fleet) if here else []
    for problem in missing:
        screen.say(f"ollamux: {problem}\n", fd=2)
    if missing:
        return int(Exit.NOT_FOUND)
    if not quiet:
        count = len(fleet.instances)
        screen.say(f"{path}: valid, {count} instance{'' if count == 1 else 's'}\n")
    return int(Exit.OK)


def _warnings_here(fleet: FleetSpec) -> tuple[str, ...]:
    from ollamux.supervisor.forewarn import program_warnings

    return program_warnings(fleet, os.environ)


def _missing_here(fleet: FleetSpec) -> list[str]:
    from ollamux.cli.hardware import read_gpus
    from ollamux.supervisor.programs import check_programs

    inventory = read_gpus()
    found = []
    for spec in fleet.instances:
        problem = resolve(spec, inventory).problem
        if problem is not None:
            found.append(f"{spec.name}: {problem}")
    found += [str(clash) for clash in shared_gpus(fleet, inventory)]
    try:
        check_programs(fleet, os.environ)
    except OllamuxError as error:
        found.append(error.message if error.hint is None else f"{error.message}\n  {error.hint}")
    return found


def resolved(fleet: FleetSpec, inventory: Inventory) -> dict[str, tuple[str, ...]]:
    """Return the UUIDs of each instance's GPUs, where they can be told."""
    return {spec.name: tuple(gpu.uuid for gpu in resolve(spec, inventory).gpus) for spec in fleet.instances}


def show(explicit: str | None, *, reveal: bool) -> int:
    """Print what is in force."""
    from ollamux.cli.hardware import read_gpus
    from ollamux.config.show import effective

    path, _, fleet = load(explicit)
    found = {name: uuids for name, uuids in resolved(fleet, read_gpus()).items() if uuids}
    screen.write(f"# in force: {path}\n{effective(fleet, found, reveal=reveal)}")
    return int(Exit.OK)


def path(explicit: str | None) -> int:
    """Say which file is used and why; where there is none, where one was looked for."""
    found = find(explicit)
    screen.write(f"{found.required()}\n")
    for place in found.looked:
        screen.write(f"  {place.path}  {place.why}: {place.state}\n", fd=2)
    return int(Exit.OK)


def schema() -> int:
    """Print the JSON Schema."""
    from ollamux.config.schema import json_schema

    screen.write(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n")
    return int(Exit.OK)
