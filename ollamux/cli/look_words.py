"""The commands that only look, and their words. Nothing is done here: each imports what does it."""

from __future__ import annotations

from typing import Annotated

import typer

from ollamux.cli.offers import instance_names, view_names
from ollamux.cli.words_shared import Config, Names, Simulated


def status(
    view: Annotated[
        str | None,
        typer.Argument(
            metavar="[gpus|instances|models|processes|topology]",
            help="One view instead of the whole box.",
            autocompletion=view_names,
        ),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", metavar="table|wide|json")] = "table",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw again and again, until Ctrl-C.")] = False,
    interval: Annotated[str, typer.Option("--interval", metavar="S", help="Seconds between.")] = "2",
    config: Config = None,
    simulated: Simulated = False,
) -> int:
    """Show the whole box: GPUs, instances, models."""
    from ollamux.cli.status import status

    return status(view, output=output, watch=watch, interval=interval, config=config, simulated=simulated)


def top(
    interval: Annotated[str, typer.Option("--interval", metavar="S", help="Seconds between two looks.")] = "1",
    simulated: Simulated = False,
) -> int:
    """Watch the box live, with its history; restart an instance by key.

    ? shows the keys, q quits.
    """
    from ollamux.cli.top import top

    return top(interval=interval, simulated=simulated)


def logs(
    names: Names = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more is written.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many lines of each instance.")] = 100,
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help="As 10m, or 2026-01-31T12:00.")] = None,
    grep: Annotated[str | None, typer.Option("--grep", metavar="REGEX", help="Only lines that match.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Also the lines of our own health checks.")] = False,
    config: Config = None,
    simulated: Simulated = False,
) -> int:
    """Show what the servers wrote, merged in order of time."""
    from ollamux.cli.logs import logs

    return logs(
        names, follow=follow, lines=lines, since=since, grep=grep, probes=every, config=config, simulated=simulated
    )


def events(
    names: Names = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more happens.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last ones.")] = 50,
    output: Annotated[str, typer.Option("-o", "--output", metavar="table|json")] = "table",
    simulated: Simulated = False,
) -> int:
    """Show changes of state and their reasons."""
    from ollamux.cli.events import events

    return events(names, follow=follow, lines=lines, output=output, simulated=simulated)


def doctor(
    output: Annotated[str, typer.Option("-o", "--output", metavar="table|json")] = "table",
    bundle: Annotated[
        str | None, typer.Option("--bundle", metavar="FILE", help="Also write all of it to a .tar.gz, without secrets.")
    ] = None,
    config: Config = None,
    simulated: Simulated = False,
    root: Annotated[str, typer.Option("--root", hidden=True)] = "/",
) -> int:
    """Find out what is wrong here, and the command that mends it.

    Changes nothing. Ends with 6 if something is broken.
    """
    from ollamux.cli.doctor import doctor

    return doctor(output=output, config=config, simulated=simulated, bundle=bundle, root=root)


def plan(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Models of the store; else those that the configuration wants."),
    ] = None,
    ctx: Annotated[int | None, typer.Option("--ctx", metavar="N", help="Context of one sequence, in tokens.")] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", metavar="P", help="Sequences at a time.")] = None,
    kv: Annotated[str | None, typer.Option("--kv", metavar="f16|q8_0|q4_0", help="Type of the cache.")] = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", metavar="REF", help="Only this card, as 0 or GPU-...; may be repeated.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Load and keep the models where the plan puts them.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="With --apply: do not wait for the loads.")] = False,
    timeout: Annotated[str, typer.Option("--timeout", metavar="D", help="With --apply: wait for so long.")] = "30m",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="With --apply: say only what went wrong.")] = False,
    unattended: Annotated[bool, typer.Option("--unattended", hidden=True)] = False,
    output: Annotated[str, typer.Option("-o", "--output", metavar="table|json")] = "table",
    config: Config = None,
    simulated: Simulated = False,
) -> int:
    """Show what models need of a card's memory, and where they fit.

    Read from the heads of their files; without --apply nothing is loaded, and no supervisor is needed. What is left out
    is taken from the Modelfile, then from the configuration. Ends with 6 if a model fits on no card.
    """
    from ollamux.cli.apply import Manner
    from ollamux.cli.plan import Asked, plan, plan_and_apply
    from ollamux.cli.words import seconds
    from ollamux.domain.errors import UsageError

    asked = Asked(
        models=tuple(models or ()),
        context=ctx,
        parallel=parallel,
        cache_type=kv,
        gpus=tuple(gpu or ()),
        config=config,
        simulated=simulated,
    )
    if apply:
        manner = Manner(
            wait=not (no_wait or unattended),
            timeout_s=seconds(timeout, "--timeout"),
            quiet=quiet or unattended,
            unattended=unattended,
        )
        return plan_and_apply(asked, manner, output=output)
    if no_wait or quiet or unattended:
        raise UsageError("--no-wait and -q belong to --apply")
    return plan(asked, output=output)


def bench(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="The model; left out: the loaded one.")] = None,
    instances: Annotated[
        list[str] | None,
        typer.Option(
            "--instances",
            "-i",
            metavar="NAME,...",
            help="Only these, by name or glob; loads it there.",
            autocompletion=instance_names,
        ),
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", "-c", metavar="1,2,4", help="At once; left out: up to the slots.")
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", metavar="N", help="Tokens of a prompt, about.")
    ] = 512,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Tokens of an answer, at most.")] = 128,
    repeat: Annotated[int, typer.Option("--repeat", metavar="R", help="Rounds; below 3 nothing is judged.")] = 3,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Write the run there, too.")] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="FILE|last", help="Show it beside another run.")
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="For one load or request.")] = "5m",
    output: Annotated[str, typer.Option("-o", "--output", metavar="table|json")] = "table",
    simulated: Simulated = False,
) -> int:
    """Measure how fast the instances answer, alone and together.

    A model is measured where it is loaded, as it is loaded; instances that are named load it first, and unload it then.
    Each is measured alone, then several at the same time. Ends with 6 if a request failed.
    """
    from ollamux.cli.bench import Words, bench

    names = None if instances is None else tuple(name for text in instances for name in text.split(",") if name)
    words = Words(
        model=model,
        instances=names,
        concurrency=concurrency,
        prompt_tokens=prompt_tokens,
        tokens=tokens,
        rounds=repeat,
        save=save,
        compare=compare,
        timeout=timeout,
        output=output,
        simulated=simulated,
    )
    return bench(words)
