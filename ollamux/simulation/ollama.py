"""The program `ollama`: which command is wanted, and the errors that come before any work."""

from __future__ import annotations

import difflib
import os
import signal
import sys

from ollamux.simulation import environment
from ollamux.simulation.environment import PanicError
from ollamux.simulation.eras import mimicked

_COMMANDS = ("serve", "start", "create", "show", "run", "stop", "pull", "push", "list", "ls", "ps", "cp", "rm", "help")
_CLIENTS = ("show", "run", "stop", "pull", "list", "ls", "ps", "rm")


def main(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    era = mimicked()
    command, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    if command == "runner":
        from ollamux.simulation import runner

        runner.main(rest, new=False, name="ollama")
    try:
        environment.models()
    except PanicError as error:
        sys.stderr.write(f"panic: {error}\n\ngoroutine 1 [running]:\nmain.main()\n")
        return 2
    if command in ("serve", "start"):
        return _serve(rest)
    if command in ("--version", "-v"):
        from ollamux.simulation import client

        return client.version(era.version)
    if command in _CLIENTS:
        from ollamux.simulation import client

        return client.run(command, rest)
    if command in ("help", "--help", "-h"):
        print("Large language model runner\n\nUsage:\n  ollama [flags]\n  ollama [command]")
        return 0
    return _unknown(command)


def _serve(rest: list[str]) -> int:
    flags = [argument for argument in rest if argument.startswith("-")]
    if flags:
        sys.stderr.write(f"Error: unknown flag: {flags[0].partition('=')[0]}\n")
        return 1
    if rest:
        sys.stderr.write(f"Error: accepts 0 arg(s), received {len(rest)}\n")
        return 1
    from ollamux.simulation.serve import serve

    return serve(mimicked())


def _unknown(command: str) -> int:
    near = difflib.get_close_matches(command, _COMMANDS, n=2, cutoff=0.5)
    sys.stderr.write(f'Error: unknown command "{command}" for "ollama"\n')
    if near:
        sys.stderr.write("\nDid you mean this?\n" + "".join(f"\t{name}\n" for name in near) + "\n")
    return 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
