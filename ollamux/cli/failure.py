"""The one place where an error becomes lines on standard error and an exit code."""

from __future__ import annotations

from typing import Any

from ollamux.cli import screen
from ollamux.domain.errors import DeniedError, Exit, NotFoundError, OllamuxError
from ollamux.domain.text import safe_text
from ollamux.render.errors import error_text


def tell(error: Exception) -> int:
    """Say what went wrong and what to do about it; return the exit code."""
    if isinstance(error, OllamuxError):
        return _tell(error)
    if hasattr(error, "format_message"):
        return _usage(error)
    if isinstance(error, OSError):
        return _tell(_plain(error))
    from ollamux.cli.bug import report

    return report(error)


def _tell(error: OllamuxError) -> int:
    screen.say(error_text(error), fd=2)
    return int(error.exit_code)


def _usage(error: Any) -> int:
    """Say what typer found wrong with the words, in as few lines as any other error. A bare group shows its help."""
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if "\n" in message:
        screen.say(message.rstrip("\n") + "\n", fd=2)
        return int(Exit.USAGE)
    for technical, plain in (("valid float range", "number"), ("valid int range", "whole number")):
        message = message.replace(technical, plain)
    message = safe_text(message[:1].lower() + message[1:].rstrip("."))
    command = "ollamux" if context is None else context.command_path
    return _tell(OllamuxError(message, hint=f"{command} --help shows what can be said", exit_code=Exit.USAGE))


def _plain(error: OSError) -> OllamuxError:
    """Return what the operating system refused, where nobody nearer to it knew more."""
    what = error.strerror or str(error)
    message = f"{safe_text(str(error.filename))}: {what}" if error.filename else what
    kind = {PermissionError: DeniedError, FileNotFoundError: NotFoundError}.get(type(error), OllamuxError)
    return kind(message)
