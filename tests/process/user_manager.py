"""A real `systemd --user` of a test's own, in a cgroup and a mount namespace of its own. Needs root.

It shares the process numbers and the folders of the test, so that everything else is looked at as always; what it
starts is in its cgroup, which is emptied by the kernel at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from process_box import Box, Process, wait_for

SYSTEMD = next((path for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.path.exists(path)), None)
UNITS = Path("/usr/lib/systemd/user")
NEEDED = ("basic", "default", "shutdown", "exit", "paths", "sockets", "timers")
# systemd starts as a user's manager only where the machine seems to have been booted with it.
SCRIPT = """
set -e
echo $$ > "$GROUP/cgroup.procs"
exec unshare --mount --cgroup sh -ec '
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
exec "$SYSTEMD" --user --unit=basic.target
'
"""


def why_not() -> str | None:
    """Return why no manager can be had here, or None."""
    if SYSTEMD is None or shutil.which("systemctl") is None:
        return "needs systemd"
    if os.geteuid() != 0:
        return "needs root, for a manager of its own"
    if _cgroups() is None:
        return "needs cgroups of version 2 that may be written"
    tried = subprocess.run(["unshare", "--mount", "--cgroup", "true"], capture_output=True, check=False)
    return "needs namespaces" if tried.returncode != 0 else None


def _cgroups() -> Path | None:
    """Return the folder of our own cgroup."""
    own = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
    for line in _lines("/proc/self/mounts"):
        _, place, kind, *_ = line.split()
        folder = Path(place + own)
        if kind == "cgroup2" and os.access(folder, os.W_OK):
            return folder
    return None


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


class UserManager:
    """Started for one box; `systemctl` asks it."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.runtime = box.runtime.parent / "login"
        self.runtime.mkdir(mode=0o700)
        units = box.root / "units"
        units.mkdir()
        for name in NEEDED:
            shutil.copy(UNITS / f"{name}.target", units)
        box.env["XDG_RUNTIME_DIR"] = str(self.runtime)
        parent = _cgroups()
        assert parent is not None
        self.group = parent / f"ollamux-test-{os.getpid()}-{self.runtime.parent.name}"
        self.group.mkdir()
        own = {
            "HOME": str(box.home),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "SYSTEMD_UNIT_PATH": f"{box.home}/.config/systemd/user:{units}",
            "SYSTEMD_LOG_TARGET": "console",
            "GROUP": str(self.group),
            "SYSTEMD": str(SYSTEMD),
        }
        self.log = box.root / "manager.log"
        with open(self.log, "wb") as log:
            self.process = Process(
                ["sh", "-c", SCRIPT], env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise

    def _wait_until_it_answers(self) -> None:
        def answers() -> bool:
            if self.process.poll() is not None:
                pytest.skip(f"systemd does not start here: {self.log.read_text()[-200:]}")
            return (self.runtime / "systemd/private").exists() and self.systemctl("show").returncode == 0

        wait_for(answers, "the manager answers")

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `systemctl --user` to its end."""
        return subprocess.run(
            ["systemctl", "--user", *words], env=self.box.env, capture_output=True, text=True, timeout=60, check=False
        )

    def tell(self, *words: str) -> None:
        """The same, and it has to succeed."""
        done = self.systemctl(*words)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.log.read_text()[-3000:]}"

    def told(self, name: str) -> str:
        """Return a property of our unit."""
        return self.systemctl("show", "-P", name, "ollamux.service").stdout.strip()

    @property
    def main_pid(self) -> int:
        return int(self.told("MainPID") or 0)

    def wait_state(self, state: str) -> None:
        wait_for(lambda: self.told("ActiveState") == state, f"the service is {state}")

    def close(self) -> None:
        """End the manager and everything it has started, which is exactly what is in its cgroup."""
        (self.group / "cgroup.kill").write_text("1")
        self.process.wait()
        for folder, _, _ in os.walk(self.group, topdown=False):
            wait_for(lambda folder=folder: _removed(folder), f"{folder} is empty")


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError:
        return not os.path.exists(folder)
    return True
