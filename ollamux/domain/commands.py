"""What the core asks the shell to do. The shell acts and reports back with events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """Start a new incarnation. Answered by Spawned, SpawnFailed or SpawnBlocked."""

    gen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TermLeader:
    """Send SIGTERM, then SIGCONT, to the leader alone: it unloads its runners itself."""

    gen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TermGroup:
    """Send SIGTERM, then SIGCONT, to what the leader left behind."""

    gen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KillGroup:
    """Send SIGKILL to everything of this incarnation."""

    gen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reap:
    """Collect the leader. Only now may its pid, and its group's, be used by somebody else."""

    gen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRunner:
    """Send SIGKILL to one hung runner; the server then answers everybody who waits."""

    gen: int
    pid: int


Command = Spawn | TermLeader | TermGroup | KillGroup | Reap | EndRunner
