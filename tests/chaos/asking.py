"""The commands of a run: started as a person starts them, several at once, and each judged by how it ended."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.chaos.ground import COMMAND, Ground
from tests.chaos.intents import Intents
from tests.chaos.observer import Violation

LONGEST_S = 120.0
EXPECTED = frozenset({0, 3, 6, 7, 8})
"""Codes that a correct command on a correct configuration may end with while faults happen."""
EXTRA = "extra"
"""The instance that comes and goes with reloads."""
NEVER_SAID = ("Traceback (most recent call last)", "internal error", "Error in sitecustomize")


class Asking:
    """Runs commands, in threads of their own or at once, and knows which still run."""

    def __init__(
        self, ground: Ground, intents: Intents, *, report: Callable[[Violation], None], log: Callable[[str], None]
    ) -> None:
        self._ground = ground
        self._intents = intents
        self._report = report
        self._log = log
        self._threads: list[threading.Thread] = []
        self.over = False
        self.troubled = False
        """Whether a supervisor may be killed, or its disk be full, while it boots: `up` then ends with 1."""

    def run(self, *words: str, want: str | None = None, names: frozenset[str] = frozenset()) -> int:
        """Run one command to its end; `want` is what it asks of the instances in `names`."""
        wish = self._intents.ask(want, names, " ".join(words)) if want is not None else None
        began = time.monotonic()
        process = subprocess.Popen(  # noqa: TID251 - tests start their processes as anybody does
            [COMMAND, *words],
            env=self._ground.env,
            cwd=self._ground.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            out, err = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self._say(f"ollamux {' '.join(words)} did not end within {LONGEST_S:g} s")
            return -1
        code = process.returncode
        if wish is not None:
            wish.end, wish.acknowledged = time.monotonic(), code == 0
        brief = " / ".join(err.split("\n"))[:300]
        self._log(f"    ollamux {' '.join(words)}: {code} after {time.monotonic() - began:.2f} s {brief}")
        if not self.over:
            self._judge(words, code, out + err)
        return code

    def _judge(self, words: tuple[str, ...], code: int, said: str) -> None:
        command = "ollamux " + " ".join(words)
        allowed = EXPECTED | ({1} if self.troubled and words[0] == "up" else set())
        allowed |= {5} if EXTRA in words else set()  # a reload may have taken it away
        if code not in allowed:
            self._say(f"{command} ended with {code}: {said[-2000:]}")
        if any(text in said for text in NEVER_SAID):
            self._say(f"{command} printed: {said[-2000:]}")
        if words[:3] == ("status", "-o", "json") and code in (0, 6):
            try:
                json.loads(said)
            except ValueError:
                self._say(f"{command} printed no JSON: {said[:500]}")

    def _say(self, text: str) -> None:
        self._report(Violation("I6", text))

    def beside(self, task: Callable[[], Any]) -> None:
        """Do something in a thread of its own."""
        thread = threading.Thread(target=task, daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Wait until every command has ended; each has a limit of its own."""
        for thread in self._threads:
            thread.join()
        self._threads = []

    def status(self) -> dict[str, Any] | None:
        """Ask over the socket for everything; None where nobody answers."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2.0)
                connection.connect(str(self._ground.runtime / "ollamux.sock"))
                connection.sendall(b'{"v":1,"cmd":"status"}\n')
                data = b""
                while piece := connection.recv(65536):
                    data += piece
            found = json.loads(data)["status"]
        except (OSError, ValueError, KeyError):
            return None
        return dict(found)
