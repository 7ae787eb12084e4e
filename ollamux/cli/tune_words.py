"""The words of `ollamux tune`. As in `app`, nothing is done here."""

from __future__ import annotations

from typing import Annotated

import typer

from ollamux.cli.model_words import On
from ollamux.cli.words_shared import Simulated


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, as qwen3:8b.")],
    on: On = None,
    maximise: Annotated[
        str | None,
        typer.Option(
            "--maximise",
            metavar="layers|ctx|parallel",
            help="What to make as large as it can be; else layers where not all of them fit on the card, else ctx.",
        ),
    ] = None,
    ctx: Annotated[
        int | None,
        typer.Option("--ctx", metavar="N", min=64, max=16_777_216, help="The context; with ctx: at most that."),
    ] = None,
    create: Annotated[
        str | None, typer.Option("--create", metavar="NAME", help="Create a model with what was found.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --create: replace a model of that name.")] = False,
    modelfile: Annotated[
        str | None, typer.Option("--modelfile", metavar="FILE|-", help="Write the Modelfile there; - prints it alone.")
    ] = None,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long one load with its full context may take.")
    ] = "30m",
    output: Annotated[str, typer.Option("-o", "--output", metavar="table|json")] = "table",
    simulated: Simulated = False,
) -> int:
    """Find the most layers, context or slots a card bears.

    By real loads, each with its context filled. The instance's own models
    are unloaded meanwhile, and loaded again at the end. Ctrl-C stops it.
    """
    from ollamux.cli.tune import Words, tune

    words = Words(
        model=model,
        on=on,
        maximise=maximise,
        context=ctx,
        create=create,
        force=force,
        modelfile=modelfile,
        timeout=timeout,
        output=output,
        simulated=simulated,
    )
    return tune(words)
