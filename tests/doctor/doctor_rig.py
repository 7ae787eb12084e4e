"""A whole machine for the real command: a driver, an ollama with its libraries, a service manager, /proc, /sys, /etc.

The driver is the stand-in for NVIDIA's library, the ollama a program of its own, the files of the machine a tree below
`host`; ports, sockets, stores and processes are real.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_rig import Place, Result
from standin_rig import SCENES

from tests.ports import free_ports

HOST = "127.0.0.45"
UUIDS = ("GPU-8f3c2a90-51d7-4c3e-9b06-000000000000", "GPU-8f3c2a91-51d7-4c3e-9b06-000000000001")
NEWEST, OLDER = "0.32.15", "0.24.0"
_PROGRAM = '#include <stdio.h>\nint main(void) { puts("ollama version is " VERSION); return 0; }\n'
_TREE = {
    "proc/meminfo": "MemTotal:       65536000 kB\nMemFree:  100 kB\n",
    "proc/vmstat": "nr_free_pages 10\noom_kill 0\n",
    "proc/self/cgroup": "0::/user.slice/session-1.scope\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\n",
    "sys/fs/cgroup/user.slice/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/session-1.scope/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/session-1.scope/memory.events": "low 0\noom 0\noom_kill 0\n",
    "sys/power/state": "freeze mem disk\n",
    "sys/power/suspend_stats/success": "0\n",
    "sys/bus/pci/devices/0000:17:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:17:00.0/class": "0x030000\n",
    "etc/os-release": 'NAME="Debian"\nID=debian\n',
}
_SYSTEMCTL = "#!/bin/sh\ncat <<'SAID'\n{said}\nSAID\n"


class Box:
    """A machine on which nothing is wrong, and ways to break it."""

    def __init__(self, library: Path) -> None:
        self.place = Place()
        self.root = self.place.root
        self.host, self.store = self.root / "host", self.root / "models"
        self.store.mkdir(mode=0o755)
        self.ports = free_ports(2)
        for path, text in _TREE.items():
            self.file(path, text)
        self.programs = self.root / "usr/bin"
        self.libraries = self.root / "usr/lib/ollama"
        for name in ("cuda_v12", "cuda_v13"):
            (self.libraries / name).mkdir(parents=True)
        self.runner = self.script(self.libraries / "llama-server", "#!/bin/sh\n")
        self.program(self.programs / "ollama", NEWEST)
        self.systemctl("LoadState=not-found\nActiveState=inactive")
        self.scene((SCENES / "two-cards.state").read_text(encoding="utf-8"))
        self.place.env |= {
            "PATH": f"{self.programs}:{self.root}/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": str(library),
            "STANDIN_NVML": str(self.root / "nvml"),
        }
        self.config()

    def file(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        target = self.host / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def scene(self, text: str) -> str:
        """Say what the driver answers."""
        (self.root / "nvml").write_text(text, encoding="utf-8")
        return text

    def changed(self, *changes: tuple[str, str], extra: str = "") -> None:
        """Change what the driver answers."""
        text = (self.root / "nvml").read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        self.scene(text + extra)

    def script(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path

    def program(self, path: Path, version: str) -> Path:
        """Make an `ollama` that is no script and knows its version."""
        path.parent.mkdir(parents=True, exist_ok=True)
        compiler = shutil.which("cc") or pytest.skip("needs a C compiler, as cc")
        words = [compiler, f'-DVERSION="{version}"', "-x", "c", "-", "-o", str(path)]
        subprocess.run(words, input=_PROGRAM, text=True, check=True)
        return path

    def systemctl(self, said: str) -> None:
        """Say what the service manager answers about ollama.service."""
        self.script(self.root / "bin/systemctl", _SYSTEMCTL.format(said=said))

    def config(self, *, gpu0: str = "", gpu1: str = "", defaults: str = "", gpus: tuple[str, str] = UUIDS) -> None:
        """Write a configuration of two instances, each on a card of its own."""
        text = f'version = 1\n[defaults]\nstore = "{self.store}"\n{defaults}\n'
        for name, port, uuid, more in zip(("gpu0", "gpu1"), self.ports, gpus, (gpu0, gpu1), strict=True):
            host = "" if "host =" in more + defaults else f'host = "{HOST}"\n'
            text += f'[instances.{name}]\ngpus = ["{uuid}"]\nport = {port}\n{host}{more}\n'
        (self.place.work / "ollamux.toml").write_text(text)

    def serve(self, *names: str, path: str | None = None, **keys: str) -> Path:
        """Start a supervisor of servers that answer; return the program that they run."""
        (self.programs / "ollama").unlink()
        program = Path(self.place.fake_ollama())
        config = self.place.config(*names, **({} if path is None else {"name": path}), **keys)
        self.place.ok("up", "-d", "-q", "--config", str(config))
        return program

    def run(self, *words: str, columns: int = 100, **options: Any) -> Result:
        """Run the command on this machine."""
        env = {"COLUMNS": str(columns), **options.pop("env", {})}
        return self.place.run("doctor", "--root", str(self.host), *words, env=env, seconds=60, **options)

    def found(self, *words: str, code: int = 0) -> dict[str, dict[str, Any]]:
        """Return what is found, by id."""
        result = self.run("-o", "json", *words)
        assert result.code == code, result
        report = result.json
        assert report["schema"] == "ollamux.doctor/1"
        self.unknown = {one["what"]: one["why"] for one in report["unknown"]}
        return {finding["id"]: finding for finding in report["findings"]}

    def close(self) -> None:
        self.place.close()
