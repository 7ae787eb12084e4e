"""The ports and the stores that instances want, and who stands in their way. Changes nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ollamux.doctor.facts import Obstacle, Store
from ollamux.doctor.see_ollama import in_packaged_unit, is_ours, user_of
from ollamux.domain.spec import FleetSpec
from ollamux.ollama.store import store_path
from ollamux.supervisor.family import mark_of
from ollamux.system import ports, procs
from ollamux.system.places import home


def see_obstacles(fleet: FleetSpec) -> tuple[Obstacle, ...]:
    """Return which instances could not listen, and for whom; a server of our own on its port is none."""
    found = []
    for spec in fleet.instances:
        error = ports.obstacle(spec.host, spec.port) if spec.enabled else None
        if error is None:
            continue
        if error.errno == errno.EADDRNOTAVAIL:
            found.append(Obstacle(instance=spec.name, host=spec.host, port=spec.port, address_missing=True))
        elif error.errno == errno.EADDRINUSE:
            holder = ports.holder(spec.host, spec.port)
            pids = _suspects(holder)
            if not any(_is_this(pid, spec.name) for pid in pids):
                found.append(
                    Obstacle(
                        instance=spec.name,
                        host=spec.host,
                        port=spec.port,
                        holder=None if holder is None else str(holder),
                        pid=None if holder is None else holder.pid,
                        packaged=any(map(in_packaged_unit, pids)),
                    )
                )
    return tuple(found)


def _suspects(holder: ports.Holder | None) -> list[int]:
    """Return who may hold a port: of another user the kernel tells no more than the user."""
    if holder is None:
        return []
    return [holder.pid] if holder.pid is not None else [pid for pid in procs.pids() if user_of(pid) == holder.user]


def _is_this(pid: int, instance: str) -> bool:
    """Whether a process is this very instance, of whichever supervisor: as root the state of the service is another."""
    mark = mark_of(pid)
    return is_ours(pid) if mark is None else mark.instance == instance


def see_stores(fleet: FleetSpec, env: Mapping[str, str]) -> tuple[Store, ...]:
    """Return every folder of models that an enabled instance uses."""
    users: dict[str, list[str]] = {}
    for spec in fleet.instances:
        if spec.enabled:
            users.setdefault(store_path(spec.store, home(env)), []).append(spec.name)
    return tuple(_store(path, tuple(names)) for path, names in users.items())


def _store(path: str, instances: tuple[str, ...]) -> Store:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        above, makeable = _makeable(path)
        return Store(path=path, instances=instances, state="missing", makeable=makeable, obstacle=above)
    except OSError as error:
        return Store(path=path, instances=instances, state="closed", obstacle=_closed_above(path) or error.strerror)
    if not stat.S_ISDIR(found.st_mode):
        return Store(path=path, instances=instances, state="not a folder")
    places = [place for place in (path, f"{path}/blobs", f"{path}/manifests") if os.path.exists(place)]
    closed = next((place for place in places if not os.access(place, os.R_OK | os.X_OK)), None)
    if closed is not None:
        return Store(path=path, instances=instances, state="closed", obstacle=closed)
    room = os.statvfs(path)
    return Store(
        path=path,
        instances=instances,
        real_path=os.path.realpath(path),
        writable=all(os.access(place, os.W_OK | os.X_OK) for place in places),
        open_to="everybody" if any(_open_to_all(place) for place in places) else None,
        free_bytes=room.f_bavail * room.f_frsize,
    )


def _closed_above(path: str) -> str | None:
    """Return the first folder on the way to a path that this user may not pass."""
    above = [str(folder) for folder in reversed(Path(path).parents)]
    return next((folder for folder in above if not os.access(folder, os.X_OK)), None)


def _open_to_all(path: str) -> bool:
    mode = os.stat(path).st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _makeable(path: str) -> tuple[str, bool]:
    """Return the nearest thing above that is there, and whether a folder could be made in it."""
    above = path
    while above not in ("", "/") and not os.path.lexists(above):
        above = os.path.dirname(above)
    return above, os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK)
