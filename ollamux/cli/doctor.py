"""`ollamux doctor`: look, judge, show; or write all of it to a file for a report."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.target import reach
from ollamux.cli.words import find
from ollamux.doctor.draw import drawn
from ollamux.doctor.findings import Report, as_json
from ollamux.doctor.gather import gather, unseen
from ollamux.doctor.rules import judge
from ollamux.domain.errors import Exit, NotRunningError, TimedOutError, UsageError
from ollamux.render.pen import Pen
from ollamux.system.clock import rfc3339, wall


def doctor(*, output: str, config: str | None, simulated: bool, bundle: str | None, root: str) -> int:
    """Show what is wrong, the worst first."""
    if output not in ("table", "json"):
        raise UsageError(f"-o: there is no form {output!r}", hint="there are: table, json")
    if config is not None:
        find(config)  # a file that was named has to be there
    which = _meant(simulated)
    facts, looks = gather(os.environ, config=config, simulated=which, root=Path(root))
    report = Report(
        version=__version__,
        time=rfc3339(wall()),
        simulated=which,
        findings=judge(facts),
        unknown=unseen(facts, looks),
    )
    if bundle is not None:
        from ollamux.doctor.bundle import write_bundle

        path = write_bundle(bundle, report, facts, os.environ)
        screen.say(f"wrote {path}: look into it before you send it (tar -xzOf {shlex.quote(str(path))} | less)\n", fd=2)
    if output == "json":
        screen.write(json.dumps(as_json(report), indent=2, ensure_ascii=False) + "\n")
    else:
        env = os.environ
        pen = Pen(width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env))
        screen.write(drawn(report, pen))
    return int(Exit.DEGRADED if report.is_broken else Exit.OK)


def _meant(simulated: bool) -> bool:
    """Say whether a simulation is meant, by the rule of every command."""
    try:
        connection, which = reach(simulated)
    except (NotRunningError, TimedOutError):
        return simulated
    connection.close()
    return which
