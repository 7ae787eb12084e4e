"""A whole run of `ollamux bench`: what was set up, what was measured, and its JSON, `ollamux.bench/1`. Pure.

Bytes are integers, seconds are numbers, times are UTC in RFC 3339; what is not known is `None`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ollamux.domain.bench import Row, Step, joules_of, rows
from ollamux.domain.schemas import BENCH_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCard:
    """A card that a measured instance uses. `instances` are all that are pinned to it, measured or not."""

    uuid: str
    index: int | None
    name: str
    memory_total_bytes: int | None
    power_limit_w: float | None
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchInstance:
    """A measured instance. `load_s` is None where the model was loaded already.

    `slots` is how many requests its runner answers at once; more wait for their turn. `error`: why it was left out.
    """

    name: str
    url: str
    ollama_version: str | None
    gpus: tuple[str, ...]
    digest: str | None = None
    context_length: int | None = None
    slots: int | None = None
    size_bytes: int | None = None
    size_vram_bytes: int | None = None
    load_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What each request asks for, and how often: `prompt_tokens` is what is aimed at, the requests tell what it was."""

    prompt_tokens: int
    tokens: int
    concurrency: tuple[int, ...]
    rounds: int
    timeout_s: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. `state` is "complete" or "partial", and `reason` says why it is not whole."""

    version: str
    time: str
    simulated: bool
    model: str
    asked: Asked
    host: str
    driver: str | None
    cuda: str | None
    cards: tuple[BenchCard, ...]
    instances: tuple[BenchInstance, ...]
    steps: tuple[Step, ...]
    state: str = "complete"
    reason: str | None = None
    notes: tuple[str, ...] = ()

    def rows(self) -> list[Row]:
        """Return the figures."""
        return rows(self.steps, tokens=self.asked.tokens)

    @property
    def failed(self) -> bool:
        """Whether an instance was left out, or a request failed."""
        errors = (request.error for step in self.steps if not step.cut for request in step.requests)
        return any(one.error for one in self.instances) or any(errors)


def queued(run: Run, row: Row) -> list[str]:
    """Return the instances of a row that got more requests at once than they have slots."""
    slots = {one.name: one.slots for one in run.instances}
    return [name for name in row.instances if (known := slots.get(name)) is not None and known < row.concurrency]


def as_json(run: Run, comparison: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the object."""
    plain = asdict(run)
    plain["steps"] = [{**asdict(step), "joules": joules_of(step)} for step in run.steps]
    summary = [{**asdict(row), "queued": queued(run, row)} for row in run.rows()]
    return {"schema": BENCH_SCHEMA, **plain, "summary": summary, "comparison": comparison}
