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
_GONE = " (deleted)"
UNIT, _OUR_UNIT = "ollama.service", "ollamux.service"
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
    return tuple(_server(pid, service) for pid in procs.pids() if _serves(procs.arguments(pid)) and not is_ours(pid))


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


def user_of(pid: int) -> str | None:
    """Return the name of whose a process is, None where it is gone."""
    try:
        return procs.user_name(os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return None


def _owner(pid: int) -> tuple[str, str | None]:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        return procs.user_name(uid), pwd.getpwuid(uid).pw_dir
    except (OSError, KeyError):
        return "?", None


def in_packaged_unit(pid: int) -> bool:
    """Whether a process belongs to the packaged service, by its control group, which everybody may read."""
    return _in_unit(pid, UNIT)


def is_ours(pid: int) -> bool:
    """Whether some ollamux has started a process: by its mark, or of another user by the unit of our own service."""
    return mark_of(pid) is not None or _in_unit(pid, _OUR_UNIT)


def _in_unit(pid: int, unit: str) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            return any(f"/{unit}".encode() in line for line in file.read(4096).splitlines())
    except OSError:
        return False


def see_outdated(status: Status | None) -> tuple[Outdated, ...]:
    """Return the servers of ours whose program is not on disk any more as they run it.

    Asked is the very program that runs: which one a name stands for hangs on the PATH of the supervisor.
    """
    versions: dict[str, str | None] = {}
    found = []
    for view in () if status is None else status.instances:
        program = None if view.pid is None else _program(view.pid)
        if program is None:
            continue
        gone = program.endswith(_GONE)
        if not gone and program not in versions:
            versions[program] = version_text(program, PATIENCE_S)
        running, on_disk = view.ollama_version, versions.get(program)
        if gone or (running is not None and on_disk is not None and running != on_disk):
            path = program.removesuffix(_GONE)
            found.append(Outdated(instance=view.name, program=path, running=running, on_disk=on_disk))
    return tuple(found)


def _program(pid: int) -> str | None:
    """Return the file that a server runs, also where it is a script."""
    try:
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    if os.path.basename(program).startswith("ollama"):
        return program
    words = procs.arguments(pid)[:3]
    return next((word for word in words if word.startswith("/") and os.path.basename(word) == "ollama"), None)
