"""The part of the command line that some words need: typer would put together every command, whichever is run."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import typer
from typer.models import CommandInfo, TyperInfo


def needed(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """Return the command that is named alone, or for the overview all without their options; else the whole.

    Completion in a shell gives no words, and a name that is not known is to be told from all there are.
    """
    part = copy.copy(app)
    if list(words) in (["--help"], ["-h"]):
        part.registered_commands = [_named(info) for info in app.registered_commands]
        part.registered_groups = [_empty(group) for group in app.registered_groups]
        return part
    name = next(iter(words), "")
    part.registered_commands = [info for info in app.registered_commands if _name(info) == name]
    part.registered_groups = [group for group in app.registered_groups if group.name == name]
    return part if part.registered_commands or part.registered_groups else app


def _name(info: CommandInfo) -> str:
    return info.name or ("" if info.callback is None else info.callback.__name__)


def _named(info: CommandInfo) -> CommandInfo:
    """Return a command of the same name and words that takes nothing."""

    def nothing() -> None:
        """Be described, and never run."""

    nothing.__doc__ = None if info.callback is None else info.callback.__doc__
    bare = copy.copy(info)
    bare.name, bare.callback = _name(info), nothing
    return bare


def _empty(group: TyperInfo) -> TyperInfo:
    bare = copy.copy(group)
    bare.typer_instance = copy.copy(group.typer_instance)
    if bare.typer_instance is not None:
        bare.typer_instance.registered_commands = []
    return bare
