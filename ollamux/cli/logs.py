"""`ollamux logs`: what the servers wrote, of all instances in order of time, each line behind its instance's name."""

from __future__ import annotations

import os
import re
import time
from fnmatch import fnmatchcase

from ollamux.cli import screen
from ollamux.cli.loglines import Filter, MergedLines
from ollamux.cli.logsource import OWN, InstanceLog, Source, SupervisorLog
from ollamux.cli.names import require_known
from ollamux.cli.target import simulation_meant, way_to_records
from ollamux.domain.errors import DeniedError, Exit, NotFoundError, UsageError
from ollamux.domain.text import parse_duration
from ollamux.system.clock import wall
from ollamux.system.places import log_dir, state_dir

_POLL_S = 0.2
_LOG_SUFFIX = ".log"


def logs(
    names: list[str] | None,
    *,
    follow: bool,
    lines: int,
    since: str | None,
    grep: str | None,
    probes: bool,
    config: str | None,
    simulated: bool,
) -> int:
    """Show the last lines of each instance, and with `follow` those that come."""
    meant = simulation_meant(simulated)
    box = _Box(log_dir(os.environ, simulated=meant), state_dir(os.environ, simulated=meant), names)
    known = box.known()
    if not known and not follow and OWN not in (names or ()):
        raise NotFoundError("nothing has been logged yet", hint=way_to_records(simulated))
    if known:
        require_known(names, [*known, OWN], "no log")
    wanted = Filter(_since(since), _pattern(grep), probes)
    box.find()
    show = MergedLines(list(box.sources))
    for source in box.sources.values():
        show.add(source.last(lines, wanted, whole=follow))
    try:
        show.flush()
        behind = False
        while follow and screen.is_read():
            if not behind:
                time.sleep(_POLL_S)
            behind = _go_on(box, wanted)
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return int(Exit.OK)


def _go_on(box: _Box, wanted: Filter) -> bool:
    """Print what was written since the last look, also by instances that were not there then; True: there is more."""
    box.find()
    show = MergedLines(list(box.sources))
    for source in box.sources.values():
        show.add(source.new(wanted))
    show.flush()
    return any(source.behind for source in box.sources.values())


class _Box:
    """The logs that there are, and of them those that are meant."""

    def __init__(self, logs: str, state: str, names: list[str] | None) -> None:
        self._logs, self._state, self._names = logs, state, names
        self.sources: dict[str, Source] = {}

    def known(self) -> list[str]:
        """Return the instances that have a log."""
        try:
            files = sorted(os.listdir(self._logs))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DeniedError(f"{self._logs} cannot be read: {error.strerror}", hint=f"ls -ld {self._logs}") from None
        found = [name.removesuffix(_LOG_SUFFIX) for name in files if name.endswith(_LOG_SUFFIX)]
        return [name for name in found if name != OWN]

    def find(self) -> None:
        """Take in the logs that are meant and new. That of the supervisor is shown only where it is named."""
        for name in self.known():
            meant = not self._names or any(fnmatchcase(name, one) for one in self._names)
            if meant and name not in self.sources:
                self.sources[name] = InstanceLog(name, f"{self._logs}/{name}{_LOG_SUFFIX}")
        if OWN in (self._names or ()) and OWN not in self.sources:
            self.sources[OWN] = SupervisorLog(f"{self._logs}/{OWN}{_LOG_SUFFIX}", self._state)


def _since(text: str | None) -> float:
    if text is None:
        return 0.0
    ago = parse_duration(text)
    if ago is not None:
        return wall() - ago
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"):
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    raise UsageError(f"--since: {text!r} is no time", hint="write 10m, or 2026-01-31T12:00")


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"--grep: {text!r} is no regular expression: {error}") from None
