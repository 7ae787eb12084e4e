"""A box for process tests: its folders, its configuration, the real command, and a small client of the protocol.

The client is written anew here, so that what a test reads is what came over the socket.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from tests.ports import free_ports, loopback

FAKE = Path(__file__).with_name("fake_ollama.py")
HASTENED = Path(__file__).with_name("hastened.py")
COMMAND = Path(sys.executable).with_name("ollamux")
PATIENCE_S = 20.0
T = TypeVar("T")
Process = subprocess.Popen[bytes]  # noqa: TID251 - tests start their processes as anybody does

HASTE = {
    "ollamux.domain.rules.SWEEP_TIMEOUT_S": 0.5,
    "ollamux.supervisor.starter.PORT_RETRY_S": 0.15,
    "ollamux.supervisor.starter.GPU_RETRY_S": 0.3,
    "ollamux.supervisor.upkeep.INTERVAL_S": 0.2,
    "ollamux.supervisor.recovery.END_AFTER_S": 0.5,
}
"""What a hastened supervisor waits for less long than the real one."""


def wait_for(condition: Callable[[], T], what: str = "", *, timeout: float = PATIENCE_S) -> T:
    """Return the first true value of a condition; fail when it does not come."""
    until = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {timeout:g} s: {what or condition}")
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return process_state(pid) not in (None, "Z", "X")


def process_state(pid: int) -> str | None:
    """Return the letter of a process's state, None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return stat[stat.rfind(")") + 2]


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(stat[stat.rfind(")") + 2 :].split()[1])


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment a process was started with; empty where it is gone."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in data.split(b"\0") if item)
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}


def words_of(pid: int) -> str:
    """Return the command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def all_pids() -> Iterable[int]:
    """Return every process."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


class Supervisor:
    """A supervisor that a test has started."""

    def __init__(self, pid: int, process: Process | None) -> None:
        self.pid = pid
        self.process = process

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        return self.process.poll() is None if self.process is not None else alive(self.pid)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.runs:
            os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE_S) -> int | None:
        """Return how it ended; None where it is not our own child."""
        if self.process is not None:
            return self.process.wait(timeout)
        wait_for(lambda: not alive(self.pid), "the end of the supervisor", timeout=timeout)
        return None

    def kill(self) -> None:
        """Take it away without a word."""
        self.signal(signal.SIGKILL)
        self.wait()


