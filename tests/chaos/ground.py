"""The ground of a chaos run: folders, small disks, configuration, environment, and the end of all that was started.

Everything lies below one folder, and every process of a run has that folder in its environment or its words.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from tests.ports import free_ports, loopback
from tests.process.process_box import FAKE, HASTE, alive, all_pids, environment_of, words_of

COMMAND = Path(sys.executable).with_name("ollamux")
INJECT = Path(__file__).with_name("inject")
CARDS = ("GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000")
PATIENCE = HASTE | {
    "ollamux.supervisor.core.SLOT_HOLD_S": 2.0,
    "ollamux.supervisor.gpus.SAMPLE_INTERVAL_S": 0.3,
    "ollamux.supervisor.server.ACCEPT_AGAIN_S": 0.3,
    "ollamux.supervisor.effects.STUCK_LOOK_S": 0.5,
}
DISKS = {"state": "4m", "logs": "8m"}
_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_MS_PRIVATE = (1 << 18) | (1 << 14)


class Ground:
    """The places of one run, and the words that reach them."""

    def __init__(self, *, plant: str | None = None, disks: bool = True) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ox-chaos-", dir="/tmp"))  # short: a socket's address holds 107 bytes
        self.home, self.bin = self.root / "home", self.root / "bin"
        self.state, self.logs, self.runtime = self.root / "state", self.root / "logs", self.root / "run"
        for folder in (self.home / ".ollama", self.bin, self.root / "models"):
            folder.mkdir(parents=True)
        (self.home / ".ollama" / "id_ed25519").touch()
        self.disks_missing: str | None = None if disks else "not asked for"
        if disks:
            self.disks_missing = self._mount()
        self._clock = self.root / "clock"
        self.step_clock(0.0)
        self._install()
        self.host = loopback()
        self.config_path = self.root / "ollamux.toml"
        self.ports: dict[str, int] = {}
        self.env = self._environment(plant)

    def _mount(self) -> str | None:
        """Give state and logs a small disk each, in a mount namespace of our own; return why that is not possible."""
        libc = ctypes.CDLL(None, use_errno=True)
        uid, gid = os.getuid(), os.getgid()
        if libc.unshare(_NEWNS) != 0:
            if libc.unshare(_NEWUSER | _NEWNS) != 0:
                return f"unshare: {os.strerror(ctypes.get_errno())}"
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                Path(f"/proc/self/{name}").write_text(text)
        if libc.mount(b"none", b"/", None, _MS_PRIVATE, None) != 0:
            return f"mount: {os.strerror(ctypes.get_errno())}"
        for name, size in DISKS.items():
            folder = self.root / name
            folder.mkdir(mode=0o700)
            options = f"size={size},mode=700".encode()
            if libc.mount(b"chaos", os.fsencode(folder), b"tmpfs", 0, options) != 0:
                return f"mount: {os.strerror(ctypes.get_errno())}"
        return None

    def _install(self) -> None:
        program, path = self.bin / ".ollama.py", self.bin / "ollama"
        program.write_text(FAKE.read_text())
        python = os.path.realpath(sys.executable)
        path.write_text(f'#!/bin/sh\nexec {python} -IS {program} "$@"\n')
        path.chmod(0o755)

    def _environment(self, plant: str | None) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "OLLAMUX_STATE_DIR": str(self.state),
            "OLLAMUX_RUNTIME_DIR": str(self.runtime),
            "OLLAMUX_LOG_DIR": str(self.logs),
            "PYTHONPATH": os.pathsep.join([str(INJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OX_HASTE": json.dumps(PATIENCE),
            "OX_CLOCK": str(self._clock),
            "OX_NVML": str(self.root),
            **({"OX_PLANT": plant} if plant else {}),
        }

    # -- configuration

    def configure(self, instances: Mapping[str, Mapping[str, Any]], *, on_death: str = "keep") -> None:
        """Write the configuration; an instance keeps its port for ever unless it names one."""
        fresh = [name for name in instances if name not in self.ports]
        for name, port in zip(fresh, free_ports(len(fresh), self.host), strict=True):
            self.ports[name] = port
            self.knobs(name).mkdir(parents=True, exist_ok=True)
        plain = {
            "version": 1,
            "supervisor": {"max_parallel_starts": 2, "on_death": on_death, "log_max": "256KiB", "log_keep": 1},
            "defaults": {
                "store": str(self.root / "models"),
                "host": self.host,
                "health": {
                    "interval": "200ms",
                    "timeout": "1s",
                    "failures": 2,
                    "unhealthy_timeout": "300ms",
                    "start_timeout": "5s",
                },
                "restart": {"base": "50ms", "factor": 1, "cap": "50ms", "failure_limit": 0, "stop_timeout": "1s"},
            },
            "instances": {name: self._instance(name, keys) for name, keys in instances.items()},
        }
        draft = self.config_path.with_suffix(".new")
        draft.write_text(tomli_w.dumps(plain))
        draft.rename(self.config_path)

    def _instance(self, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        env = {"FAKE_DIR": str(self.knobs(name)), "FAKE_STARTS": str(self.starts_path(name)), "FAKE_RUNNERS": "1"}
        return {"gpus": [], "port": self.ports[name], **keys, "env": env}

    def knobs(self, name: str) -> Path:
        """Return the folder of an instance's knobs."""
        return self.root / "knobs" / name

    def turn(self, name: str, knob: str, text: object = "1") -> None:
        """Turn a knob of a server, running or not."""
        draft = self.knobs(name) / f"{knob}.new"
        draft.write_text(str(text))
        draft.rename(self.knobs(name) / knob)

    def turn_back(self, name: str, knob: str) -> None:
        """Turn a knob back."""
        (self.knobs(name) / knob).unlink(missing_ok=True)

    def starts_path(self, name: str) -> Path:
        """Return the file to which every server of an instance appends one line as it starts."""
        return self.root / f"{name}.starts"

    def starts(self, name: str) -> list[tuple[int, int]]:
        """Return (pid, generation) of every start, in order."""
        path = self.starts_path(name)
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock of every Python of this run off by so much."""
        if not self._clock.exists():
            self._clock.write_bytes(bytes(8))
        with open(self._clock, "r+b", buffering=0) as file:  # never cut: it is mapped
            file.write(struct.pack("d", seconds))

    # -- the end

    def belongs(self, pid: int) -> bool:
        """Whether a living process is part of this run."""
        if pid == os.getpid() or not alive(pid):
            return False
        root = str(self.root)
        env = environment_of(pid)
        ours = any(env.get(name, "").startswith(root) for name in ("HOME", "OLLAMUX_SUPERVISOR", "OLLAMUX_STATE_DIR"))
        return ours or f"{root}/bin/" in words_of(pid)

    def end_all(self, own: Iterable[Any] = ()) -> None:
        """Kill everything of this run, each by its pid, until nothing is left."""
        until = time.monotonic() + 10.0
        while found := [pid for pid in all_pids() if self.belongs(pid)]:
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > until:
                raise AssertionError(f"these could not be ended: {found}")
            time.sleep(0.02)
        for process in own:
            process.wait()

    def keep(self) -> None:
        """Copy what lies on the small disks to where it outlives this process, and let go of them."""
        if self.disks_missing is not None:
            return
        libc = ctypes.CDLL(None, use_errno=True)
        for name in DISKS:
            shutil.copytree(self.root / name, self.root / f"{name}.kept", ignore=shutil.ignore_patterns("ballast"))
            libc.umount2(os.fsencode(self.root / name), 2)
            (self.root / name).rmdir()
            (self.root / f"{name}.kept").rename(self.root / name)

    def remove(self) -> None:
        """Remove the whole folder."""
        if self.disks_missing is None:
            libc = ctypes.CDLL(None, use_errno=True)
            for name in DISKS:
                libc.umount2(os.fsencode(self.root / name), 2)
        shutil.rmtree(self.root, ignore_errors=True)
