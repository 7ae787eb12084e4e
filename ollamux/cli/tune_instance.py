"""What is known of the instance to tune on, before anything is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ollamux.cli.target import question
from ollamux.domain.errors import UsageError
from ollamux.supervisor.selecting import unknown_instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance as the supervisor sees it. `uuids` are its cards, none where it computes on the CPU."""

    name: str
    host: str
    port: int
    version: str | None
    uuids: tuple[str, ...]
    store: str
    env: dict[str, str]

    @property
    def has_cards(self) -> bool:
        """Whether it computes on a card."""
        return bool(self.uuids)


def look(name: str | None, *, simulated: bool) -> Instance:
    """Return the instance that is named, or the only one there is. Raises OllamuxError."""
    status: dict[str, Any] = question({"cmd": "status"}, simulated=simulated)[0]["status"]
    known = [one["name"] for one in status["instances"]]
    if name is None and len(known) != 1:
        raise UsageError("--on: no instance is named", hint=f"there are: {', '.join(known)}")
    if name not in (None, *known):
        raise unknown_instance(str(name), known)
    found = next(one for one in status["instances"] if name in (None, one["name"]))
    views = question({"cmd": "models"}, simulated=simulated)[0]["models"]["instances"]
    view = next(one for one in views if one["name"] == found["name"])
    return Instance(
        name=found["name"],
        host=found["host"],
        port=found["port"],
        version=found["ollama_version"],
        uuids=_uuids(found, status),
        store=view["store"],
        env=question({"cmd": "env", "name": found["name"]}, simulated=simulated)[0]["env"],
    )


def _uuids(found: dict[str, Any], status: dict[str, Any]) -> tuple[str, ...]:
    """Return the cards that an instance uses; one that is not pinned has all there are."""
    if found["pinning"] == "cpu":
        return ()
    return tuple(found["gpus"]) or tuple(gpu["uuid"] for gpu in status["gpus"] if gpu["memory_total_bytes"])