class Box:
    """Everything of one test. Attributes are its folders; `env` is what commands are run with."""

    def __init__(self, root: Path, runtime: Path) -> None:
        self.root = root
        self.runtime = runtime
        self.bin, self.home = root / "bin", root / "home"
        self.state, self.logs = root / "state", root / "logs"
        for folder in (self.bin, self.home):
            folder.mkdir()
        self.env = {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "OLLAMUX_STATE_DIR": str(self.state),
            "OLLAMUX_RUNTIME_DIR": str(runtime),
            "OLLAMUX_LOG_DIR": str(self.logs),
        }
        self.host = loopback()
        self.ports: dict[str, int] = {}
        self.supervisors: list[Supervisor] = []
        self.strangers: list[Process] = []
        self.config_path = root / "ollamux.toml"
        self._rounds = root / "rounds"
        self._rounds.write_bytes(bytes(8))
        self._clock = root / "clock"
        self._clock.write_bytes(bytes(24))
        self.ollama = self.install("ollama")

    def install(self, name: str, before: str = "", fake: Path = FAKE) -> Path:
        """Install the fake server as an executable; `before` is shell text that is run first."""
        program, path = self.bin / f".{name}.py", self.bin / name
        program.write_text(fake.read_text())
        python = os.path.realpath(sys.executable)
        path.write_text(f'#!/bin/sh\n{before}\nexec {python} -IS {program} "$@"\n')
        path.chmod(0o755)
        return path

    # -- configuration

    def config(
        self,
        *names: str,
        instances: Mapping[str, Mapping[str, Any]] | None = None,
        supervisor: Mapping[str, Any] | None = None,
        health: Mapping[str, Any] | None = None,
        restart: Mapping[str, Any] | None = None,
        **defaults: Any,
    ) -> Path:
        """Write a configuration with short times; instances by name, or with keys of their own."""
        wanted: dict[str, Mapping[str, Any]] = {name: {} for name in names} | dict(instances or {})
        for name, port in zip(wanted, free_ports(len(wanted), self.host), strict=True):
            self.ports.setdefault(name, port)
            self.knobs(name).mkdir(parents=True, exist_ok=True)
        plain = {
            "version": 1,
            "supervisor": {"max_parallel_starts": 0, **(supervisor or {})},
            "defaults": {
                "store": str(self.root / "models"),
                "host": self.host,
                **defaults,
                "health": {
                    "interval": "100ms",
                    "timeout": "500ms",
                    "failures": 2,
                    "unhealthy_timeout": "200ms",
                    "start_timeout": "10s",
                    **(health or {}),
                },
                "restart": {
                    "base": "50ms",
                    "factor": 1,
                    "cap": "50ms",
                    "failure_limit": 0,
                    "stop_timeout": "1s",
                    **(restart or {}),
                },
            },
            "instances": {name: self._instance(name, keys) for name, keys in wanted.items()},
        }
        self.config_path.write_text(tomli_w.dumps(plain))
        return self.config_path

    def _instance(self, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        env = {"FAKE_DIR": str(self.knobs(name)), "FAKE_STARTS": str(self.root / f"{name}.starts")}
        return {"gpus": [], "port": self.ports[name], **keys, "env": env | dict(keys.get("env", {}))}

    def knobs(self, name: str) -> Path:
        """Return the folder of an instance's knobs."""
        return self.root / "knobs" / name

    def set(self, name: str, knob: str, text: object = "1") -> None:
        """Turn a knob of a server, running or not."""
        path = self.knobs(name) / knob
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{knob}.new")
        draft.write_text(str(text))
        draft.rename(path)

    def clear(self, name: str, knob: str) -> None:
        """Turn a knob back."""
        (self.knobs(name) / knob).unlink(missing_ok=True)

    # -- commands

    def ollamux(self, *words: str, env: Mapping[str, str] | None = None, timeout: float = 60.0, **how: Any) -> Any:
        """Run the installed command to its end."""
        return subprocess.run(
            [COMMAND, *words],
            env=self.env if env is None else dict(env),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **how,
        )

    def popen(self, *words: str) -> Process:
        """Start the installed command and do not wait for it."""
        quiet = subprocess.DEVNULL
        return Process([COMMAND, *words], env=self.env, cwd=self.root, stdin=quiet, stdout=quiet, stderr=quiet)

    def start(
        self,
        *words: str,
        haste: Mapping[str, float] | None = None,
        env: Mapping[str, str] | None = None,
        launcher: Iterable[str] = (),
        **how: Any,
    ) -> Supervisor:
        """Start a supervisor in the foreground, without waiting.

        `haste` sets further constants of the program; `launcher` stands before its command.
        """
        hasty = {"OX_HASTE": json.dumps(HASTE | dict(haste or {})), "OX_ROUNDS": str(self._rounds)}
        hasty["OX_CLOCK"] = str(self._clock)
        environment = {**self.env, **hasty} if env is None else dict(env)
        command = [str(COMMAND), "up"] if env is not None else [sys.executable, "-P", str(HASTENED)]
        out = os.open(self.root / "up.out", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        words = words or ("--config", str(self.config_path))
        process = Process(
            [*launcher, *command, *words],
            env=environment,
            cwd=self.root,
            **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "start_new_session": True, **how},
        )
        os.close(out)
        self.supervisors.append(Supervisor(process.pid, process))
        return self.supervisors[-1]

    def up(self, *, ready: bool = True, **how: Any) -> Supervisor:
        """Start a supervisor in the foreground; return once it listens and, unless told otherwise, all are READY."""
        supervisor = self.start(**how)
        wait_for(lambda: not supervisor.runs or self.listens(supervisor.pid), "the supervisor listens")
        assert supervisor.runs, f"the supervisor ended with {supervisor.wait()}: {self.output()}"
        if ready:
            self.wait_ready()
        return supervisor

    def up_detached(self, *words: str, **how: Any) -> Supervisor:
        """Start a supervisor in the background with the real command; return once all are READY."""
        done = self.ollamux("up", "-d", "--config", str(self.config_path), *words, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        self.supervisors.append(Supervisor(self.supervisor_pid(), None))
        return self.supervisors[-1]

    def output(self) -> str:
        """Return what supervisors in the foreground have printed."""
        path = self.root / "up.out"
        return path.read_text() if path.exists() else ""

    # -- the protocol

    @property
    def socket_path(self) -> Path:
        """Where the supervisor listens."""
        return self.runtime / "ollamux.sock"

    def connect(self, path: Path | None = None) -> socket.socket:
        """Return a connection to the supervisor."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path or self.socket_path))
            connection.settimeout(PATIENCE_S)
        except OSError:
            connection.close()
            raise
        return connection

    def send(self, request: Mapping[str, Any]) -> socket.socket:
        """Send a request and return the connection, without waiting for the answer."""
        connection = self.connect()
        connection.sendall(json.dumps({"v": 1, **request}).encode() + b"\n")
        return connection

    def ask(self, cmd: str, **words: Any) -> dict[str, Any]:
        """Ask the supervisor one thing."""
        return answer_on(self.send({"cmd": cmd, **words}))

    def status(self) -> dict[str, Any]:
        """Return the whole box as the supervisor sees it."""
        return dict(self.ask("status")["status"])

    def listens(self, pid: int) -> bool:
        """Whether the supervisor with this pid answers."""
        try:
            return bool(self.status()["supervisor"]["pid"] == pid)
        except (OSError, ValueError):
            return False

    def supervisor_pid(self) -> int:
        """Return the pid of the supervisor that answers."""
        return int(self.status()["supervisor"]["pid"])

    def instance(self, name: str) -> dict[str, Any]:
        """Return what the supervisor says of one instance."""
        return next(entry for entry in self.status()["instances"] if entry["name"] == name)

    def wait_phase(self, name: str, *phases: str, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """Wait until an instance is in one of the phases; return what is then said of it."""

        def look() -> dict[str, Any] | None:
            found = self.instance(name)
            return found if found["phase"] in phases else None

        try:
            return wait_for(look, f"{name} is {' or '.join(phases)}", timeout=timeout) or {}
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.instance(name)}\n{self.story()}") from None

    def wait_ready(self, *names: str) -> None:
        """Wait until instances are READY, all of them where none is named."""
        for entry in self.status()["instances"]:
            if not names or entry["name"] in names:
                self.wait_phase(entry["name"], "READY")

    def wait_started(self, name: str, count: int) -> dict[str, Any]:
        """Wait until an instance was started so often and is READY."""
        wait_for(lambda: len(self.starts(name)) >= count, f"start {count} of {name}")
        return self.wait_phase(name, "READY")

    # -- what can be seen from outside

    def starts(self, name: str) -> list[int]:
        """Return the pid of every start of an instance, in order."""
        path = self.root / f"{name}.starts"
        return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self) -> list[dict[str, Any]]:
        """Return what the supervisor has recorded."""
        path = self.state / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def story(self) -> str:
        """Return the events as lines, for messages of failed tests."""
        return "\n".join(f"{e['instance']}: {e['from']} -> {e['to']}: {e['reason']}" for e in self.events())

    def changes(self, name: str) -> list[str]:
        """Return the phases an instance went through."""
        return [e["to"] for e in self.events() if e["instance"] == name and (e["from"] != e["to"])]

    def reasons(self) -> list[str]:
        """Return every reason that was recorded."""
        return [e["reason"] or "" for e in self.events()]

    def log(self, name: str) -> Path:
        """Return the log of an instance."""
        return self.logs / f"{name}.log"

    def family(self, name: str) -> list[int]:
        """Return the living processes that carry the mark of an instance."""
        found = []
        for pid in all_pids():
            env = environment_of(pid)
            mine = env.get("OLLAMUX_SUPERVISOR") == str(self.state) and env.get("OLLAMUX_INSTANCE") == name
            if mine and alive(pid):
                found.append(pid)
        return found

    def rounds(self) -> int:
        """Return how often the loop of the hastened supervisor went round."""
        return int.from_bytes(self._rounds.read_bytes(), "little")

    def rounds_while(self, name: str, questions: int = 8) -> int:
        """Return how many rounds the loop makes while it asks an instance so many things."""
        self.set(name, "flood-lines", 1)
        before, size = self.rounds(), self.log(name).stat().st_size
        wait_for(lambda: self.log(name).stat().st_size > size + 40 * questions, f"{name} is asked {questions} times")
        self.clear(name, "flood-lines")
        return self.rounds() - before

    def rounds_at_rest(self) -> int:
        """Return how many rounds the loop makes while nothing is asked of it; one that spins makes thousands."""
        before = self.rounds()
        self.stranger("/bin/sleep", "0.3").wait()
        return self.rounds() - before

    def set_clock(self, *, wall_s: float = 0.0, slept_s: float = 0.0, asleep_s: float = 0.0) -> None:
        """Set the wall clock apart; the machine has slept once, and sleeps so long between any two looks at that."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("ddd", wall_s, slept_s, asleep_s))

    def runners(self, name: str) -> list[int]:
        """Return the runners of an instance."""
        return [pid for pid in self.family(name) if " runner " in words_of(pid)]

    def stranger(self, *words: str, **how: Any) -> Process:
        """Start a process that has nothing to do with the supervisor; it is ended with the box."""
        process = Process(words, stdin=subprocess.DEVNULL, start_new_session=True, **how)
        self.strangers.append(process)
        return process

    # -- the end

    def close(self) -> None:
        """End what the test has started: strangers at once, supervisors as a person would."""
        for stranger in self.strangers:
            stranger.kill()
            stranger.wait()
        running = [supervisor for supervisor in self.supervisors if supervisor.runs]
        for supervisor in running:
            supervisor.signal(signal.SIGCONT)
            supervisor.signal(signal.SIGTERM)
        for supervisor in running:
            supervisor.wait()


def answer_on(connection: socket.socket) -> dict[str, Any]:
    """Return the object that comes over a connection."""
    with connection:
        data = b""
        while piece := connection.recv(65536):
            data += piece
    return dict(json.loads(data))


def left_behind(box: Box) -> list[int]:
    """Return the processes of a test that are still there: known by their home, their mark or their command line."""
    until = time.monotonic() + 2.0
    while left := [pid for pid in all_pids() if _belongs(box, pid)]:
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return left


def _belongs(box: Box, pid: int) -> bool:
    if pid == os.getpid() or not alive(pid):
        return False
    env = environment_of(pid)
    root = str(box.root)
    marked = env.get("OLLAMUX_SUPERVISOR", "").startswith(root) or env.get("HOME", "").startswith(root)
    return marked or root in words_of(pid)


def end_leftovers(box: Box) -> list[str]:
    """Kill what was left behind, by pid, and say what it was."""
    told = []
    for pid in all_pids():
        if _belongs(box, pid):
            told.append(f"{pid} ({process_state(pid)}) {words_of(pid)}")
            os.kill(pid, signal.SIGKILL)
    for supervisor in box.supervisors:
        if supervisor.process is not None:
            supervisor.process.wait()
    return told
