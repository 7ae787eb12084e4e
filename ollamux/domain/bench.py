"""What a bench has measured, and the figures that follow from it: speeds, percentiles, scaling, energy. Pure.

A figure is taken over all rounds together; how far it moved from round to round stands beside it, since a difference
smaller than that says nothing. Seconds of a request count from the start of its step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

MEDIAN = 50
TAIL = 95


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. Counts and durations as the server told them; `sent_s` to `ended_s` by our own clock.

    `first_token_s` is when the first text came. `error` says why it failed; what came before that is not counted.
    """

    instance: str
    number: int
    sent_s: float
    first_token_s: float | None
    ended_s: float
    prompt_tokens: int | None = None
    prompt_s: float | None = None
    tokens: int | None = None
    generation_s: float | None = None
    load_s: float | None = None
    done_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardEnergy:
    """What one card used during a step; `joules` is None where it cannot be told."""

    uuid: str
    joules: float | None
    seconds: float | None
    source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Some instances at the same time, each with so many requests at once. `cut`: it was interrupted."""

    round: int
    instances: tuple[str, ...]
    concurrency: int
    requests: tuple[Request, ...]
    cards: tuple[CardEnergy, ...] = ()
    cut: bool = False

    @property
    def well(self) -> tuple[Request, ...]:
        """Return the requests that were answered."""
        return tuple(request for request in self.requests if request.error is None)

    @property
    def tokens(self) -> int:
        """Return how many tokens were generated."""
        return sum(request.tokens or 0 for request in self.well)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure over all rounds, the least and the most of any round, and how many rounds there were."""

    value: float
    least: float
    most: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of some instances together at one concurrency. Speeds are in tokens per second.

    `prompt_each` and `each` are those of single requests, as the server measured them; `prompt_all` and `total` are of
    all requests together, by our clock: up to the last first token, and to the last answer of each instance.
    `scaling` is `total` beside the sum of what the same instances did each alone in the same round.
    """

    instances: tuple[str, ...]
    concurrency: int
    requests: int
    failed: int
    first_error: str | None
    stopped_early: int
    first_token_s: Figure | None
    first_token_tail_s: Figure | None
    prompt_each: Figure | None
    prompt_all: Figure | None
    each: Figure | None
    total: Figure | None
    joules_per_token: Figure | None
    scaling: Figure | None


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the least value that so many per cent of all do not exceed (nearest rank); the median is the usual one."""
    ordered = sorted(values)
    if percent == MEDIAN:
        return float(median(ordered))
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(1, int(rank)) - 1]


def doublings(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4, … up to the most, which is always among them."""
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return (*counts, most) if most > counts[-1] else tuple(counts)


def together(instances: Sequence[str]) -> list[tuple[str, ...]]:
    """Return which instances run at the same time: each alone, then the first two, three, four, then twice as many."""
    count = len(instances)
    counts = [number for number in sorted({2, 3, 4, *doublings(count)}) if 1 < number <= count]
    return [*((name,) for name in instances), *(tuple(instances[:number]) for number in counts)]


def rows(steps: Sequence[Step], *, tokens: int) -> list[Row]:
    """Put the rounds of each set of instances and concurrency together, in the order they were first measured."""
    whole = [step for step in steps if not step.cut]
    keys = dict.fromkeys((step.instances, step.concurrency) for step in whole)
    return [_row(key, whole, tokens) for key in sorted(keys, key=lambda key: (len(key[0]) > 1, len(key[0])))]


def _row(key: tuple[tuple[str, ...], int], steps: Sequence[Step], wanted: int) -> Row:
    instances, concurrency = key
    mine = [step for step in steps if (step.instances, step.concurrency) == key]
    requests = [request for step in mine for request in step.requests]
    well = [request for request in requests if request.error is None]
    errors = [request.error for request in requests if request.error is not None]
    first = [[_first(one) for one in step.well] for step in mine]
    scaling = [[ratio] for step in mine if (ratio := _scaling(step, steps)) is not None]
    return Row(
        instances=instances,
        concurrency=concurrency,
        requests=len(requests),
        failed=len(errors),
        first_error=_most_common(errors),
        stopped_early=sum(1 for one in well if (one.tokens or 0) < wanted),
        first_token_s=_figure(first, MEDIAN),
        first_token_tail_s=_figure(first, TAIL),
        prompt_each=_figure([[_speed(one.prompt_tokens, one.prompt_s) for one in step.well] for step in mine], MEDIAN),
        prompt_all=_figure([[_prompt_all(step)] for step in mine], MEDIAN),
        each=_figure([[_speed(one.tokens, one.generation_s) for one in step.well] for step in mine], MEDIAN),
        total=_figure([[total_of(step)] for step in mine], MEDIAN),
        joules_per_token=_figure([[_per_token(step)] for step in mine], MEDIAN),
        scaling=_figure(scaling, MEDIAN),
    )


def _most_common(errors: Iterable[str]) -> str | None:
    counted = Counter(errors).most_common(1)
    return counted[0][0] if counted else None


def _figure(rounds: Iterable[Iterable[float | None]], percent: float) -> Figure | None:
    known = [kept for values in rounds if (kept := [value for value in values if value is not None])]
    if not known:
        return None
    each = [percentile(values, percent) for values in known]
    whole = percentile([value for values in known for value in values], percent)
    return Figure(value=whole, least=min(*each, whole), most=max(*each, whole), rounds=len(known))


def _first(request: Request) -> float | None:
    return None if request.first_token_s is None else request.first_token_s - request.sent_s


def _speed(tokens: int | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens and seconds else None


def total_of(step: Step) -> float | None:
    """Return the tokens a second of a step: of each instance from its first request to its last answer, added up.

    Cards that are faster than others are done sooner; by the time of the slowest they would look slow themselves.
    """
    return _sum_of_speeds(step, lambda request: request.tokens, lambda request: request.ended_s)


def _prompt_all(step: Step) -> float | None:
    return _sum_of_speeds(step, lambda request: request.prompt_tokens, lambda request: request.first_token_s)


def _sum_of_speeds(
    step: Step, count: Callable[[Request], int | None], end: Callable[[Request], float | None]
) -> float | None:
    speeds = []
    for name in step.instances:
        mine = [request for request in step.well if request.instance == name]
        ends = [at for request in mine if (at := end(request)) is not None]
        if ends:
            seconds = max(ends) - min(request.sent_s for request in mine)
            speeds.append(_speed(sum(count(request) or 0 for request in mine), seconds))
    known = [speed for speed in speeds if speed is not None]
    return sum(known) if known else None


def _per_token(step: Step) -> float | None:
    joules = joules_of(step)
    return None if joules is None or not step.tokens else joules / step.tokens


def joules_of(step: Step) -> float | None:
    """Return what all cards of a step used together; None where there are none, or one of them does not tell."""
    known = [card.joules for card in step.cards if card.joules is not None]
    return sum(known) if known and len(known) == len(step.cards) else None


def _scaling(step: Step, steps: Sequence[Step]) -> float | None:
    """Return the speed beside the sum of each alone, in the same round: one that failed in either says nothing."""
    if len(step.instances) < 2:
        return None
    alone = [
        other
        for other in steps
        if other.round == step.round and other.concurrency == step.concurrency and len(other.instances) == 1
    ]
    single = {other.instances[0]: total_of(other) for other in alone if len(other.well) == len(other.requests)}
    speeds = [speed for name in step.instances if (speed := single.get(name)) is not None]
    total = total_of(step)
    if total is None or len(speeds) < len(step.instances) or len(step.well) < len(step.requests):
        return None
    return total / sum(speeds)
