"""What `ollamux up` shows on a terminal: how far the instances are, then what happens and what the servers write.

A process of its own, so that a terminal that is stopped, or a viewer that is killed, cannot hold the supervisor up.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from ollamux.cli import screen
from ollamux.cli.events import decoded
from ollamux.cli.loglines import Filter, MergedLines, timed, whole_lines
from ollamux.domain.errors import OllamuxError, TimedOutError
from ollamux.domain.snapshot import Status, from_json
from ollamux.protocol.client import ask, connect
from ollamux.render.lines import event_line, progress_block
from ollamux.render.words import epoch
from ollamux.supervisor.journal import FILE_NAME
from ollamux.system.follow import Follower
from ollamux.system.logfile import size
from ollamux.system.places import log_dir, state_dir

TICK_S = 0.2
CALM_TICK_S = 1.0
LOOK_BACK = 64 * 1024
"""Bytes in which to look for what was written between the start of the supervisor and ours."""
_SETTLING = ("STARTING", "STOPPING", "SWEEPING", "KILLING")


class Viewer:
    """Draws for as long as the supervisor that started it lives."""

    def __init__(self, supervisor: int, *, simulated: bool) -> None:
        self._supervisor = supervisor
        self._simulated = simulated
        self._began = time.monotonic()
        self._count = 0
        self._height = 0
        self._events = Follower(f"{state_dir(os.environ, simulated=simulated)}/{FILE_NAME}")
        self._events.at = max(0, size(self._events.path) - LOOK_BACK)
        self._logs: dict[str, Follower] = {}
        self._since: float | None = None
        self._settling = True
        self._names: list[str] = []
        self._phases: dict[str, str] = {}
        self._last: Status | None = None

    def run(self) -> None:
        """Draw until the supervisor is gone, or has closed its socket, which is the last thing it does."""
        looked_at = 0.0
        while os.getppid() == self._supervisor:
            status = None
            if self._settling or time.monotonic() - looked_at >= CALM_TICK_S:
                looked_at = time.monotonic()
                status = self._status()
                if status is None and self._since is not None:
                    break
            self._draw(status)
            time.sleep(TICK_S)
        self._erase()
        if self._since is not None:
            self._say_events()
            self._say_logs()
            self._say_end()

    def _status(self) -> Status | None:
        try:
            connection = connect(os.environ, simulated=self._simulated)
            if connection is None:
                return None
            self._last = from_json(ask(connection, {"cmd": "status"}, timeout_s=2.0)["status"])
            return self._last
        except TimedOutError:
            return self._last  # it is there, and busy, or just being replaced by a newer version
        except OllamuxError:
            return None

    def _draw(self, status: Status | None) -> None:
        if status is not None:
            self._phases.update((instance.name, instance.phase) for instance in status.instances)
            self._names = [instance.name for instance in status.instances]
            self._settling = any(instance.phase in _SETTLING for instance in status.instances)
        self._erase()
        self._say_headline(status)
        if self._since is None:
            return
        self._say_events()
        self._say_logs()
        if status is not None and self._settling and screen.is_drawable(os.environ):
            self._draw_block(status)
        self._count += 1

    def _draw_block(self, status: Status) -> None:
        env = os.environ
        lines = progress_block(
            status,
            width=screen.width(env),
            color=screen.color(env),
            unicode=screen.unicode(env),
            elapsed_s=time.monotonic() - self._began,
            spinner=self._count,
        )
        screen.write("".join(line + "\n" for line in lines))
        self._height = len(lines)

    def _erase(self) -> None:
        if self._height:
            screen.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0

    def _say_headline(self, status: Status | None) -> None:
        if self._since is not None or status is None or status.supervisor is None:
            return
        self._since = epoch(status.supervisor.started_at) or 0.0
        what = "SIMULATED  " if self._simulated else ""
        screen.write(f"{what}ollamux {status.version}  {status.supervisor.config}  (Ctrl-C stops everything)\n")

    def _say_events(self) -> None:
        env = os.environ
        name_width = max(map(len, self._names), default=0)
        for event in decoded(self._events):
            if (epoch(event.get("time")) or 0.0) < (self._since or 0.0):
                continue  # an earlier supervisor's
            line = event_line(
                event, color=screen.color(env), width=None, unicode=screen.unicode(env), name_width=name_width
            )
            screen.write(line + "\n")
            if event.get("to") is not None:
                self._phases[str(event.get("instance"))] = str(event.get("to"))

    def _say_end(self) -> None:
        """Say the last word, since the prompt that follows says nothing."""
        flag = " --simulated" if self._simulated else ""
        if all(self._phases[name] in ("STOPPED", "FAILED") for name in self._names):
            count = len(self._names)
            screen.say(f"stopped {count} instance{'' if count == 1 else 's'} and the supervisor\n")
        else:
            screen.say(f"the supervisor has ended, instances may serve on: ollamux status{flag}\n")

    def _say_logs(self) -> None:
        folder = log_dir(os.environ, simulated=self._simulated)
        merged = MergedLines(self._names, width=screen.width(os.environ))
        for name in self._names:
            follower = self._logs.get(name)
            wanted = Filter(0.0, None, probes=False)
            if follower is None:  # the servers were quicker than we: what they have said so far is told by its time
                path = f"{folder}/{name}.log"
                follower = self._logs[name] = Follower(path, at=max(0, size(path) - LOOK_BACK))
                wanted = Filter(self._since or 0.0, None, probes=False)
            merged.add([line for line in timed(name, whole_lines(follower), 0.0) if wanted.takes(line)])
        merged.flush()


def main(words: list[str]) -> int:
    """Draw for the supervisor whose pid is named."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor; we end when it has ended
    Viewer(int(words[0]), simulated="--simulated" in words).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
