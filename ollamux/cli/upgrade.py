"""`ollamux upgrade`: let the installed version take over from the running supervisor, without touching an instance."""

from __future__ import annotations

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.target import reach
from ollamux.cli.words import seconds
from ollamux.domain.errors import NotRunningError, TimedOutError
from ollamux.protocol.client import ask

_GRACE_S = 10.0
"""For the exec itself; the supervisor keeps the time of the question that comes before it."""


def upgrade(*, timeout: str, simulated: bool, quiet: bool) -> int:
    """Ask for it, and return once the new program answers in place of the old one."""
    timeout_s = seconds(timeout, "--timeout")
    connection, which = reach(simulated)
    flag = " --simulated" if which else ""
    request = {"cmd": "upgrade", "version": __version__, "timeout": timeout_s}
    try:
        reply = ask(connection, request, timeout_s=timeout_s + _GRACE_S)
    except TimedOutError:
        raise TimedOutError(
            "the supervisor did not answer in time", hint=f"ollamux status{flag} shows which version runs"
        ) from None
    except NotRunningError:
        again = "ollamux up --ensure" if not which else "ollamux up --simulate N --ensure"
        raise NotRunningError(
            "the supervisor ended while it was replaced; its instances serve on",
            hint=f"{again} starts one that takes them over; its log says why it ended",
        ) from None
    if not quiet:
        count = int(reply["instances"])
        untouched = f"{count} instance{'' if count == 1 else 's'} untouched"
        screen.write(f"supervisor {reply['from']} -> {reply['to']}, pid {reply['pid']}, {untouched}\n")
    return int(reply["exit"])
