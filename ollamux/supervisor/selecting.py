"""Which instances the words of a person mean: names and globs. Knows nothing of what is done with them."""

from __future__ import annotations

from collections.abc import Mapping

from ollamux.domain.errors import NotFoundError
from ollamux.supervisor.unit import Unit


def select(units: Mapping[str, Unit], names: list[str]) -> list[Unit]:
    """Return the instances that names and globs mean, in the order of the configuration, each once."""
    from fnmatch import fnmatchcase

    chosen: set[str] = set()
    for name in names:
        matching = [known for known in units if known == name or fnmatchcase(known, name)]
        if not matching:
            raise unknown_instance(name, list(units))
        chosen.update(matching)
    return [unit for known, unit in units.items() if known in chosen]


def unknown_instance(name: str, known: list[str]) -> NotFoundError:
    """Return the error for a name that no instance has, with the nearest one that there is."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    there = ", ".join(known) or "none"
    hint = f'did you mean "{near[0]}"?' if near else f"there are: {there}"
    return NotFoundError(f"there is no instance {name!r}", hint=hint)
