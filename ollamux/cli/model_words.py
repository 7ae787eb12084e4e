"""The words of `ollamux models …` and `ollamux pull`. As in `app`, nothing is done here."""

from __future__ import annotations

from typing import Annotated

import typer

from ollamux.cli.offers import Plain, instance_names
from ollamux.cli.words_shared import EXIT_CODES, Config, Quiet, Simulated

models_app = typer.Typer(
    help="The models of all instances: list, load, unload, pin, unpin.", rich_markup_mode=None, no_args_is_help=True
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model, as qwen3:8b.")]
On = Annotated[
    str | None, typer.Option("--on", metavar="INSTANCE", help="The instance.", autocompletion=instance_names)
]
Context = Annotated[
    int | None, typer.Option("--ctx", metavar="N", min=256, max=16_777_216, help="Its context in tokens.")
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait, as 90s or 10m.")]


@models_app.command(epilog=EXIT_CODES)
def ls(
    output: Annotated[str, typer.Option("-o", "--output", metavar="table|json")] = "table",
    config: Config = None,
    simulated: Simulated = False,
) -> int:
    """List the models of all stores: size, where each is loaded, where it is kept."""
    from ollamux.cli.models_list import ls

    return ls(output=output, config=config, simulated=simulated)


@models_app.command(epilog=EXIT_CODES, cls=Plain)
def load(
    model: Model,
    on: On = None,
    ctx: Context = None,
    keep_alive: Annotated[
        str | None,
        typer.Option("--keep-alive", metavar="DURATION", help="How long it stays unused, as 30m; -1 is for ever."),
    ] = None,
    no_wait: NoWait = False,
    timeout: Timeout = "30m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Load a model: where it is loaded, else where most memory is free.

    Ctrl-C gives the load up.
    """
    from ollamux.cli.models import load

    return load(
        model,
        on=on,
        ctx=ctx,
        keep_alive=keep_alive,
        wait=not no_wait,
        timeout=timeout,
        simulated=simulated,
        quiet=quiet,
    )


@models_app.command(epilog=EXIT_CODES, cls=Plain)
def unload(
    model: Model,
    on: On = None,
    no_wait: NoWait = False,
    timeout: Timeout = "5m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Unload a model, everywhere or on one instance.

    Requests that it is at are answered first.
    """
    from ollamux.cli.models import unload

    return unload(model, on=on, wait=not no_wait, timeout=timeout, simulated=simulated, quiet=quiet)


@models_app.command(epilog=EXIT_CODES, cls=Plain)
def pin(
    model: Model,
    on: On = None,
    ctx: Context = None,
    no_wait: NoWait = False,
    timeout: Timeout = "30m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Load a model and keep it loaded, until unpin.

    Also over restarts, down and up, and a reboot.
    """
    from ollamux.cli.models import pin

    return pin(model, on=on, ctx=ctx, wait=not no_wait, timeout=timeout, simulated=simulated, quiet=quiet)


@models_app.command(epilog=EXIT_CODES, cls=Plain)
def unpin(model: Model, on: On = None, simulated: Simulated = False, quiet: Quiet = False) -> int:
    """End what pin began; the model goes after its usual time."""
    from ollamux.cli.models import unpin

    return unpin(model, on=on, simulated=simulated, quiet=quiet)


def pull(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="The models, as qwen3:8b.")],
    on: On = None,
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Fetch models, once for all instances that share a store.

    Ctrl-C stops it; what has come stays.
    """
    from ollamux.cli.models import pull

    return pull(models, on=on, simulated=simulated, quiet=quiet)
