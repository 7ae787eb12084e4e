"""`ollamux up` in the foreground, without typer: from exec to the first child in as little as it takes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ollamux.cli import screen
from ollamux.config.cache import cache_path, load_fleet
from ollamux.config.find import find_config, here
from ollamux.config.source import read_source
from ollamux.supervisor.__main__ import main as supervisor
from ollamux.supervisor.forewarn import forewarnings
from ollamux.system.files import private_dir
from ollamux.system.places import state_dir


def up(explicit: str | None) -> int | None:
    """Run the supervisor in this process; None where there is no configuration and somebody must be asked."""
    found = find_config(explicit, os.environ, here())
    return None if found.path is None else run(found.path, simulated=False)


def run(config: Path, *, simulated: bool) -> int:
    """Validate a file and become its supervisor. Raises OllamuxError before anything is started."""
    state = state_dir(os.environ, simulated=simulated)
    private_dir(state)
    source = read_source(config)
    fleet = load_fleet(source, str(config), cache_path(state))
    for warning in forewarnings(fleet, os.environ, simulated=simulated):
        screen.write(f"warning: {warning}\n", fd=2)
    words = ["--config", os.path.abspath(config)]
    words += ["--simulated"] if simulated else []
    words += ["--viewer"] if screen.is_terminal() else ["--plain-fd", "1"]
    words += [] if screen.unicode(os.environ) else ["--ascii"]
    if "pydantic" in sys.modules or "typer" in sys.modules:
        # A supervisor lives for months: it starts afresh, without what was needed only to get here.
        # Ctrl-C waits until it can be answered there: an interpreter interrupted as it starts prints a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        os.execv(sys.executable, [sys.executable, "-P", "-m", "ollamux.supervisor", *words])
    return supervisor(words, dict(os.environ), (source, fleet))
