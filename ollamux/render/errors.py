"""An error as a person reads it: what happened, and the way out. Two lines at most, but for a configuration's."""

from __future__ import annotations

from ollamux.domain.errors import ConfigError, OllamuxError


def error_text(error: OllamuxError) -> str:
    """Return the lines for standard error, with the closing newline."""
    found_in_file = isinstance(error, ConfigError) and "\n" in error.message
    text = error.message if found_in_file else f"ollamux: {error.message}"
    lines = [text.rstrip("\n")]
    if error.hint:
        lines.append(f"  {error.hint}")
    return "\n".join(lines) + "\n"
