"""The server's side of one runner: start it, read what it prints, ping it, ask it, end it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ollamux.simulation.http import Reply, ask
from ollamux.simulation.logs import Log
from ollamux.simulation.memory import MIB
from ollamux.simulation.process import exit_text, spawn

_BUFFER = re.compile(rb"(\S+) +(model|KV|compute|output) buffer size = +([\d.]+) MiB")
_OFFLOADED = re.compile(rb"offloaded (\d+)/(\d+) layers to GPU")
_READY = b"all slots are idle"
_ERRORS = ("does not divide", "cudaMalloc failed", "out of memory", "failed to allocate", "unable to allocate")

_REAP_S = 0.1
_READ_S = 5.0


def free_port() -> int:
    """Return a loopback port nobody listens on now; between now and its use another may take it, as in life."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


ALIVE: set[RunnerProcess] = set()
"""Every runner of this server that has not ended, loading ones included."""


class RunnerProcess:
    """One runner, from the server's side."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], port: int, log: Log) -> None:
        self.argv, self.port, self.log = argv, port, log
        self.status: int | None = None
        self.ended = threading.Event()
        # A server has said what it has to say about a start before a real runner prints its first line.
        self.heard = threading.Event()
        self._all_read = threading.Event()
        self.buffers: dict[tuple[str, str], int] = {}
        self.layers: tuple[int, int] | None = None
        self.last_output = time.monotonic()
        self.errors: list[str] = []
        self._lock = threading.Lock()
        reader, writer = os.pipe()
        try:
            self.pid = spawn(argv, env, stdout=writer, stderr=writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        ALIVE.add(self)
        self._pump_thread = threading.Thread(target=self._pump, args=(reader,), daemon=True)
        self._pump_thread.start()
        threading.Thread(target=self._reap, daemon=True).start()

    def _pump(self, reader: int) -> None:
        rest = b""
        self.heard.wait()
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while data := pipe.read(65536):
                self.last_output = time.monotonic()
                self.log.raw(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._parse(line)

    def _parse(self, line: bytes) -> None:
        if _READY in line:
            self._all_read.set()
        elif match := _BUFFER.search(line):
            self.buffers[(match[1].decode(), match[2].decode())] = int(float(match[3]) * MIB)
        elif match := _OFFLOADED.search(line):
            self.layers = int(match[1]), int(match[2])
        elif any(word.encode() in line for word in _ERRORS):
            self.errors.append(line.decode(errors="replace"))

    def _reap(self) -> None:
        status = os.waitpid(self.pid, 0)[1]
        with self._lock:
            self.status = status
        ALIVE.discard(self)
        self.ended.set()

    @property
    def exit_words(self) -> str:
        """Return how it ended, in Go's words."""
        return exit_text(self.status or 0)

    def kill(self, *, wait: bool = True) -> None:
        """End it with SIGKILL and wait, without a limit, until it is gone."""
        self.heard.set()
        with self._lock:
            if self.status is None:
                os.kill(self.pid, signal.SIGKILL)
        if wait:
            self.ended.wait()
            self._pump_thread.join(1)

    def freeze(self) -> None:
        """Stop it where it is, until it is killed."""
        with self._lock:
            if self.status is None:
                os.kill(self.pid, signal.SIGSTOP)

    def detach(self) -> None:
        """Make it leave our group and ignore SIGTERM."""
        self.post("/detach", {}).close()

    def health(self, timeout_s: float) -> int:
        """Return the status of /health, 0 where nothing answers."""
        try:
            reply = ask(("127.0.0.1", self.port), "GET", "/health", timeout_s=timeout_s)
        except (OSError, EOFError, ValueError):
            return 0
        reply.close()
        return reply.status

    def is_ready(self) -> bool:
        """Say whether the model is there, and what was printed of it, which tells its sizes, has all been read."""
        return self.health(1.0) == 200 and (not self.log.era.has_llama_server or self._all_read.wait(_READ_S))

    def ping(self, timeout_s: float) -> bool:
        """Say whether it lives and answers; a dead one is told in the log."""
        if not self.ended.is_set():
            if self.health(timeout_s) == 200:
                return True
            # One that was just killed refuses connections a moment before it can be waited for.
            self.ended.wait(_REAP_S)
        if self.ended.is_set():
            name = "llama-server" if self.log.era.has_llama_server else "llama runner"
            status = self.status or 0
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                self.log.warning("gone", f"{name} process no longer running", sys=number, string=self.exit_words)
            else:
                self.log.warning("gone", f"{name} process no longer running", sys=status, string=self.exit_words)
        return False

    def post(self, path: str, row: Any) -> Reply:
        """Ask it for work; the answer may take for ever."""
        return ask(("127.0.0.1", self.port), "POST", path, json.dumps(row).encode())

    def sizes(self) -> tuple[int, int]:
        """Return size and size_vram as ps shows them: sums of the printed buffers.

        With every layer on the card both are the same, so buffers in host memory disappear (ollama does this).
        """
        host = sum(size for (name, _), size in self.buffers.items() if _in_host(name))
        card = sum(size for (name, _), size in self.buffers.items() if not _in_host(name))
        whole = self.layers is not None and self.layers[0] == self.layers[1]
        return (card if whole else host + card), card


def _in_host(name: str) -> bool:
    return name.startswith("CPU") or name.endswith("_Host")


def completion(reply: Reply) -> Iterator[dict[str, Any]]:
    """Read the words of a completion; EOFError where the runner ends in the middle."""
    for line in reply.lines():
        row = json.loads(line)
        yield row
        if row.get("stop"):
            return
    raise EOFError
