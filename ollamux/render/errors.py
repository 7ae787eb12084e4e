"""An error as a person reads it: what happened, and the way out. Two lines at most, but for a configuration's."""

from __future__ import annotations

from ollamux.domain.errors import OllamuxError


def error_text(error: OllamuxError) -> str:
    """Return the lines for standard error, with the closing newline."""
    text = error.message if "\n" in error.message else f"ollamux: {error.message}"
    lines = [text.rstrip("\n")]
    if error.hint:
        lines.append(f"  {error.hint}")
    return "\n".join(lines) + "\n"
