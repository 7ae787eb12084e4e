"""The search of `tune`, and what each step of it measured. Pure: which value to try next, from what became of others.

What is searched for is the largest value that works. Values are numbered from 0; one that works lets all smaller ones
work, or so it is taken: where that is not true the search still ends, and what it found did work when it was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

from ollamux.domain.schemas import TUNE_SCHEMA

_WIDER_BITS = 2
"""Each step away from a wrong guess is four times as long as the one before."""
_MOST_GUESSES = 5
"""A guess that is wrong again and again is trusted no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """`count` values, the one that is expected to be the largest that works, and what became of those tried.

    `guessed_at` is how many were tried when the guess was made, `guesses` how often it was made.
    """

    count: int
    guess: int
    tried: tuple[tuple[int, bool], ...] = ()
    guessed_at: int = 0
    guesses: int = 1

    def told(self, index: int, works: bool, *, guess: int | None = None) -> Search:
        """Return the search with one more outcome, and with what is expected now that more was measured."""
        told = replace(self, tried=(*self.tried, (index, works)))
        low, high = told.bounds
        if guess is None or self.guesses >= _MOST_GUESSES or not max(low, 0) <= guess < high:
            return told  # no better than what is known already
        return replace(told, guess=guess, guessed_at=len(told.tried), guesses=self.guesses + 1)

    @property
    def best(self) -> int | None:
        """Return the largest that worked."""
        return max((index for index, works in self.tried if works), default=None)

    @property
    def bounds(self) -> tuple[int, int]:
        """Return the largest that worked and the smallest above it that did not; where there is none, one beyond."""
        low = -1 if self.best is None else self.best
        return low, min((index for index, works in self.tried if not works and index > low), default=self.count)

    @property
    def next(self) -> int | None:
        """Return which value to try, None where nothing is left to be found.

        A new guess comes first. Without one ever further from the last, until one that works and one that does not
        are known; then the middle between these. So a good guess takes two loads, and where all of them are bad it
        takes about one and a half times as many as halving the whole range would.
        """
        low, high = self.bounds
        if low + 1 >= high:
            return None
        since = len(self.tried) - self.guessed_at
        if not since:
            return min(max(self.guess, low + 1), high - 1)
        if high == self.count:
            return min(low + _further(since), self.count - 1)
        if low == -1:
            return max(high - _further(since), 0)
        return (low + high) // 2


def _further(since: int) -> int:
    return 1 << _WIDER_BITS * (since - 1)


def grid(least: int, most: int, step: int) -> tuple[int, ...]:
    """Return the values to choose from: every `step` from the least one on, and the largest there is."""
    values = tuple(range(least, most + 1, step))
    return values if values and values[-1] == most else (*values, most)


