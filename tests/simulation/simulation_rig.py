"""What the tests of the simulation share: a box, servers in it, and everything ended afterwards, by pid."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import read_inventory
from ollamux.simulation.box import create_box, default_cards, write_binaries
from ollamux.simulation.catalogue import ModelSpec
from ollamux.simulation.store import install
from tests.ports import free_port

Process = subprocess.Popen[bytes]  # noqa: TID251 the test is the parent of what it starts
RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
VERSIONS = ("0.24.0", "0.32.15")
NEW, OLD = "0.32.15", "0.24.0"


def _tiny(name: str, **shape: int) -> ModelSpec:
    common = {"head_size": 16, "vocabulary": 512, "file_type": 1, "tokens": 512}
    return ModelSpec(name=name, architecture="llama", **common, **shape)


TINY = _tiny("tiny:latest", layers=2, embedding=64, heads=4, kv_heads=2, feed_forward=160, context=2048)
TINY2 = _tiny("tiny2:latest", layers=4, embedding=128, heads=8, kv_heads=4, feed_forward=352, context=32768)


def until(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """Wait until a condition holds and return what it gave."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.01)


def state_of(pid: int) -> str | None:
    """Return the state of a process, None where it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state = text[text.rindex(")") + 2]
    return None if state in "ZX" else state


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class Served:
    """One running simulated server."""

    def __init__(self, rig: Rig, process: Process, port: int, logs: Path) -> None:
        self.rig, self.process, self.port, self.logs = rig, process, port, logs

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.logs.with_suffix(".err").read_text(errors="replace")

    @property
    def stdout(self) -> str:
        return self.logs.with_suffix(".out").read_text(errors="replace")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, timeout: float = 30.0, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
            connection.request(method, path, data, headers or {})
            with connection.getresponse() as response:
                return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/api/version", timeout=1).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def generate(self, model: str, **rest: Any) -> Answer:
        return self.ask("POST", "/api/generate", {"model": model, **rest})

    def ps(self) -> list[dict[str, Any]]:
        return self.ask("GET", "/api/ps").json["models"]

    def runners(self) -> list[int]:
        """Return the pids of the runners in the server's group, in the order of their start."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            pid = int(path.name)
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                if b"--model" in words and os.getpgid(pid) == self.pid and state_of(pid):
                    found.append(pid)
            except OSError:
                continue
        return sorted(found)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal the server and return how it ended."""
        self.process.send_signal(number)
        return self.process.wait(10)


class Rig:
    """A box, a store and a HOME of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.box = root / "a box"
        self.home = root / "home"
        self.store = self.home / ".ollama" / "models"
        self.home.mkdir()
        create_box(self.box, default_cards(3))
        self.ollama = write_binaries(self.box)
        for spec in (TINY, TINY2):
            install(self.store, spec)
        self.served: list[Served] = []

    def cards(self) -> tuple[Gpu, ...]:
        return read_inventory(self.box).gpus

    def env(self, version: str = NEW, **more: str) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin",
            "OLLAMA_NO_CLOUD": "1",
            "OLLAMUX_SIMULATION": str(self.box),
            "OLLAMUX_SIMULATION_VERSION": version,
            "OLLAMUX_SIMULATION_SPEED": "20",
            **more,
        }

    def start(
        self, version: str = NEW, *, name: str = "gpu0", port: int | None = None, ready: bool = True, **env: str
    ) -> Served:
        """Start a server; a variable set to "-" is left out."""
        port = port or free_port()
        wanted = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMUX_INSTANCE": name, **env}
        wanted = {k: v for k, v in self.env(version, **wanted).items() if v != "-"}
        logs = self.root / f"serve{len(self.served)}"
        with logs.with_suffix(".out").open("ab") as out, logs.with_suffix(".err").open("ab") as err:
            process = Process(
                [self.ollama, "serve"], env=wanted, stdout=out, stderr=err, cwd="/", start_new_session=True
            )
        served = Served(self, process, port, logs)
        self.served.append(served)
        if ready:
            until(served.answers, "the server answers")
        return served

    def cpu(self, version: str = NEW, **env: str) -> Served:
        """Start a server that sees no card."""
        return self.start(version, OLLAMUX_SIMULATION="-", **env)

    def run(self, *words: str, version: str = NEW, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        wanted = {k: v for k, v in self.env(version, **env).items() if v != "-"}
        command = [str(self.ollama), *words]
        return subprocess.run(command, env=wanted, capture_output=True, text=True, timeout=20, check=False, cwd="/")

    def close(self) -> None:
        for served in self.served:
            if served.process.poll() is None:
                served.process.kill()
            served.process.wait(10)
        for pid in self._left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _left(self) -> list[int]:
        """Return the processes that name this very box."""
        mark = os.fsencode(str(self.root))
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "cmdline").read_bytes() and int(path.name) != os.getpid():
                    found.append(int(path.name))
            except OSError:
                continue
        return found
