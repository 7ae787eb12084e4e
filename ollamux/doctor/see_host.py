"""What /proc, /sys and /etc say of the machine, below one root. Read-only, and only small files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ollamux.doctor.facts import Host

_LARGEST = 1 << 20
_DISPLAY = "0x03"
_NVIDIA = "0x10de"
# What cgroup v1 writes for "no limit" is the largest multiple of a page; no machine has as much memory.
_NO_LIMIT = 1 << 60
_SLEEP_TARGETS = ("sleep.target", "suspend.target")


def see_host(root: Path, pid: int | None) -> Host:
    """Return what the files tell; `pid` is whose control group is meant, None for our own."""
    group, limit, kills = _cgroup(root, "self" if pid is None else str(pid))
    return Host(
        system=_system(root),
        memory_bytes=_kib(_read(root / "proc/meminfo"), "MemTotal"),
        cgroup=group,
        cgroup_memory_bytes=limit,
        cgroup_oom_kills=kills,
        oom_kills=_count(_read(root / "proc/vmstat"), "oom_kill"),
        nvidia_cards=_nvidia_cards(root),
        nvidia_module=_module(root),
        sleeps=_whole(_read(root / "sys/power/suspend_stats/success")),
        idle_action=_idle_action(root),
        may_sleep=_may_sleep(root),
    )


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _whole(text: str | None) -> int | None:
    word = (text or "").strip()
    return int(word) if word.isascii() and word.isdigit() else None


def _count(text: str | None, name: str) -> int | None:
    found = re.search(rf"^{name}\s+(\d+)$", text or "", re.MULTILINE)
    return int(found[1]) if found else None


def _kib(text: str | None, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _system(root: Path) -> str | None:
    found = re.search(r'^ID="?([\w.-]+)"?$', _read(root / "etc/os-release") or "", re.MULTILINE)
    return found[1] if found else None


def _cgroup(root: Path, who: str) -> tuple[str | None, int | None, int | None]:
    """Return the group, the tightest limit on it or a group above it, and how often it was short of memory."""
    for line in (_read(root / "proc" / who / "cgroup") or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            folders = _upwards(root / "sys/fs/cgroup", path)
            names = ("memory.max", "memory.events")
        elif "memory" in controllers.split(","):
            folders = _upwards(root / "sys/fs/cgroup/memory", path)
            names = ("memory.limit_in_bytes", "memory.oom_control")
        else:
            continue
        limits = [_whole(_read(folder / names[0])) for folder in folders]
        known = [limit for limit in limits if limit is not None and limit < _NO_LIMIT]
        kills = _count(_read(folders[0] / names[1]), "oom_kill")
        if any((folder / names[1]).exists() for folder in folders) or known:
            return path, min(known, default=None), kills
    return None, None, None


def _upwards(top: Path, path: str) -> list[Path]:
    """Return the folders of a group and of all above it; in a container the path may lead out of what is mounted."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return [top.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _nvidia_cards(root: Path) -> int | None:
    folder = root / "sys/bus/pci/devices"
    try:
        devices = os.listdir(folder)
    except OSError:
        return None
    return sum(
        (_read(folder / name / "vendor") or "").strip() == _NVIDIA
        and (_read(folder / name / "class") or "").startswith(_DISPLAY)
        for name in devices
    )


def _module(root: Path) -> str | None:
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", _read(root / "proc/driver/nvidia/version") or "")
    return found[1] if found else None


def _idle_action(root: Path) -> str | None:
    """Return what logind does with a machine that nobody types on (logind.conf(5)): the last word wins."""
    parts = root / "etc/systemd/logind.conf.d"
    files = [root / "etc/systemd/logind.conf", *sorted(parts.glob("*.conf"))]
    found = [word for path in files for word in re.findall(r"^IdleAction=(\S+)", _read(path) or "", re.MULTILINE)]
    return found[-1] if found else None


def _may_sleep(root: Path) -> bool | None:
    """Whether somebody's desktop may send the machine to sleep: it can, nothing forbids it, and there is one."""
    states = _read(root / "sys/power/state")
    if states is None:
        return None
    folder = root / "etc/systemd/system"
    masked = any(_leads(folder / target) == "/dev/null" for target in _SLEEP_TARGETS)
    return "mem" in states.split() and not masked and os.path.lexists(folder / "display-manager.service")


def _leads(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
