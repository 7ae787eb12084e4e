"""`ollamux env` and `ollamux exec`: what an instance runs with, and running something against it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ollamux.cli import screen
from ollamux.cli.target import question
from ollamux.cli.words import load
from ollamux.domain.errors import DeniedError, Exit, NotFoundError, NotRunningError, OllamuxError, UsageError
from ollamux.domain.secrets import mask
from ollamux.domain.text import safe_text
from ollamux.system.places import home, state_dir


def show(name: str, *, reveal: bool, config: str | None, simulated: bool) -> int:
    """Print the environment, one variable a line; of a fleet that does not run, the one it would get."""
    try:
        env: dict[str, str] = question({"cmd": "env", "name": name}, simulated=simulated)[0]["env"]
    except NotRunningError:
        if simulated:
            raise
        env = _planned(name, config)
    for key, value in sorted(env.items()):
        screen.write(f"{key}={safe_text(value if reveal else mask(key, value))}\n")
    return int(Exit.OK)


def _planned(name: str, config: str | None) -> dict[str, str]:
    from ollamux.cli.hardware import read_gpus
    from ollamux.gpu.resolve import resolve
    from ollamux.ollama.env import child_env
    from ollamux.supervisor.selecting import unknown_instance

    fleet = load(config)[2]
    spec = fleet.instance(name)
    if spec is None:
        raise unknown_instance(name, [known.name for known in fleet.instances])
    found = resolve(spec, read_gpus())
    screen.say("no supervisor is running; this is what it would set now\n", fd=2)
    if found.problem is not None:
        screen.say(f"{name}: {found.problem}\n", fd=2)
    return child_env(spec, gpus=found.gpus, outer=os.environ, home=home(os.environ), version=None, markers={})


def execute(name: str, command: Sequence[str], *, simulated: bool) -> int:
    """Become the command, with OLLAMA_HOST set. Returns only where it cannot be started."""
    words, flagged = _split(command)
    reply, which = question({"cmd": "status"}, simulated=simulated or flagged)
    status = reply["status"]
    instance = next((one for one in status["instances"] if one["name"] == name), None)
    if instance is None:
        from ollamux.supervisor.selecting import unknown_instance

        raise unknown_instance(name, [one["name"] for one in status["instances"]])
    env = dict(os.environ)
    env["OLLAMA_HOST"] = str(instance["url"])
    if which:
        env["PATH"] = f"{state_dir(os.environ, simulated=True)}/box/bin:{env.get('PATH', os.defpath)}"
    try:
        os.execvpe(words[0], words, env)
    except FileNotFoundError:
        where = "there is no such file" if "/" in words[0] else "it is not on PATH"
        raise NotFoundError(f"the command {words[0]!r} was not found: {where}") from None
    except PermissionError:
        raise DeniedError(f"the command {words[0]!r} may not be run", hint="is it a program? ls -l tells") from None
    except OSError as error:
        raise OllamuxError(f"the command {words[0]!r} could not be started: {error.strerror}") from None


def _split(command: Sequence[str]) -> tuple[list[str], bool]:
    """Return the command and whether `--simulated` stood between the name and the command's own words."""
    words = list(command)
    flagged = words[:1] == ["--simulated"]
    words = words[1:] if flagged else words
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise UsageError("there is no command to run", hint="ollamux exec NAME -- ollama list")
    return words, flagged
