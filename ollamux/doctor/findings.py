"""What a finding is, the names that findings have, their order and their JSON. Finds nothing itself; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ollamux.domain.schemas import DOCTOR_SCHEMA


class Severity(Enum):
    """How bad it is. BROKEN: an instance cannot do its work; WARNING: it is slower, at risk or open; HINT: advice."""

    BROKEN = "broken"
    WARNING = "warning"
    HINT = "hint"


IDS = (
    # The driver comes first: with it broken all that follows is a consequence.
    *("driver-mismatch", "driver-silent", "driver-not-loaded", "driver-missing", "driver-denied", "driver-odd"),
    *("gpus-unread", "driver-too-old"),
    *("ollama-missing", "runner-missing", "cuda-libraries-missing", "ollama-unsupported", "server-outdated"),
    *("ollama-several", "ollama-replaceable"),
    *("config-invalid", "config-missing", "config-idle", "supervisor-silent"),
    *("card-missing", "card-lost", "card-unknown", "card-memory-defective", "card-unsupported", "card-shared"),
    *("card-compute-mode", "card-memory-reset", "card-memory-errors", "card-thermal", "card-power"),
    *("card-slowdown", "card-strangers", "link-narrow", "link-slow", "persistence-off"),
    *("ollama-service", "port-taken", "address-missing"),
    *("instance-failed", "instance-degraded"),
    *("store-unreadable", "store-missing", "store-full", "store-prune", "store-read-only", "store-open"),
    *("api-key-set", "kv-cache-attention", "flash-attention", "bf16-model", "fp16-model"),
    *("headroom-small", "preload-crowded", "memory-plan", "cgroup-memory", "oom-kills"),
    *("exposed-host", "exposed-origins", "exposed-service"),
    *("suspend-happened", "suspend-idle", "suspend-possible"),
)
"""The name of every finding there is, in the order in which equals are shown. A name never changes its meaning."""

_RANK = {name: place for place, name in enumerate(IDS)}
_SEVERITIES = tuple(Severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. `title` says what, `evidence` how it is known and what it means.

    `fix` is a command to paste wherever one mends it or shows the way, else a step in words, and `is_command` False.
    There is always one: a finding without a way out only worries people.
    """

    id: str
    severity: Severity
    title: str
    evidence: str
    fix: str
    is_command: bool = True

    def __post_init__(self) -> None:
        """Refuse a name that is not on the list, which the documentation is held to."""
        if self.id not in _RANK:
            raise ValueError(f"{self.id} is not in IDS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Something that could not be looked at, and why: silence about it is no praise."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was found at one moment."""

    version: str
    time: str
    simulated: bool
    findings: tuple[Finding, ...]
    unknown: tuple[Unknown, ...] = ()

    @property
    def is_broken(self) -> bool:
        """Whether anything is broken."""
        return any(found.severity is Severity.BROKEN for found in self.findings)

    def count(self, severity: Severity) -> int:
        """Return how many findings are so bad."""
        return sum(found.severity is severity for found in self.findings)


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings, the worst first, causes before their consequences, each once."""
    return tuple(
        sorted(dict.fromkeys(findings), key=lambda found: (_SEVERITIES.index(found.severity), _RANK[found.id]))
    )


def as_json(report: Report) -> dict[str, Any]:
    """Return the object of `doctor -o json`. Within one schema number keys are only ever added."""
    return {
        "schema": DOCTOR_SCHEMA,
        "version": report.version,
        "time": report.time,
        "simulated": report.simulated,
        "findings": [
            {
                "id": found.id,
                "severity": found.severity.value,
                "title": found.title,
                "evidence": found.evidence,
                "fix": found.fix,
                "is_command": found.is_command,
            }
            for found in report.findings
        ],
        "unknown": [{"what": one.what, "why": one.why} for one in report.unknown],
    }
