"""The command `ollamux`. What must be quick is answered here, before typer, TOML or JSON is imported."""

from __future__ import annotations

import os
import sys

_VIEWS = ("gpus", "instances", "models", "processes")
_FORMS = ("table", "wide", "json")
_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    if sys.platform != "linux":
        sys.exit(
            "ollamux: this system is not supported: processes are watched through what only Linux has (pidfd, /proc)"
        )
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        from ollamux.cli import screen

        code = 0
        screen.hush(1)
    except Exception as error:  # noqa: BLE001 - the last resort: a person is never shown a traceback
        from ollamux.cli import failure, screen

        code = failure.tell(error)
        screen.hush(1)
    sys.exit(code)


def _run(words: list[str]) -> int:
    from ollamux.system.descriptors import open_missing

    open_missing()
    code = _status(words)
    if code is None:
        code = _up(words)
    if code is None:
        from ollamux.cli.app import run

        code = run(words)
    return code


def _status(words: list[str]) -> int | None:
    """Answer a plain `status` from the running supervisor, which draws it; None where that is not possible."""
    if not words or words[0] != "status":
        return None
    view, form, simulated = None, "table", False
    rest = iter(words[1:])
    for word in rest:
        if word in _VIEWS and view is None:
            view = word
        elif word in ("-o", "--output"):
            form = next(rest, "")
        elif word == "--simulated":
            simulated = True
        else:
            return None
    if form not in _FORMS:
        return None
    from ollamux.cli import drawing, screen
    from ollamux.protocol.client import connect

    connection = connect(os.environ, simulated=simulated)
    if connection is None:
        return None
    answer = drawing.drawn_by(connection, view, form, simulated=simulated)
    if answer is None:
        return None
    screen.write(answer[1])
    return answer[0]


def _up(words: list[str]) -> int | None:
    """Start a supervisor at once where nothing but a file is named that was found valid before."""
    if words[:1] != ["up"] or len(words) not in (1, 3) or (len(words) == 3 and words[1] != "--config"):
        return None
    from ollamux.cli.quick import up

    return up(words[2] if len(words) == 3 else None)


if __name__ == "__main__":
    main()
