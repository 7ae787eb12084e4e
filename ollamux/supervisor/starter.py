"""Start one incarnation, or say by name what it has to wait for. Nothing is half-started."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ollamux.domain import events as ev
from ollamux.domain.errors import OllamuxError, TimedOutError
from ollamux.domain.instance import Instance
from ollamux.domain.phases import GOING_DOWN
from ollamux.domain.spec import OnDeath, Pinning
from ollamux.domain.tally import restarted
from ollamux.ollama.env import child_env, expand, rocr_token
from ollamux.ollama.version import Version, parse_version
from ollamux.supervisor.core import SLOT_HOLD_S, START_SLOT, Core
from ollamux.supervisor.programs import SILENT, find_program, launcher_for
from ollamux.supervisor.unit import Unit
from ollamux.system import child, follow, logfile, ports
from ollamux.system.clock import monotonic
from ollamux.system.patience import patiently

if TYPE_CHECKING:
    from ollamux.supervisor.gpus import Gpus

PORT_RETRY_S = 5.0
GPU_RETRY_S = 10.0
LEFTOVERS = "what an earlier run left"
NEIGHBOUR = "what another instance lets go"
CLASH = "its GPU"


class Starter:
    """Knows everything a start needs beyond the specification of the instance."""

    def __init__(self, core: Core, gpus: Gpus, *, env: Mapping[str, str], home: str, extra: Mapping[str, str]) -> None:
        self._core = core
        self._gpus = gpus
        self._env = env
        self._home = home
        self._extra = extra
        self._versions: dict[str, tuple[tuple[int, int], Version | None]] = {}
        self._prepared: dict[str, tuple[object, dict[str, str]]] = {}
        self.launcher: Sequence[str] = ()
        self.vram_obstacle: Callable[[Unit], tuple[str, str, float | None] | None] = lambda unit: None
        core.changed.append(self._let_go)

    def learn_version(self, path: str, version: Version | None) -> None:
        """Remember which version a program is, for as long as it stays the same file."""
        self._versions[path] = (_identity(path), version)

    def carried_versions(self) -> dict[str, tuple[int, int, str]]:
        """Return what was learnt, for the program that takes our place."""
        known = {path: (seen, version) for path, (seen, version) in self._versions.items() if version is not None}
        return {path: (*seen, ".".join(map(str, version))) for path, (seen, version) in known.items()}

    def recall_versions(self, carried: Mapping[str, tuple[int, int, str]]) -> None:
        """Go on with what the program before this one had learnt."""
        for path, (inode, changed, text) in carried.items():
            self._versions[path] = ((inode, changed), parse_version(text))

    def spawn(self, unit: Unit, gen: int) -> None:
        """Start it, and report Spawned, SpawnBlocked or SpawnFailed."""
        blocked = self._obstacle(unit)
        if blocked is not None:
            resource, reason, retry_s = blocked
            self._core.dispatch(unit, ev.SpawnBlocked(gen=gen, resource=resource, reason=reason, retry_s=retry_s))
            return
        try:
            program = self.program(unit)
            log_fd = logfile.open_log(unit.log_path)
        except TimedOutError as error:
            resource = f"program {unit.spec.ollama}"
            self._core.dispatch(
                unit, ev.SpawnBlocked(gen=gen, resource=resource, reason=error.message, retry_s=GPU_RETRY_S)
            )
            return
        except OllamuxError as error:
            self._core.dispatch(unit, ev.SpawnFailed(gen=gen, reason=error.message, permanent=True))
            return
        except OSError as error:
            reason = f"cannot write the log {unit.log_path}: {error.strerror}"
            self._core.dispatch(unit, ev.SpawnFailed(gen=gen, reason=reason, permanent=False))
            return
        try:
            self._start(unit, gen, program, log_fd)
        finally:
            os.close(log_fd)

    def _start(self, unit: Unit, gen: int, program: str, log_fd: int) -> None:
        unit.forget_incarnation()
        unit.port = unit.spec.port
        unit.fingerprint = None
        unit.log_start = os.fstat(log_fd).st_size
        try:
            unit.child = child.spawn([*self.launcher, program, "serve"], self.environment(unit, program), log_fd=log_fd)
        except OSError as error:
            # A file that is busy is being written: an installer is at work.
            transient = error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY)
            reason = f"{program} could not be started: {error.strerror}"
            self._core.dispatch(unit, ev.SpawnFailed(gen=gen, reason=reason, permanent=not transient))
            return
        if unit.state.spawns:
            os.sched_yield()  # clients wait for the new server, and nobody for what is left to do here
            unit.tally = restarted(unit.tally, gen)
        unit.spawned_at = monotonic()
        unit.follower = follow.Follower(unit.log_path, at=unit.log_start, patience=follow.PATIENCE)
        if self._core.fleet.supervisor.max_parallel_starts:
            self._core.loop.call_later(SLOT_HOLD_S, self._core.free_slots)
        self._core.dispatch(unit, ev.Spawned(gen=gen, pid=unit.child.pid))

    def launcher_of(self, on_death: OnDeath) -> tuple[str, ...]:
        """Return what stands before `ollama serve`. Raises NotFoundError where that is missing."""
        return launcher_for(on_death, self._env)

    def environment(self, unit: Unit, program: str) -> dict[str, str]:
        """Return the exact environment of the present incarnation."""
        identity, version = self._versions.get(program, (None, None))
        if version is not None and identity != _identity(program):
            version = None
        markers = {**self._extra, **unit.mark.variables()}
        made_from, prepared = self._prepared.get(unit.name, (None, {}))
        if made_from != (unit.spec, unit.gpus, version):
            prepared = child_env(
                unit.spec, gpus=unit.gpus, outer=self._env, home=self._home, version=version, markers=markers
            )
            self._prepared[unit.name] = (unit.spec, unit.gpus, version), prepared
        return {**prepared, **markers}

    def program(self, unit: Unit) -> str:
        """Return the program an instance is started from. Raises OllamuxError."""
        return find_program(unit.spec.ollama, self._env)

    def _obstacle(self, unit: Unit) -> tuple[str, str, float | None] | None:
        """Return (resource, reason, seconds until the next look) where a start has to wait."""
        limit = self._core.fleet.supervisor.max_parallel_starts
        under_way = self._core.starts_now(unit) if limit else 0
        if under_way and under_way >= (1 if self._first_ever() else limit):
            return START_SLOT, "waits for its turn: starts are staggered", None
        left = sorted(pid for pid, claim in self._core.leftovers.items() if claim.mark.instance == unit.name)
        if left:
            pids = ", ".join(map(str, left))
            return LEFTOVERS, f"waits until what an earlier run left is gone (pid {pids})", None
        blocked = self._gpu_obstacle(unit) or self._leftover(unit) or self._neighbour(unit)
        return blocked or self._store_obstacle(unit) or port_obstacle(unit)

    def _leftover(self, unit: Unit) -> tuple[str, str, None] | None:
        """Return what an earlier run of another instance still holds: ports were swapped since, or a card has moved."""
        cards = {name for gpu in unit.gpus for name in (gpu.uuid, rocr_token(gpu))}
        for pid, claim in self._core.leftovers.items():
            what = f"port {unit.spec.port}" if claim.port == unit.spec.port else None
            if not unit.spec.share_gpu and cards & claim.devices:
                what = what or "its GPU"
            if what is not None:
                run = f"an earlier run of {claim.mark.instance} (pid {pid})"
                return LEFTOVERS, f"waits until {run} has let go of {what}", None
        return None

    def _neighbour(self, unit: Unit) -> tuple[str, str, None] | None:
        """Return what another instance is about to leave and this one needs, as when two swap their ports."""
        for other in self._core.units.values():
            if other is unit or other.child is None or other.state.phase not in GOING_DOWN:
                continue
            what = f"port {unit.spec.port}" if other.port == unit.spec.port else None
            if not (unit.spec.share_gpu and other.spec.share_gpu):
                shared = {gpu.uuid for gpu in unit.gpus} & {gpu.uuid for gpu in other.gpus}
                what = what or ("its GPU" if shared else None)
            if what is not None:
                return NEIGHBOUR, f"waits until {other.name} has let go of {what}", None
        return None

    def _let_go(self, unit: Unit, before: Instance) -> None:
        if before.phase in GOING_DOWN and unit.state.phase not in GOING_DOWN:
            self._core.free(NEIGHBOUR)

    def _first_ever(self) -> bool:
        """Whether no server has made its key yet: servers that make it at the same time race for the file."""
        if any(unit.server_version is not None for unit in self._core.units.values()):
            return False
        try:
            key = f"{self._home}/.ollama/id_ed25519"
            return not patiently(self._home, lambda: os.path.exists(key), at=(key,))
        except TimeoutError:
            return True

    def _gpu_obstacle(self, unit: Unit) -> tuple[str, str, float | None] | None:
        if unit.spec.pinning is not Pinning.GPUS:
            unit.gpus = ()
            return None
        inventory = self._gpus.inventory
        if inventory is None:
            return self._gpus.RESOURCE, "waits for the list of GPUs", None
        from ollamux.gpu.resolve import resolve  # not needed for a box without cards

        found = resolve(unit.spec, inventory, machine=self._gpus.machine)
        if found.problem is None:
            unit.gpus = found.gpus
            clash = self._gpus.clash(unit)
            if clash is None:
                return self.vram_obstacle(unit)
            return CLASH, clash, GPU_RETRY_S
        wanted = ", ".join(map(str, unit.spec.gpus))
        return f"GPU {wanted}", found.problem, GPU_RETRY_S

    def _store_obstacle(self, unit: Unit) -> tuple[str, str, float | None] | None:
        if unit.spec.store is None:
            return None
        store = expand(unit.spec.store, self._home)
        try:
            problem = patiently(f"the store {store}", lambda: store_problem(store), at=(store,))
        except TimeoutError:
            problem = SILENT
        return None if problem is None else (f"store {store}", f"the store {store} {problem}", GPU_RETRY_S)


def port_obstacle(unit: Unit) -> tuple[str, str, float] | None:
    """Return what stands in the way of listening; the holder is named and left alone."""
    spec = unit.spec
    error = ports.obstacle(spec.host, spec.port)
    if error is None:
        return None
    if error.errno == errno.EADDRINUSE:
        held = ports.holder(spec.host, spec.port)
        by = f"is held by {held}" if held else "is in use (bound, but nobody listens on it)"
        return f"port {spec.port}", f"port {spec.port} {by}", PORT_RETRY_S
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "a descriptor", "the supervisor may open no more files (ulimit -n)", GPU_RETRY_S
    if error.errno == errno.EADDRNOTAVAIL:
        return f"address {spec.host}", f"{spec.host} is not an address of this machine", GPU_RETRY_S
    return f"port {spec.port}", f"port {spec.port} cannot be used: {error.strerror}", GPU_RETRY_S


def store_problem(store: str) -> str | None:
    """Return why a store cannot be used, or None; a missing one is made by ollama where its parent allows it."""
    if os.path.isdir(store):
        return None if os.access(store, os.R_OK | os.X_OK) else "cannot be read by this user"
    if os.path.lexists(store):
        return "cannot be entered" if os.path.islink(store) and not os.path.exists(store) else "is not a folder"
    parent = os.path.dirname(store)
    while parent != "/" and not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        return f"cannot be made: {parent} is not a folder"
    return None if os.access(parent, os.W_OK | os.X_OK) else f"cannot be made: {parent} is not writable"


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)
