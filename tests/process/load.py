"""Clients that stream from instances without a pause, and keep a record of every request that did not end well."""

from __future__ import annotations

import http.client
import threading
from types import TracebackType

from process_box import Box, wait_for


class Load:
    """Two clients for each instance, from the beginning of a `with` to its end."""

    def __init__(self, box: Box, *names: str) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._over = threading.Event()
        addresses = [(box.host, box.ports[name]) for name in names for _ in range(2)]
        self._threads = [threading.Thread(target=self._stream, args=address) for address in addresses]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.more(len(self._threads))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 4) -> None:
        """Wait until so many more requests have ended."""
        wanted = self.done + count
        wait_for(lambda: self.done >= wanted or self.failed, "requests are answered")

    def _stream(self, host: str, port: int) -> None:
        while not self._over.is_set():
            try:
                connection = http.client.HTTPConnection(host, port, timeout=30)
                connection.request("GET", "/api/chat")
                body = connection.getresponse().read()
                connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{port}: {type(error).__name__} {error}")
                return
            if not body.endswith(b'{"done":true}\n'):
                self.failed.append(f"{port}: cut after {len(body)} bytes")
                return
            self.done += 1
