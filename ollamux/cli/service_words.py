"""The words of `ollamux service …`. As in `app`, nothing is done here."""

from __future__ import annotations

from typing import Annotated

import typer

from ollamux.cli.words_shared import EXIT_CODES, Config

service_app = typer.Typer(help="Run ollamux as a service of systemd: install, uninstall, show.", rich_markup_mode=None)

System = Annotated[
    bool | None,
    typer.Option("--system/--user", help="A service of the machine (root's choice), or your own.", show_default=False),
]
RunAs = Annotated[
    str | None, typer.Option("--run-as", metavar="USER", help="The user a system service runs as.", show_default=False)
]
Force = Annotated[bool, typer.Option("--force", help="Also a unit that ollamux did not write, or that was changed.")]


@service_app.command(epilog=EXIT_CODES)
def install(
    system: System = None,
    run_as: RunAs = None,
    config: Config = None,
    now: Annotated[bool, typer.Option("--now", help="Start it at once, too.")] = False,
    force: Force = False,
) -> int:
    """Write the unit and enable it; it starts at login, a system service at boot."""
    from ollamux.cli.service import install

    return install(config, system=system, run_as=run_as, now=now, force=force)


@service_app.command(epilog=EXIT_CODES)
def uninstall(system: System = None, force: Force = False) -> int:
    """Stop the service with all its instances, and remove its unit."""
    from ollamux.cli.service import uninstall

    return uninstall(system=system, force=force)


@service_app.command(epilog=EXIT_CODES)
def show(system: System = None, run_as: RunAs = None, config: Config = None) -> int:
    """Print the unit that install would write."""
    from ollamux.cli.service import show

    return show(config, system=system, run_as=run_as)
