"""The commands and their words. Nothing is done here: each command imports what does it, and returns its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.config_words import config_app
from ollamux.cli.look_words import bench, doctor, events, logs, plan, status, top
from ollamux.cli.model_words import models_app, pull
from ollamux.cli.needed import needed
from ollamux.cli.offers import Plain, fault_names, instance_names
from ollamux.cli.service_words import service_app
from ollamux.cli.tune_words import tune
from ollamux.cli.words_shared import EXIT_CODES, Config, Names, Quiet, Simulated

app = typer.Typer(
    name="ollamux",
    help="Launch, supervise and watch one ollama server per GPU.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(config_app, name="config", epilog=EXIT_CODES)
app.add_typer(models_app, name="models", epilog=EXIT_CODES)
app.add_typer(service_app, name="service", epilog=EXIT_CODES)

Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait, as 90s or 10m.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to the question.")]


def _version(wanted: bool) -> None:
    if wanted:
        screen.write(f"ollamux {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Launch, supervise and watch one ollama server per GPU."""


@app.command(epilog=EXIT_CODES)
def init(
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the file instead of writing it.")] = False,
) -> int:
    """Write a commented configuration for the GPUs of this machine.

    One instance for each GPU; without a GPU one that computes on the CPU.
    """
    from ollamux.cli.configuration import init

    return init(config, force=force, stdout=stdout)


@app.command(epilog=EXIT_CODES)
def up(
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Run in the background; return when all is ready.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="With -d: return as soon as the supervisor runs.")] = False,
    timeout: Timeout = "10m",
    ensure: Annotated[bool, typer.Option("--ensure", help="Like -d, and fine if it runs already; for cron.")] = False,
    simulate: Annotated[
        int | None,
        typer.Option("--simulate", metavar="N", min=1, max=64, help="Run on N simulated GPUs and servers."),
    ] = None,
    config: Config = None,
    quiet: Quiet = False,
) -> int:
    """Start the supervisor and with it all instances."""
    from ollamux.cli.start import up

    return up(
        config,
        detach=detach or ensure,
        wait=not no_wait,
        timeout=timeout,
        ensure=ensure,
        simulate=simulate,
        quiet=quiet,
    )


@app.command(epilog=EXIT_CODES)
def down(
    now: Annotated[bool, typer.Option("--now", help="Give the instances two seconds, then kill them.")] = False,
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Stop all instances, then the supervisor."""
    from ollamux.cli.lifecycle import down

    return down(simulated=simulated, now=now, quiet=quiet)


@app.command(epilog=EXIT_CODES)
def upgrade(
    timeout: Timeout = "1m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Let the installed version take over; the instances serve on.

    The new version is asked first whether it can take over. If it cannot, nothing changes.
    """
    from ollamux.cli.upgrade import upgrade

    return upgrade(timeout=timeout, simulated=simulated, quiet=quiet)


All = Annotated[bool, typer.Option("--all", help="All instances.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]


@app.command(epilog=EXIT_CODES)
def start(
    names: Names = None,
    every: All = False,
    no_wait: NoWait = False,
    timeout: Timeout = "5m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Start instances that are stopped; wait until they are ready."""
    from ollamux.cli.lifecycle import change

    return change("start", names, every=every, wait=not no_wait, timeout=timeout, simulated=simulated, quiet=quiet)


@app.command(epilog=EXIT_CODES)
def stop(
    names: Names = None,
    every: All = False,
    no_wait: NoWait = False,
    timeout: Timeout = "5m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Stop instances until they are started again, or ollamux down."""
    from ollamux.cli.lifecycle import change

    return change("stop", names, every=every, wait=not no_wait, timeout=timeout, simulated=simulated, quiet=quiet)


@app.command(epilog=EXIT_CODES)
def restart(
    names: Names = None,
    every: All = False,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="One at a time, the next only when the last is READY; without names all.")
    ] = False,
    if_unhealthy: Annotated[
        bool, typer.Option("--if-unhealthy", help="Only those that a restart may mend; for cron.")
    ] = False,
    if_running: Annotated[
        bool, typer.Option("--if-running", help="Only those that are meant to run; fine if there is no supervisor.")
    ] = False,
    no_wait: NoWait = False,
    timeout: Timeout = "5m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Restart instances; wait until they are ready again."""
    from ollamux.cli.lifecycle import change

    return change(
        "restart",
        names,
        every=every,
        wait=not no_wait,
        timeout=timeout,
        simulated=simulated,
        quiet=quiet,
        rolling=rolling,
        if_unhealthy=if_unhealthy,
        if_running=if_running,
    )


@app.command(epilog=EXIT_CODES)
def reload(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
    no_wait: NoWait = False,
    timeout: Timeout = "5m",
    simulated: Simulated = False,
    quiet: Quiet = False,
) -> int:
    """Apply a changed configuration, touching only what changed."""
    from ollamux.cli.reload import reload

    return reload(dry_run=dry_run, wait=not no_wait, timeout=timeout, simulated=simulated, quiet=quiet)


app.command(epilog=EXIT_CODES, cls=Plain)(pull)
for _command in (status, top, logs, events, doctor, plan, tune, bench):
    app.command(epilog=EXIT_CODES)(_command)


@app.command(epilog=EXIT_CODES, cls=Plain)
def env(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The instance.", autocompletion=instance_names)],
    reveal: Annotated[bool, typer.Option("--reveal", help="Show secrets too.")] = False,
    config: Config = None,
    simulated: Simulated = False,
) -> int:
    """Print the exact environment of an instance.

    All of it but the mark by which the supervisor knows its own processes.
    """
    from ollamux.cli.environment import show

    return show(name, reveal=reveal, config=config, simulated=simulated)


@app.command(
    "exec",
    cls=Plain,
    epilog=EXIT_CODES,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def execute(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The instance.", autocompletion=instance_names)],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="The command and its words.")],
    simulated: Simulated = False,
) -> int:
    """Run a command with OLLAMA_HOST set to an instance.

    Its exit code is passed on. In a simulation `ollama` is the simulated one.
    """
    from ollamux.cli.environment import execute

    return execute(name, command, simulated=simulated)


@app.command(epilog=EXIT_CODES)
def sim(
    fault: Annotated[
        str | None,
        typer.Argument(
            metavar="[FAULT|clear]", help="What shall happen; left out: list them.", autocompletion=fault_names
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Argument(metavar="[NAME|GPU]", help="To whom; the first one if left out.", autocompletion=instance_names),
    ] = None,
    simulated: Simulated = False,
) -> int:
    """Make faults happen on a simulation, list or clear them."""
    from ollamux.cli.faults import sim

    return sim(fault, target, simulated=simulated)


def run(words: Sequence[str]) -> int:
    """Run the command that the words name. Raises whatever goes wrong, to be told in one place."""
    try:
        code = needed(app, words)(list(words), standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    return int(code) if isinstance(code, int) else 0
