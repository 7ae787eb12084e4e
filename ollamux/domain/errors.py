"""Errors a person is meant to read, each with its exit code and its way out.

They are raised where the cause is known, and printed in one place (`ollamux.cli.errors`). A traceback is a bug.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NOT_RUNNING = 3
    CONFIG = 4
    NOT_FOUND = 5
    DEGRADED = 6
    REFUSED = 7
    TIMEOUT = 8
    PERMISSION = 9


class OllamuxError(Exception):
    """Something went wrong in a way we understand. `hint` is the way out, as a sentence or a command."""

    exit_code: Exit = Exit.INTERNAL

    def __init__(self, message: str, *, hint: str | None = None, exit_code: Exit | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(OllamuxError):
    """The words of the command do not fit together."""

    exit_code = Exit.USAGE


class NotRunningError(OllamuxError):
    """There is no supervisor to talk to."""

    exit_code = Exit.NOT_RUNNING


class ConfigError(OllamuxError):
    """The configuration is invalid; the message holds every problem of it."""

    exit_code = Exit.CONFIG


class NotFoundError(OllamuxError):
    """An instance, a GPU, a file or ollama itself is not there."""

    exit_code = Exit.NOT_FOUND


class DegradedError(OllamuxError):
    """Something runs, but not as it should."""

    exit_code = Exit.DEGRADED


class RefusedError(OllamuxError):
    """The request conflicts with what is there."""

    exit_code = Exit.REFUSED


class TimedOutError(OllamuxError):
    """It did not happen in the time given."""

    exit_code = Exit.TIMEOUT


class DeniedError(OllamuxError):
    """The operating system, or our own caution, forbids it."""

    exit_code = Exit.PERMISSION
