"""What every test of the real thing has of its own: folders, ports, servers; and proof that nothing of it is left."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from tests.ports import free_port

Process = subprocess.Popen[bytes]  # noqa: TID251 the test is the parent of what ollamux must leave alone
OLLAMUX = Path(sys.executable).with_name("ollamux")
QUICK = {"interval": "200ms", "timeout": "1s", "failures": 2, "unhealthy_timeout": "500ms"}
"""Health checks that notice at once."""
UNCHECKED = {"interval": "1h"}
"""As good as none."""


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0, shown: Callable[[], object] = str) -> Any:
    """Wait until a condition holds and return what it gave; `shown` is what the failure tells besides."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"it never happened within {seconds:g} s: {what}\n{shown()}")
        time.sleep(0.02)


def can_listen(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def proc_state(pid: int) -> str | None:
    """Return the letter of a process's state, None where it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state = text[text.rindex(")") + 2]
    return None if state in "ZX" else state


def proc_env(pid: int) -> dict[str, str]:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(os.fsdecode(pair).partition("=")[::2] for pair in pairs if pair)


def proc_words(pid: int) -> list[str]:
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []


class Ollama(NamedTuple):
    """The program under test."""

    path: Path
    version: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("-")[0].split("."))

    @property
    def has_llama_server(self) -> bool:
        return self.numbers >= (0, 30, 0)


def ask(port: int, method: str, path: str, body: Any = None, timeout: float = 60.0) -> Any:
    """Ask a server and return what its JSON says. Anything but 200 is a failure."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    assert answer.status == 200, (answer.status, data)
    return json.loads(data)


def answers(port: int) -> bool:
    try:
        return "version" in ask(port, "GET", "/api/version", timeout=1.0)
    except (OSError, http.client.HTTPException, AssertionError):
        return False


def generate(port: int, **more: Any) -> dict[str, Any]:
    return ask(port, "POST", "/api/generate", {"model": "tiny", "prompt": "hello", "stream": False, **more})


class Box:
    """Folders, a configuration and a supervisor of a test's own."""

    def __init__(self, root: Path, ollama: Ollama) -> None:
        self.root = root
        self.ollama = ollama
        self.home = root / "home"
        self.state = root / "state"
        self.logs = root / "logs"
        self.store = root / "store"
        self.config = root / "ollamux.toml"
        self.home.mkdir()
        # A socket's address holds 107 bytes; the folders of pytest are longer than that.
        self.runtime = Path(tempfile.mkdtemp(prefix="ollamux-"))
        self.ports: dict[str, int] = {}
        self._strangers: list[Process] = []

    @property
    def places(self) -> dict[str, str]:
        return {
            "OLLAMUX_STATE_DIR": str(self.state),
            "OLLAMUX_RUNTIME_DIR": str(self.runtime),
            "OLLAMUX_LOG_DIR": str(self.logs),
        }

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": f"{self.ollama.path.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            **self.places,
        }

    @property
    def socket(self) -> Path:
        return self.runtime / "ollamux.sock"

    # Configuration and commands

    def configure(
        self,
        instances: Mapping[str, Mapping[str, Any]],
        *,
        supervisor: Mapping[str, Any] | None = None,
        top: Mapping[str, Any] | None = None,
        **defaults: Any,
    ) -> None:
        """Write a configuration; an instance is a CPU one on a port of its own unless it says otherwise.

        `top` are further keys and tables beside these.
        """
        made = {}
        for name, keys in instances.items():
            self.ports.setdefault(name, int(keys.get("port") or free_port()))
            made[name] = {"gpus": [], "port": self.ports[name], **keys}
        common: dict[str, Any] = {"store": str(self.store), "env": {"OLLAMA_NO_CLOUD": "1"}, **defaults}
        text = {
            "version": 1,
            **(top or {}),
            "supervisor": dict(supervisor or {}),
            "defaults": common,
            "instances": made,
        }
        self.config.write_text(tomli_w.dumps(text))

    def run(
        self, *words: str, env: Mapping[str, str] | None = None, timeout: float = 90.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `ollamux` to its end."""
        return subprocess.run(
            [str(OLLAMUX), *words],
            env=dict(self.env if env is None else env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd="/",
        )

    def ok(self, *words: str, **more: Any) -> str:
        """Run `ollamux`, which must succeed, and return what it printed."""
        done = self.run(*words, **more)
        assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def cron(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `ollamux` by its path from the environment that cron gives: nothing of a login."""
        places = [f"{name}={value}" for name, value in self.places.items()]
        return subprocess.run(
            ["/usr/bin/env", "-i", *places, str(OLLAMUX), *words],
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd="/",
        )

    def up(self, *, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.run("up", "-d", "--config", str(self.config))
        assert done.returncode == expect, (done.returncode, done.stdout, done.stderr, self.told())
        return done

    # What there is

    def status(self, *view: str) -> dict[str, Any]:
        done = self.run("status", *view, "-o", "json")
        assert done.stdout, (done.returncode, done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def instance(self, name: str) -> dict[str, Any]:
        return next(one for one in self.status()["instances"] if one["name"] == name)

    def await_instance(self, name: str, phase: str, seconds: float = 30.0, **keys: Any) -> dict[str, Any]:
        """Wait until an instance is in a phase and has those values; `gen=2` is at least that generation."""
        least = keys.pop("gen", 0)

        def there() -> dict[str, Any] | None:
            found = self.instance(name)
            fits = found["phase"] == phase and found["generation"] >= least
            return found if fits and all(found[key] == value for key, value in keys.items()) else None

        what = f"{name} is {phase} {keys or ''} (generation {least} or later)"
        found: dict[str, Any] = until(there, what, seconds, shown=self.told)
        return found

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        text = self.ok("events", *([name] if name else []), "-n", "10000", "-o", "json")
        return [json.loads(line) for line in text.splitlines()]

    def reasons(self, name: str) -> list[str]:
        return [event["reason"] or "" for event in self.events(name)]

    def await_reason(self, name: str, part: str, seconds: float = 30.0) -> str:
        """Wait until an event of an instance says something."""
        found: str = until(
            lambda: next((reason for reason in self.reasons(name) if part in reason), None),
            f"an event of {name} says “{part}”",
            seconds,
            shown=self.told,
        )
        return found

    def steps(self, name: str) -> list[str]:
        """Return the phases an instance went through, in order."""
        return [event["to"] for event in self.events(name) if event["from"] != event["to"]]

    def told(self) -> str:
        """Return everything a person would look at after a failure."""
        parts = [self.run(*words) for words in (("events", "-n", "60"), ("status",), ("logs", "-n", "15"))]
        return "\n".join(part.stdout + part.stderr for part in parts)

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def runners(self, name: str) -> list[int]:
        """Return the living processes of an instance that hold a model."""
        ours = [pid for pid in self.processes() if proc_env(pid).get("OLLAMUX_INSTANCE") == name]
        return [pid for pid in ours if "--model" in proc_words(pid)]

    def await_runner(self, name: str) -> int:
        pids: list[int] = until(lambda: self.runners(name), f"{name} has a runner")
        assert len(pids) == 1, pids
        return pids[0]

    def ps(self, name: str) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = ask(self.ports[name], "GET", "/api/ps")["models"]
        return models

    def processes(self) -> list[int]:
        """Return every living process of this box: all of them inherit its HOME or its folder of state."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            pid = int(path.name)
            env = proc_env(pid)
            ours = env.get("HOME") == str(self.home) or str(self.state) in (
                env.get("OLLAMUX_STATE_DIR"),
                env.get("OLLAMUX_SUPERVISOR"),
            )
            if ours and proc_state(pid) is not None:
                found.append(pid)
        return found

    # A server that is none of ours

    def stranger(self, port: int) -> Process:
        """Start `ollama serve` outside of ollamux and wait until it answers."""
        home = self.root / f"stranger{len(self._strangers)}"
        home.mkdir()
        env = {"PATH": self.env["PATH"], "HOME": str(home), "OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_NO_CLOUD": "1"}
        process = serve(self.ollama, env)
        self._strangers.append(process)
        until(lambda: answers(port), "the stranger answers")
        return process

    # The end

    def close(self) -> list[str]:
        """End everything, each process by its pid; return what `down` or a test should have ended but did not."""
        for process in self._strangers:
            end(process)
        if self.socket.exists():
            self.run("down", "--now")
        left = []
        for pid in self.processes():
            left.append(f"pid {pid} ({proc_state(pid)}): {' '.join(proc_words(pid))}")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.runtime, ignore_errors=True)
        return left


def serve(ollama: Ollama, env: Mapping[str, str]) -> Process:
    with open(Path(env["HOME"]) / "serve.log", "ab") as log:
        words = [str(ollama.path), "serve"]
        return Process(words, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")


def end(process: Process) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
