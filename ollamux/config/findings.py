"""What a check has against a key, before it is known where the key stands."""

from __future__ import annotations

from dataclasses import dataclass

from ollamux.config.keys import name_literal
from ollamux.config.locate import KeyPath, Places
from ollamux.config.problems import Problem
from ollamux.domain.text import safe_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something against the key (`at_key`) or the value at a path."""

    path: KeyPath
    message: str
    hint: str | None = None
    at_key: bool = False

    def placed(self, places: Places) -> Problem:
        """Return the problem with its place in the text; line 0 where nothing of it is in the text."""
        place = places.key(self.path) if self.at_key else places.value(self.path)
        return Problem(
            line=place.line if place else 0,
            column=place.column if place else 0,
            end_column=place.end_column if place else 0,
            path=dotted(self.path),
            message=self.message,
            hint=self.hint,
        )


def dotted(path: KeyPath) -> str:
    """Write a path as a person reads it: instances.gpu0.gpus[1]."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = safe_text(name_literal(part), limit=80)
            text += f".{name}" if text else name
    return text
