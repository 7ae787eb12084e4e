"""What differs between the versions that are mimicked, as values recorded from ollama 0.24.0 and 0.32.15.

Line numbers in log lines belong to exactly these versions; another version of the same era is given the same ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

DEFAULT_VERSION = "0.32.15"


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """One way to behave. `has_llama_server` is the great divide: runners of their own (0.30 and later) or not."""

    version: str
    has_llama_server: bool
    ps_takes_locks: bool
    sources: dict[str, str]

    def source(self, name: str) -> str:
        """Return the place in ollama's source that a log line names."""
        return self.sources[name]


_OLD = {
    "config": "routes.go:1802",
    "cloud": "routes.go:1804",
    "remove": "images.go:473",
    "total": "images.go:517",
    "removed": "images.go:524",
    "listening": "routes.go:1864",
    "show-cache": "model_show_cache.go:152",
    "recommendations": "model_recommendations.go:168",
    "recommendations-sleep": "model_recommendations.go:177",
    "discovering": "runner.go:67",
    "overrode": "runner.go:536",
    "unset": "runner.go:540",
    "discovery-failure": "runner.go:462",
    "start-runner": "server.go:433",
    "compute": "types.go:60",
    "context": "routes.go:1914",
    "too-large": "server.go:169",
    "system-memory": "sched.go:484",
    "gpu-memory": "sched.go:491",
    "loading": "server.go:532",
    "waiting": "server.go:1385",
    "available": "server.go:1428",
    "started": "server.go:1432",
    "loaded": "sched.go:561",
    "gone": "server.go:1305",
    "refresh": "runner.go:338",
}
_NEW = {
    "config": "routes.go:1951",
    "cloud": "routes.go:1953",
    "remove": "images.go:866",
    "total": "images.go:919",
    "removed": "images.go:926",
    "listening": "routes.go:2008",
    "hydration": "model_list_cache.go:112",
    "show-cache": "model_show_cache.go:142",
    "recommendations": "model_recommendations.go:168",
    "recommendations-sleep": "model_recommendations.go:177",
    "discovering": "runner.go:60",
    "overrode": "runner.go:722",
    "unset": "runner.go:726",
    "watchdog": "runner.go:584",
    "discovery-failure": "runner.go:522",
    "discovery-timeout": "llama_server.go:130",
    "compute": "types.go:50",
    "context": "routes.go:2058",
    "mmap": "sched.go:1147",
    "using": "server.go:109",
    "too-large": "server.go:114",
    "start-runner": "llama_server.go:433",
    "create-failed": "sched.go:591",
    "system-memory": "sched.go:613",
    "gpu-memory": "sched.go:620",
    "single-gpu": "sched.go:1084",
    "loading": "llama_server.go:1048",
    "waiting": "llama_server.go:1295",
    "available": "llama_server.go:1350",
    "started": "llama_server.go:1362",
    "template": "images.go:381",
    "loaded": "sched.go:728",
    "terminated": "llama_server.go:1023",
    "load-failed": "sched.go:641",
    "gone": "llama_server.go:1196",
    "refresh": "runner.go:364",
    "client-closed": "llama_server.go:1279",
}


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("-")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def era_of(version: str) -> Era:
    """Return how a version behaves."""
    numbers = _numbers(version)
    new = numbers >= (0, 30)
    return Era(
        version=version,
        has_llama_server=new,
        ps_takes_locks=numbers >= (0, 32, 4),
        sources=_NEW if new else _OLD,
    )


def mimicked() -> Era:
    """Return the era that the environment asks for."""
    return era_of(os.environ.get("OLLAMUX_SIMULATION_VERSION") or DEFAULT_VERSION)
