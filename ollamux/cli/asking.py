"""Ask the supervisor something without waiting for the answer: for a screen that goes on answering to keys."""

from __future__ import annotations

import json
import time
from typing import Any

from ollamux.cli.target import reach
from ollamux.domain.errors import NotRunningError
from ollamux.protocol.client import PROTOCOL, understood


class Question:
    """One question under way. Raises NotRunningError, and TimedOutError where too many wait already."""

    def __init__(self, request: dict[str, Any], *, simulated: bool) -> None:
        self.asked_at = time.monotonic()
        self._answer = b""
        self._connection, self.simulated = reach(simulated)
        self._connection.setblocking(False)
        try:
            self._connection.send(json.dumps({"v": PROTOCOL, **request}).encode() + b"\n")
        except OSError:
            self.close()
            raise NotRunningError("the supervisor went away while it was asked") from None

    def fileno(self) -> int:
        """Return the descriptor to watch for reading."""
        return self._connection.fileno()

    def take(self) -> dict[str, Any] | None:
        """Take what has come; return the answer once it is whole. Raises OllamuxError where it reports an error."""
        try:
            while part := self._connection.recv(1 << 16):
                self._answer += part
        except BlockingIOError:
            return None
        except OSError:
            self._answer = b""
        self.close()
        if not self._answer:
            raise NotRunningError("the supervisor ended before it answered")
        return understood(self._answer)

    def close(self) -> None:
        """Wait for it no longer."""
        self._connection.close()
