"""The `ollama` programs of a machine, what lies beside them, and the servers that run. Starts only `--version`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from ollamux.doctor.facts import Libraries, Outdated, Program, Server, Service
from ollamux.domain.errors import OllamuxError
from ollamux.domain.snapshot import Status
from ollamux.ollama.binary import find_ollama, version_text
from ollamux.ollama.version import parse_version
from ollamux.supervisor.family import mark_of
from ollamux.system import procs, systemctl
from ollamux.system.files import replaceable_by

PATIENCE_S = 5.0
UNIT = "ollama.service"
_FALSE = frozenset(("", "0", "f", "F", "false", "FALSE", "False"))


def see_program(name: str, env: Mapping[str, str]) -> Program:
    """Return what is known of a program as the configuration names it."""
    try:
        path = find_ollama(name, env)
    except OllamuxError as error:
        return Program(name=name, problem=error.message)
    text = version_text(path, PATIENCE_S)
    return Program(
        name=name,
        path=path,
        version_text=text,
        version=None if text is None else parse_version(text),
        libraries=_libraries(path, env),
        replaceable=replaceable_by(path),
    )


def see_path(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return every different `ollama` on PATH, the one that is found first at the front."""
    found: dict[str, str] = {}
    for folder in env.get("PATH", "").split(os.pathsep):
        path = os.path.join(folder, "ollama")
        if folder.startswith("/") and os.access(path, os.X_OK) and os.path.isfile(path):
            found.setdefault(os.path.realpath(path), path)
    return tuple(found.values())


def _libraries(path: str, env: Mapping[str, str]) -> Libraries | None:
    """Look where ollama itself does (ml/path.go): beside its program, behind all links.

    None where it is a script or a wrapper that starts another program: nobody knows then which.
    """
    real = Path(os.path.realpath(path))
    if not real.name.startswith("ollama") or (real.parent / f".{real.name}-wrapped").exists():
        return None
    with real.open("rb") as file:
        if file.read(2) == b"#!":
            return None
    near = real.parent
    folders = [near.parent / "lib/ollama", near / "lib/ollama", near / "build/lib/ollama"]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    names = () if folder is None else tuple(sorted(os.listdir(folder)))
    searched = [str(folder or near), str(near), *env.get("PATH", "").split(os.pathsep)]
    return Libraries(
        folder=str(folder or folders[0]),
        cuda=tuple(name for name in names if name.startswith(("cuda_", "libggml-cuda"))),
        has_runner=any(os.access(os.path.join(place, "llama-server"), os.X_OK) for place in searched if place),
    )


def see_service() -> Service | None:
    """Ask systemd for the packaged service; None where it does not answer, or there is no such service."""
    names = "LoadState,ActiveState,UnitFileState,MainPID,Environment"
    code, text = systemctl.call("show", UNIT, f"--property={names}", user=False, patience_s=PATIENCE_S)
    told = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if code != 0 or told.get("LoadState") != "loaded":
        return None
    pid = told.get("MainPID", "")
    words = (word.strip("\"'").split("=", 1) for word in told.get("Environment", "").split() if "=" in word)
    return Service(
        active=told.get("ActiveState") in ("active", "activating", "reloading"),
        enabled=told.get("UnitFileState") == "enabled",
        pid=int(pid) if pid.isdigit() and pid != "0" else None,
        environment=tuple((name, value) for name, value in words),
    )


def see_servers(service: Service | None) -> tuple[Server, ...]:
    """Return every `ollama serve` that no ollamux has started."""
    return tuple(
        _server(pid, service) for pid in procs.pids() if _serves(procs.arguments(pid)) and mark_of(pid) is None
    )


def _serves(words: list[str]) -> bool:
    """Whether a command line is `ollama serve`, also where an interpreter or a loader stands before it."""
    return any(
        os.path.basename(word) == "ollama" and following in ("serve", "start")
        for word, following in pairwise(words[:4])
    )


def _server(pid: int, service: Service | None) -> Server:
    packaged = in_packaged_unit(pid)
    env = procs.environment(pid)
    user, home = _owner(pid)
    if env is None and packaged and service is not None:
        env = dict(service.environment)
    store = None
    if env is not None:
        below = env.get("HOME") or home
        store = env.get("OLLAMA_MODELS") or (f"{below}/.ollama/models" if below else None)
    prunes = None if env is None else env.get("OLLAMA_NOPRUNE", "").strip(" \"'") in _FALSE
    return Server(
        pid=pid, user=user, packaged=packaged, store=None if store is None else os.path.realpath(store), prunes=prunes
    )


def _owner(pid: int) -> tuple[str, str | None]:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        return procs.user_name(uid), pwd.getpwuid(uid).pw_dir
    except (OSError, KeyError):
        return "?", None


def in_packaged_unit(pid: int) -> bool:
    """Whether a process belongs to the packaged service, by its control group."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            return f"/{UNIT}".encode() in file.read(4096)
    except OSError:
        return False


def see_outdated(status: Status | None) -> tuple[Outdated, ...]:
    """Return the servers of ours whose program is not on disk any more as they run it."""
    found = []
    for view in () if status is None else status.instances:
        try:
            program = os.readlink(f"/proc/{view.pid}/exe") if view.pid is not None else ""
        except OSError:
            continue
        if program.endswith(" (deleted)") and view.pid is not None:
            found.append(Outdated(instance=view.name, pid=view.pid))
    return tuple(found)
