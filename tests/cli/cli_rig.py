"""What the tests of the command line share: a place of one's own, the command in it, and nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.ports import free_ports

COMMAND = str(Path(sys.executable).parent / "ollamux")
FAKE_OLLAMA = Path(__file__).parent / "fake_ollama.py"
ROOT_WARNING = re.compile(r"warning: running as root:.*\n")
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[@-Z\\-_])")


def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Wait until a condition holds and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.02)
    return value


class Result(NamedTuple):
    """What a command printed and how it ended. `err` is without the warning that only root gets."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Place:
    """Folders for state, sockets, logs and home, and the environment that names them."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="oxc-", dir="/tmp"))  # short: a socket's address holds 107 bytes
        for name in ("home", "work", "bin"):
            (self.root / name).mkdir()
        self.work = self.root / "work"
        self.state, self.run_dir, self.logs = (self.root / name for name in ("state", "run", "logs"))
        self.env = {
            "PATH": f"{self.root}/bin:/usr/bin:/bin",
            "HOME": str(self.root / "home"),
            "OLLAMUX_STATE_DIR": str(self.state),
            "OLLAMUX_RUNTIME_DIR": str(self.run_dir),
            "OLLAMUX_LOG_DIR": str(self.logs),
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm-256color",
        }

    @property
    def command(self) -> str:
        """Return the path of the command."""
        return COMMAND

    def popen(self, *words: str, env: Mapping[str, str | None] | None = None, **options: Any) -> subprocess.Popen[str]:  # noqa: TID251
        """Start the command; `env` changes the environment, None takes a variable away."""
        changed = {**self.env, **(env or {})}
        plain = {name: value for name, value in changed.items() if value is not None}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
        program = options.pop("program", COMMAND)
        command = [program, *words] if isinstance(program, str) else [*program, *words]
        return subprocess.Popen(  # noqa: TID251
            command, env=plain, cwd=self.work, text=True, encoding="utf-8", **options
        )

    def run(self, *words: str, seconds: float = 30.0, **options: Any) -> Result:
        """Run the command to its end."""
        process = self.popen(*words, **options)
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            process.wait()
            raise
        assert "Traceback" not in (err or ""), err
        return Result(process.returncode, out or "", ROOT_WARNING.sub("", err or ""))

    def ok(self, *words: str, **options: Any) -> Result:
        result = self.run(*words, **options)
        assert result.code == 0, result
        return result

    def status(self, *words: str) -> Any:
        return json.loads(self.run("status", "-o", "json", *words).out)

    def fake_ollama(self) -> str:
        path = self.root / "bin" / "ollama"
        path.write_text(f"#!{sys.executable} -S\n" + FAKE_OLLAMA.read_text())
        path.chmod(0o755)
        return str(path)

    def config(self, *names: str, name: str = "ollamux.toml", extra: str = "", **keys: str) -> Path:
        """Write a configuration of instances without GPUs; `keys` are lines for some of them."""
        text = f'version = 1\n{extra}\n[defaults]\nstore = "{self.root}/store"\n'
        for one, port in zip(names, free_ports(len(names)), strict=True):
            text += f"[instances.{one}]\ngpus = []\nport = {port}\n{keys.get(one, '')}\n"
        path = self.work / name
        path.write_text(text)
        return path

    def simulate(self, count: int, *words: str) -> None:
        """Start a simulation on ports that nobody else's simulation would choose."""
        path = self.root / "cards.toml"
        lines = [
            f"[instances.gpu{index}]\ngpus = [{index}]\nport = {port}" for index, port in enumerate(free_ports(count))
        ]
        head = 'version = 1\n[defaults.health]\ninterval = "300ms"\n'
        path.write_text(head + "\n".join(lines) + "\n")
        self.ok("up", "--simulate", str(count), "--config", str(path), "-d", *words)

    def pids(self) -> dict[int, str]:
        """Return every process that has this place in its environment, with its command."""
        mark, found = str(self.root).encode(), {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in Path(f"/proc/{entry}/environ").read_bytes() and _lives(entry):
                        found[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().decode().replace("\0", " ")
        return found

    def close(self) -> None:
        """End what is left, by pid, and fail for it."""
        for simulated in ("", "/simulated"):
            if (self.run_dir / simulated.strip("/") / "ollamux.sock").exists():
                self.run("down", "--now", *(["--simulated"] if simulated else []))
        left = self.pids()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.pids(), "the leftovers ended")
        shutil.rmtree(self.root, ignore_errors=True)
        assert not left, f"processes were left behind: {left}"


def _lives(pid: str) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


class Terminal:
    """The command on a pseudo-terminal of its own, as its foreground job."""

    def __init__(
        self,
        place: Place,
        *words: str,
        columns: int = 100,
        env: Mapping[str, str | None] | None = None,
        program: Sequence[str] = (COMMAND,),
    ) -> None:
        self.fd, tail = pty.openpty()
        self.resize(columns, tail)
        program = [sys.executable, "-c", _FOREGROUND, *program]
        self.process = place.popen(*words, env=env, stdin=tail, stdout=tail, stderr=tail, program=program)
        os.close(tail)
        self.raw = ""

    @property
    def text(self) -> str:
        """Return what was shown so far, without escapes."""
        return ESCAPES.sub("", self.raw).replace("\r", "")

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, what: str, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while what not in self.text:
            assert time.monotonic() < deadline, f"never shown: {what!r}\n{self.text}"
            assert self._read(0.1) or what in self.text, f"ended without showing {what!r}\n{self.text}"

    def resize(self, columns: int, fd: int | None = None) -> None:
        """Change the width, which the foreground job is told by a signal."""
        fcntl.ioctl(self.fd if fd is None else fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def is_line_by_line(self) -> bool:
        """Whether the terminal echoes, and gives a line at a time, as a shell expects it."""
        flags = termios.tcgetattr(self.fd)[3]
        return bool(flags & termios.ICANON) and bool(flags & termios.ECHO)

    def forget(self) -> None:
        """Let `wait_for` look only at what is shown from now on."""
        while select.select([self.fd], [], [], 0)[0] and self._read(0.0):
            pass
        self.raw = ""

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def end(self, seconds: float = 20.0) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(0.1) and self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end:\n{self.text}"
        code = self.process.wait(timeout=seconds)
        while self._read(0.0) and select.select([self.fd], [], [], 0)[0]:
            pass
        assert "Traceback" not in self.text, self.text
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)


_FOREGROUND = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def on_terminal(place: Place, *words: str, **options: Any) -> Iterator[Terminal]:
    terminal = Terminal(place, *words, **options)
    try:
        yield terminal
    finally:
        terminal.close()


def is_plain_error(text: str) -> bool:
    """Whether it is one or two lines: what happened, and what to do."""
    lines = text.rstrip("\n").split("\n")
    return len(lines) <= 2 and lines[0].startswith("ollamux: ") and all(line.startswith("  ") for line in lines[1:])
