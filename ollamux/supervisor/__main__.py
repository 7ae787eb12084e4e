"""The supervisor as a program of its own: `python -m ollamux.supervisor`, started by `ollamux up`.

A process that has validated a configuration has loaded much that a supervisor never needs again; this one starts
fresh and takes the outcome from where the validation left it. Not meant to be typed.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ollamux.config.cache import cache_path, load_fleet
from ollamux.config.source import read_source
from ollamux.domain.errors import Exit, OllamuxError
from ollamux.domain.spec import FleetSpec
from ollamux.render.errors import error_text
from ollamux.supervisor.boot import Launch, supervise
from ollamux.supervisor.family import MARKS
from ollamux.system.descriptors import open_missing
from ollamux.system.files import private_dir
from ollamux.system.notify_socket import ManagerEnv, take_manager_env
from ollamux.system.places import state_dir

Loaded = tuple[bytes, FleetSpec]
"""The bytes of a configuration and what they ask for."""


def main(words: Sequence[str], env: Mapping[str, str], loaded: Loaded | None = None) -> int:
    """Run a supervisor. Words: --config PATH, --simulated, --ready-fd N, --viewer, --plain-fd N, --ascii.

    Or --handover N, to take over from the program that this one has replaced, or --check-handover N, to say whether
    that is possible. `loaded` saves reading the file again, where the caller has just done so.
    """
    open_missing()
    for name in MARKS:
        os.environ.pop(name, None)  # a copy of a server's environment: our helpers are no processes of that server
    options = _options(words)
    if "check-handover" in options:
        from ollamux.supervisor.taking import check

        return check(int(options["check-handover"]))
    ready = int(options["ready-fd"]) if "ready-fd" in options else None
    try:
        if "handover" in options:
            return _take_over(int(options["handover"]), env)
        return supervise(_launch(options, env, ready, loaded))
    except OllamuxError as error:
        told = error
    except OSError as error:
        told = _refused(error)
    if ready is None:
        os.write(2, error_text(told).encode("utf-8", "replace"))
    else:
        _tell(ready, f"{int(told.exit_code)}\n{error_text(told)}")
    return int(told.exit_code)


def _refused(error: OSError) -> OllamuxError:
    """Return the error for what the machine would not give us: that is no mistake of ours, and may be over soon."""
    where = f": {error.filename}" if error.filename else ""
    code = Exit.PERMISSION if isinstance(error, PermissionError) else Exit.DEGRADED
    hint = {
        errno.EMFILE: "it may open too few files: ulimit -n tells how many, ulimit -n 1024 raises it",
        errno.ENFILE: "the whole machine has too many files open: sysctl fs.file-nr tells",
        errno.ENOSPC: "the disk is full: df tells which",
        errno.ENOMEM: "there is no memory left: free tells",
    }.get(error.errno or 0)
    return OllamuxError(f"the supervisor could not start: {error.strerror or error}{where}", hint=hint, exit_code=code)


def _options(words: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    rest = list(words)
    while rest:
        name = rest.pop(0).removeprefix("--")
        options[name] = "" if name in ("simulated", "ascii", "viewer") else rest.pop(0)
    return options


def _launch(options: Mapping[str, str], env: Mapping[str, str], ready: int | None, loaded: Loaded | None) -> Launch:
    simulated = "simulated" in options
    state = state_dir(env, simulated=simulated)
    private_dir(state)
    env, manager = _without_manager(env)
    config = os.path.abspath(options["config"])
    source, fleet = loaded or _load(Path(config), state)
    if ready is not None:
        os.set_inheritable(ready, False)
    return Launch(
        fleet=fleet,
        source=source,
        config=config,
        env=env,
        manager=manager,
        host_name=os.uname().nodename,
        box=f"{state}/box" if simulated else None,
        child_home=f"{state}/home" if simulated else None,
        hang_up=ready is None,
        announce=(lambda path: None) if ready is None else (lambda path: _tell(ready, f"0\n{path}\n")),
        attach=(lambda: _attach(simulated)) if "viewer" in options else None,
        plain_output=int(options["plain-fd"]) if "plain-fd" in options else None,
        unicode="ascii" not in options,
    )


def _take_over(fd: int, env: Mapping[str, str]) -> int:
    from ollamux.supervisor.carried import read
    from ollamux.supervisor.taking import launch_of

    try:
        handed = read(fd)
    except ValueError as error:
        raise OllamuxError(str(error), hint="ollamux up finds the instances again") from error
    os.close(fd)
    env, manager = _without_manager(env)
    return supervise(launch_of(handed, env, manager), handed)


def _without_manager(env: Mapping[str, str]) -> tuple[dict[str, str], ManagerEnv]:
    env = dict(env)
    manager = take_manager_env(env, pid=os.getpid())
    for name, _ in manager.variables:
        os.environ.pop(name, None)  # the helper and the viewer inherit this one
    return env, manager


def _load(config: Path, state: str) -> Loaded:
    source = read_source(config)
    return source, load_fleet(source, str(config), cache_path(state))


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
    # Ctrl-C is for us; a viewer that is still starting could only die of it, with a traceback on the terminal.
    return frozenset({os.posix_spawn(sys.executable, command, os.environ, setsigmask=(signal.SIGINT,))})


if __name__ == "__main__":
    try:
        if "--handover" not in sys.argv:  # there all signals are held back until somebody can answer them
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))  # `up` held it back until here
        sys.exit(main(sys.argv[1:], dict(os.environ)))
    except KeyboardInterrupt:
        sys.exit(int(Exit.OK))
