"""Ask systemctl(1), and say in plain words where there is nobody to ask. Knows no unit."""

from __future__ import annotations

import os
import re
import subprocess

_PATIENCE_S = 10.0
_MOST_TEXT = 4096


def version() -> int | None:
    """Return systemd's version, None where there is none."""
    answer = _run(["systemctl", "--version"], _PATIENCE_S)
    found = re.match(r"systemd (\d+)", answer[1]) if answer is not None and answer[0] == 0 else None
    return int(found[1]) if found is not None else None


def trouble(*, user: bool) -> str | None:
    """Return why the manager, the user's own or the machine's, cannot be asked; None where it answers."""
    answer = _run([*_systemctl(user=user), "show", "--property=Version"], _PATIENCE_S)
    if answer is None:
        return "there is no systemctl"
    code, text = answer
    return None if code == 0 else text.partition("\n")[0] or "systemctl failed"


def call(*words: str, user: bool, patience_s: float | None = _PATIENCE_S) -> tuple[int, str]:
    """Run systemctl; return its exit code and what it said. A patience of None waits as long as the manager does."""
    answer = _run([*_systemctl(user=user), *words], patience_s)
    return answer if answer is not None else (127, "systemctl did not answer")


def _systemctl(*, user: bool) -> list[str]:
    return ["systemctl", "--user"] if user else ["systemctl"]


def _run(command: list[str], patience_s: float | None) -> tuple[int, str] | None:
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, done.stdout[:_MOST_TEXT].decode("utf-8", "replace").strip()


def _environment() -> dict[str, str]:
    """Return our environment with the place of the user's manager, which `su` and cron do not name."""
    env = dict(os.environ, SYSTEMD_COLORS="0", SYSTEMD_PAGER="", LC_ALL="C.UTF-8")
    login = f"/run/user/{os.getuid()}"
    if not env.get("XDG_RUNTIME_DIR") and os.path.isdir(login):
        env["XDG_RUNTIME_DIR"] = login
    return env