def largest(values: Sequence[int], fits: Callable[[int], bool]) -> int:
    """Return the number of the largest value that fits, 0 where none does; what fits, fits smaller too."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(values[middle]) else (low, middle - 1)
    return low


class What(Enum):
    """What is made as large as it can be."""

    LAYERS = "layers"
    CONTEXT = "ctx"
    PARALLEL = "parallel"


class Outcome(Enum):
    """What became of one value."""

    WORKS = "works"
    NO_MEMORY = "out-of-memory"
    SPILLED = "spilled"
    TOO_FULL = "headroom"
    FAILED = "failed"
    TOO_SLOW = "timed-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request with a full context; times in seconds."""

    prompt_tokens: int
    prompt_s: float | None
    tokens: int
    generation_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One load and what it showed. What was not measured is None; memory is that of the cards, after generating."""

    value: int
    outcome: Outcome
    reason: str | None = None
    verifies: bool = False
    layers_offloaded: int | None = None
    layers_total: int | None = None
    card_buffers_bytes: int | None = None
    host_buffers_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    load_s: float | None = None
    seconds: float = 0.0
    requests: tuple[Asked, ...] = ()

    @property
    def works(self) -> bool:
        """Whether it does all that is asked of it."""
        return self.outcome is Outcome.WORKS

    @property
    def prompt_rate(self) -> float | None:
        """Return how many tokens of prompts were read a second, all requests together."""
        return _rate([(one.prompt_tokens, one.prompt_s) for one in self.requests])

    @property
    def rate(self) -> float | None:
        """Return how many tokens were generated a second, all requests together."""
        return _rate([(one.tokens, one.generation_s) for one in self.requests])


def _rate(measured: Sequence[tuple[int, float | None]]) -> float | None:
    """Requests run side by side, so their speeds add up."""
    rates = [count / seconds for count, seconds in measured if seconds]
    return round(sum(rates), 2) if rates and len(rates) == len(measured) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card that is tuned for. `used_bytes` is what others hold on it."""

    uuid: str
    name: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is tuned, and within which bounds. `context` and `parallel` are those that are kept, or where it began.

    `layers` is how many are wanted on the cards where these are not what is searched for, None for all.
    """

    model: str
    digest: str
    instance: str
    ollama_version: str | None
    what: What
    values: tuple[int, ...]
    guess: int
    is_bound: bool
    trained_context: int | None
    context: int
    parallel: int
    cache_type: str
    layers: int | None = None
    cards: tuple[Card, ...]
    headroom_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a tune has found so far, or in the end. `why` says why it is not complete."""

    version: str
    time: str
    simulated: bool
    task: Task
    steps: tuple[Step, ...]
    complete: bool
    why: str | None = None
    modelfile: str | None = None
    created: str | None = None
    restored: tuple[str, ...] = ()
    not_restored: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def loads(self) -> int:
        """Return how many loads the search took."""
        return sum(not step.verifies for step in self.steps)

    @property
    def best(self) -> Step | None:
        """Return the step with the largest value that worked."""
        working = [step for step in self.steps if step.works and not step.verifies]
        return max(working, key=lambda step: step.value, default=None)

    @property
    def obstacle(self) -> Step | None:
        """Return the step with the smallest value above it that did not."""
        low = -1 if self.best is None else self.best.value
        return min((s for s in self.steps if not s.works and s.value > low), key=lambda step: step.value, default=None)


def as_json(tuned: Tuned) -> dict[str, Any]:
    """Return it as values that JSON can hold, every single measurement included."""
    task, best = tuned.task, tuned.best
    return {
        "schema": TUNE_SCHEMA,
        "version": tuned.version,
        "time": tuned.time,
        "simulated": tuned.simulated,
        "model": task.model,
        "digest": task.digest or None,
        "instance": task.instance,
        "ollama_version": task.ollama_version,
        "maximise": task.what.value,
        "least": task.values[0],
        "most": task.values[-1],
        "estimate": {"value": task.values[task.guess], "source": "bound" if task.is_bound else "metadata"},
        "trained_context_length": task.trained_context,
        "context_length": _kept(task, best, What.CONTEXT, task.context),
        "parallel": _kept(task, best, What.PARALLEL, task.parallel),
        "kv_type": task.cache_type,
        "headroom_bytes": task.headroom_bytes,
        "cards": [{each.name: getattr(card, each.name) for each in fields(card)} for card in task.cards],
        "loads": tuned.loads,
        "steps": [_step(step) for step in tuned.steps],
        "result": None if best is None or not tuned.complete else best.value,
        "largest_so_far": None if best is None else best.value,
        "obstacle": None if tuned.obstacle is None else tuned.obstacle.outcome.value,
        "complete": tuned.complete,
        "reason": tuned.why,
        "modelfile": tuned.modelfile,
        "created": tuned.created,
        "restored": list(tuned.restored),
        "not_restored": list(tuned.not_restored),
        "seconds": round(tuned.seconds, 1),
    }


def _kept(task: Task, best: Step | None, what: What, value: int) -> int | None:
    """Return what holds for all steps, or what was found where this is what is searched for."""
    if task.what is not what:
        return value
    return None if best is None else best.value


def _step(step: Step) -> dict[str, Any]:
    plain: Mapping[str, Any] = {each.name: getattr(step, each.name) for each in fields(step)}
    requests = [{each.name: getattr(one, each.name) for each in fields(one)} for one in step.requests]
    return {
        **plain,
        "outcome": step.outcome.value,
        "seconds": round(step.seconds, 3),
        "prompt_tokens_per_s": step.prompt_rate,
        "tokens_per_s": step.rate,
        "requests": requests,
    }
