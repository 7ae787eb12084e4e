"""The supervisor as a program of its own: `python -m ollamux.supervisor`, started by `ollamux up`.

A process that has validated a configuration has loaded much that a supervisor never needs again; this one starts
fresh and takes the outcome from where the validation left it. Not meant to be typed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ollamux.config.cache import load_fleet
from ollamux.config.source import read_source
from ollamux.domain.errors import Exit, OllamuxError
from ollamux.render.errors import error_text
from ollamux.supervisor.boot import Launch, supervise
from ollamux.system.child import open_standard_descriptors
from ollamux.system.files import private_dir
from ollamux.system.places import state_dir

CACHE_NAME = "config-cache.json"


def cache_path(state: str) -> Path:
    """Return where the outcome of validating a configuration is kept."""
    return Path(state) / CACHE_NAME


def main(words: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a supervisor. Words: --config PATH, --simulated, --ready-fd N, --viewer ARGV…, --plain-fd N, --ascii."""
    open_standard_descriptors()
    options = _options(words)
    ready = int(options["ready-fd"]) if "ready-fd" in options else None
    try:
        return supervise(_launch(options, env, ready))
    except OllamuxError as error:
        told = error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        told = OllamuxError(f"the supervisor could not start: {error.strerror or error}{where}")
    if ready is None:
        os.write(2, error_text(told).encode("utf-8", "replace"))
    else:
        _tell(ready, f"{int(told.exit_code)}\n{error_text(told)}")
    return int(told.exit_code)


def _options(words: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    rest = list(words)
    while rest:
        name = rest.pop(0).removeprefix("--")
        options[name] = "" if name in ("simulated", "ascii", "viewer") else rest.pop(0)
    return options


def _launch(options: Mapping[str, str], env: Mapping[str, str], ready: int | None) -> Launch:
    simulated = "simulated" in options
    state = state_dir(env, simulated=simulated)
    private_dir(state)
    config = os.path.abspath(options["config"])
    source = read_source(Path(config))
    fleet = load_fleet(source, config, cache_path(state))
    if ready is not None:
        os.set_inheritable(ready, False)
    return Launch(
        fleet=fleet,
        source=source,
        config=config,
        env=env,
        host_name=os.uname().nodename,
        box=f"{state}/box" if simulated else None,
        child_home=f"{state}/home" if simulated else None,
        hang_up=ready is None,
        announce=(lambda path: None) if ready is None else (lambda path: _tell(ready, f"0\n{path}\n")),
        attach=(lambda: _attach(simulated)) if "viewer" in options else None,
        plain_output=int(options["plain-fd"]) if "plain-fd" in options else None,
        unicode="ascii" not in options,
    )


def _tell(ready: int, text: str) -> None:
    """Tell whoever started us, if he is still there, and only once."""
    try:
        os.write(ready, text.encode("utf-8", "replace"))
        os.close(ready)
    except OSError:
        pass  # gone before we were ready; that is his affair


def _attach(simulated: bool) -> frozenset[int]:
    """Start the program that draws on the terminal: it may be stopped or killed without any harm to us."""
    command = [sys.executable, "-P", "-m", "ollamux.cli.viewer", str(os.getpid())]
    command += ["--simulated"] if simulated else []
    return frozenset({os.posix_spawn(sys.executable, command, os.environ)})


if __name__ == "__main__":
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))  # `up` held it back until here
        sys.exit(main(sys.argv[1:], dict(os.environ)))
    except KeyboardInterrupt:
        sys.exit(int(Exit.OK))
