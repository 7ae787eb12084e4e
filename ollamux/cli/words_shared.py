"""Words that several groups of commands share. Nothing is done here."""

from __future__ import annotations

from typing import Annotated

import typer

from ollamux.cli.offers import instance_names

EXIT_CODES = (
    "Exit codes: 0 done, and for status every wanted instance READY and not degraded; 1 internal error; 2 usage; "
    "3 not running; 4 configuration invalid; 5 not found (instance, GPU, file, ollama); 6 degraded or failed; "
    "7 refused or conflicting; 8 timed out; 9 permission."
)

Config = Annotated[str | None, typer.Option("--config", metavar="FILE", help="The configuration file.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing on success; for cron.")]
Simulated = Annotated[bool, typer.Option("--simulated", help="Mean the simulation, not the real thing.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Instances, by name or glob.", autocompletion=instance_names),
]
