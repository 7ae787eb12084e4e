"""Versions of ollama and what hangs on them: log eras and variables. Pure."""

from __future__ import annotations

import re
from enum import Enum

Version = tuple[int, ...]

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?![\d.])")

FIRST_SUPPORTED: Version = (0, 12, 4)
FIRST_LLAMA_SERVER: Version = (0, 30, 0)


class Era(Enum):
    """How ollama finds devices and runs models. Names of processes and shapes of log lines hang on it."""

    IN_PROCESS = "A"
    RUNNER = "B"
    LLAMA_SERVER = "C"


def parse_version(text: str) -> Version | None:
    """Return the numbers of "0.32.15" or "0.33.0-rc2"; None for "0.0.0", which every build from source calls itself."""
    match = _VERSION.match(text.strip())
    if match is None:
        return None
    numbers = tuple(int(part) for part in match.groups())
    return numbers if any(numbers) else None


def era_of(version: Version | None) -> Era | None:
    """Return the era a version belongs to, or None where the version is not known."""
    if version is None:
        return None
    if version >= FIRST_LLAMA_SERVER:
        return Era.LLAMA_SERVER
    return Era.RUNNER if version >= FIRST_SUPPORTED else Era.IN_PROCESS
