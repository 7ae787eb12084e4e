"""What the shell offers while somebody types a command, and how a command's usage line reads."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class Plain(TyperCommand):
    """A command whose usage line names what it must be given without typer's braces, which read as a choice."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line."""
        return [piece.removeprefix("{").removesuffix("}") for piece in super().collect_usage_pieces(ctx)]


def view_names(incomplete: str) -> list[str]:
    """Return the views of the status whose names begin so, for completion in a shell."""
    from ollamux.domain.snapshot import VIEWS

    return [name for name in VIEWS if name.startswith(incomplete)]


def instance_names(incomplete: str) -> list[str]:
    """Return the instances whose names begin so, for completion in a shell."""
    from ollamux.cli.names import known_names

    return [name for name in known_names() if name.startswith(incomplete)]


def fault_names(incomplete: str) -> list[str]:
    """Return the faults whose names begin so, for completion in a shell."""
    from ollamux.simulation.faults import FAULTS

    return [name for name in (*FAULTS, "clear") if name.startswith(incomplete)]
