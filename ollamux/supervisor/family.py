"""Which processes belong to an incarnation, and how to signal them without ever hitting a stranger.

A runner inherits the environment, the group and the session of its server (seen on ollama 0.24.0 and 0.32.15), so it
is known for certain by the marker that the server was started with, even when it left the group. A process that is
not provably ours is never signalled.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import NamedTuple

from ollamux.domain.health import Effort
from ollamux.system import procs
from ollamux.system.child import Child, reap_orphan
from ollamux.system.reserve import spare

INSTANCE = "OLLAMUX_INSTANCE"
GENERATION = "OLLAMUX_GENERATION"
SUPERVISOR = "OLLAMUX_SUPERVISOR"
SUPERVISOR_ID = "OLLAMUX_SUPERVISOR_ID"
_OURS = procs.OwnChildren()


MARKS = frozenset((INSTANCE, GENERATION, SUPERVISOR, SUPERVISOR_ID))
"""The variables of a mark: whoever has them all counts as ours, so nobody else is given them."""


class Mark(NamedTuple):
    """What tells the processes of one incarnation from all others.

    `owner` is the supervisor's folder of state and the random id kept in it: a container may have the same folder.
    """

    owner: str
    instance: str
    gen: int

    def variables(self) -> dict[str, str]:
        """Return the environment variables that carry the mark."""
        folder, _, identity = self.owner.rpartition(" ")
        return {SUPERVISOR: folder, SUPERVISOR_ID: identity, INSTANCE: self.instance, GENERATION: str(self.gen)}


class Claim(NamedTuple):
    """What a process of ours was started to use, and may hold until it is gone."""

    mark: Mark
    port: int | None
    devices: frozenset[str]


def claim_of(pid: int, mark: Mark) -> Claim:
    """Return what a marked process may still hold, from the environment its server was started with."""
    env = procs.environment(pid) or {}
    port = env.get("OLLAMA_HOST", "").rpartition(":")[2]
    tokens = (
        token for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") for token in env.get(name, "").split(",")
    )
    return Claim(mark, int(port) if port.isdecimal() else None, frozenset(tokens) - {"", "-1"})


def mark_of(pid: int) -> Mark | None:
    """Return the mark a process carries, or None where it has none, is gone, or is not ours to look at."""
    env = procs.environment(pid)
    if not env or INSTANCE not in env or SUPERVISOR not in env or not env.get(GENERATION, "").isdigit():
        return None
    owner = f"{env[SUPERVISOR]} {env.get(SUPERVISOR_ID, '')}"
    return Mark(owner=owner, instance=env[INSTANCE], gen=int(env[GENERATION]))


@spare()
def marked(owner: str) -> dict[int, Mark]:
    """Return every living process that carries a mark of this owner: a look at all of /proc, for rare occasions."""
    found: dict[int, Mark] = {}
    for pid in procs.pids():
        mark = mark_of(pid) if pid != os.getpid() else None
        if mark is not None and mark.owner == owner and _lives(pid) and _is_descendant(pid, owner):
            found[pid] = mark
    return found


def _is_descendant(pid: int, owner: str) -> bool:
    """Whether a marked process was started below one of our servers, and not by a person with a copied environment.

    A server leads a session of its own. A session whose leader lives and carries no mark of ours is somebody's shell,
    and so is one that was begun outside a container, which has no number in it.
    """
    seen = procs.stat(pid)
    if seen is None or seen.session == 0 or not procs.same_namespace(pid):
        return False
    if seen.session == pid or not _lives(seen.session):
        return True
    mark = mark_of(seen.session)
    return mark is not None and mark.owner == owner


def _lives(pid: int) -> bool:
    seen = procs.stat(pid)
    return seen is not None and seen.state not in ("Z", "X")


def own_children() -> list[int] | None:
    """Return all children of this process, or None where this kernel does not list them."""
    return _OURS.list()


@spare()
def reap_orphans(known: Iterable[int]) -> None:
    """Collect dead processes that fell to us. `known` are our own children, which are collected elsewhere."""
    keep = frozenset(known)
    for pid in own_children() or ():
        if pid not in keep:
            seen = procs.stat(pid)
            if seen is not None and seen.state == "Z":
                reap_orphan(pid)


def members(mark: Mark, leader: Child, known: Iterable[int]) -> list[int]:
    """Return the living processes of an incarnation besides its leader.

    While the leader is our unreaped child everything it left is our own child or below one, so that /proc need not be
    searched; its group's number is pinned by the zombie. For an adopted leader all of /proc is searched by marker.
    """
    keep = frozenset(known)
    ours = own_children() if leader.ours and leader.ended else None
    if ours is not None and keep.issuperset(ours):
        return []  # nothing has fallen to us: no process need be looked at while clients wait for the next server
    return _members_looked_for(mark, leader, keep)


@spare()
def _members_looked_for(mark: Mark, leader: Child, known: frozenset[int]) -> list[int]:
    if not leader.ours:
        return [pid for pid, found in marked(mark.owner).items() if found == mark and pid != leader.pid]
    ours = own_children()
    if ours is None:
        candidates = procs.pids()
    else:
        roots = [pid for pid in ours if pid not in known]
        candidates = roots + [below for root in roots for below in procs.descendants(root)]
        if not leader.ended:  # the kernel hands on the children of the dead before it tells us of the death
            candidates += procs.descendants(leader.pid)
    found = []
    for pid in dict.fromkeys(candidates):
        seen = procs.stat(pid) if pid not in (leader.pid, os.getpid()) else None
        if seen is None or seen.state in ("Z", "X"):
            continue
        if seen.pgid == leader.pid or mark_of(pid) == mark:
            found.append(pid)
    return found


@spare()
def signal_members(mark: Mark, leader: Child, pids: Iterable[int], number: int) -> None:
    """Signal each process through a handle of its own, after proving through the handle's process that it is ours."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # Looked at only after the handle exists: the number cannot have passed to a stranger unnoticed.
            seen = procs.stat(pid)
            pinned = leader.ours and seen is not None and seen.pgid == leader.pid
            if pinned or mark_of(pid) == mark:
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            pass  # it has changed its user; whoever it is now, it is not ours to end
        finally:
            os.close(handle)


def effort(pid: int) -> Effort | None:
    """Return what a process has done since it was started, None where it is gone."""
    seen = procs.stat(pid)
    if seen is None or seen.state in ("Z", "X"):
        return None
    return Effort(cpu_ticks=seen.cpu_ticks, read_bytes=procs.read_bytes(pid))


def keeps_to_cpu(pid: int) -> bool:
    """Whether a runner was told to put no layer on a GPU. From 0.30 on its arguments say so (llama_server.go)."""
    words = procs.arguments(pid)
    return "-ngl" in words[:-1] and words[words.index("-ngl") + 1] == "0"


def port_of(pid: int) -> int | None:
    """Return the port in the arguments of a runner, by which its server's log names it."""
    words = procs.arguments(pid)
    port = words[words.index("--port") + 1] if "--port" in words[:-1] else ""
    return int(port) if port.isascii() and port.isdigit() and len(port) < 6 else None


def runners(leader_pid: int) -> dict[int, str]:
    """Return the runner processes below a server: pid and the path of the weights each was started with."""
    found: dict[int, str] = {}
    for pid in procs.descendants(leader_pid):
        words = procs.arguments(pid)
        if "--model" in words[:-1]:
            found[pid] = words[words.index("--model") + 1]
    return found
