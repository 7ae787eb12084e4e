"""The words of `ollamux config …`. As in `app`, nothing is done here."""

from __future__ import annotations

from typing import Annotated

import typer

from ollamux.cli.words_shared import EXIT_CODES, Config, Quiet

config_app = typer.Typer(help="Look at the configuration: check, show, path, schema.", rich_markup_mode=None)


@config_app.command(epilog=EXIT_CODES)
def check(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="The file to judge.")] = None,
    config: Config = None,
    here: Annotated[bool, typer.Option("--here", help="Also require its GPUs and programs on this machine.")] = False,
    quiet: Quiet = False,
) -> int:
    """Say every problem of a configuration file at once."""
    from ollamux.cli.configuration import check

    return check(file or config, here=here, quiet=quiet)


@config_app.command(epilog=EXIT_CODES)
def show(
    config: Config = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show secrets too.")] = False,
) -> int:
    """Print the configuration in force: every default filled in, GPUs as UUIDs."""
    from ollamux.cli.configuration import show

    return show(config, reveal=reveal)


@config_app.command(epilog=EXIT_CODES)
def path(config: Config = None) -> int:
    """Say which file is used, and where else one was looked for."""
    from ollamux.cli.configuration import path

    return path(config)


@config_app.command(epilog=EXIT_CODES)
def schema() -> int:
    """Print the JSON Schema of the file, with which editors complete and check it."""
    from ollamux.cli.configuration import schema

    return schema()
