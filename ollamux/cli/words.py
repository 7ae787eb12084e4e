"""What several commands read from their words and files."""

from __future__ import annotations

import os
from pathlib import Path

from ollamux.config.cache import cache_path, load_fleet
from ollamux.config.find import Found, find_config, here
from ollamux.config.source import read_source
from ollamux.domain.errors import UsageError
from ollamux.domain.spec import FleetSpec
from ollamux.domain.text import DURATION_RULE, parse_duration
from ollamux.system.places import state_dir


def seconds(text: str, option: str) -> float:
    """Read a duration from the command line. Raises UsageError."""
    found = parse_duration(text)
    if not found:
        raise UsageError(f"{option}: {text!r} is no duration", hint=f"write {DURATION_RULE}")
    return found


def find(explicit: str | None) -> Found:
    """Find the configuration file, as every command does. Raises NotFoundError where a named one is not there."""
    return find_config(explicit, os.environ, here())


def load(explicit: str | None) -> tuple[Path, bytes, FleetSpec]:
    """Return the file, its bytes and what it asks for. Raises OllamuxError."""
    found = find(explicit)
    path = found.required()
    source = read_source(path)
    state = state_dir(os.environ, simulated=False)
    cache = cache_path(state) if os.path.isdir(state) else None
    return path, source, load_fleet(source, found.shown, cache)
