"""Put two runs of a bench side by side: what differs in their set-up, which figures moved more than by chance. Pure.

The runs are objects of `ollamux.bench/1`, of which the other one comes from a file. A figure is better or worse only
where its two values differ by more than both together moved from round to round, and by two per cent, since a machine
is never quite the same on another day. That takes three rounds on each side: fewer do not tell how much a figure moves
by itself. With more the middle is surer, so what they moved counts less, by three to the number of rounds. Where the
requests differed there is no verdict at all. Of several instances only the sums are compared: single requests of
unequal cards have no middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ollamux.domain.schemas import BENCH_SCHEMA

LEAST_ROUNDS = 3
LEAST_PERCENT = 2.0
FIGURES = {
    "first_token_s": False,
    "prompt_each": True,
    "each": True,
    "total": True,
    "joules_per_token": False,
}
"""The figures that are compared, and whether more of it is better."""
_OF_SEVERAL = ("total", "joules_per_token")
_ASKED = {"prompt_tokens": "tokens of a prompt", "tokens": "tokens of an answer"}
_OF_INSTANCE = {
    "ollama_version": "ollama",
    "digest": "digest of the model",
    "context_length": "context",
    "slots": "slots",
    "size_bytes": "size",
    "size_vram_bytes": "size on cards",
    "options": "options",
}
_OF_CARD = {"name": "name", "memory_total_bytes": "memory", "power_limit_w": "power limit"}
_OF_RUN = {"version": "ollamux", "model": "model", "host": "host", "driver": "driver", "cuda": "CUDA"}

Plain = Mapping[str, Any]


def is_run(plain: object) -> bool:
    """Whether this is an object of the schema, as far as comparing needs it."""
    if not isinstance(plain, dict) or plain.get("schema") != BENCH_SCHEMA:
        return False
    kinds = {"model": str, "time": str, "asked": dict, "summary": list, "instances": list, "cards": list}
    if not all(isinstance(plain.get(key), kind) for key, kind in kinds.items()):
        return False
    parts = [part for key in ("summary", "instances", "cards") for part in plain[key]]
    return all(isinstance(part, dict) for part in parts)


def compare(before: Plain, now: Plain) -> dict[str, Any]:
    """Return the differences of the set-up, and one row for each figure that both have."""
    setup = [*_setup(before, now)]
    same_question = not any(difference["what"] in _ASKED for difference in setup)
    earlier = {_key(row): row for row in before["summary"]}
    found = [
        {"instances": row.get("instances"), "concurrency": row.get("concurrency"), "figure": name, **verdict}
        for row in now["summary"]
        for name, more_is_better in FIGURES.items()
        if _key(row) in earlier
        and (name in _OF_SEVERAL or len(_key(row)) == 2)
        and (verdict := _judged(earlier[_key(row)].get(name), row.get(name), more_is_better, same_question))
    ]
    return {"time": before["time"], "state": before.get("state"), "setup": setup, "figures": found}


def _key(row: Plain) -> tuple[str, ...]:
    instances = row.get("instances")
    return (str(row.get("concurrency")), *map(str, instances if isinstance(instances, list | tuple) else ()))


def _judged(before: Any, now: Any, more_is_better: bool, same_question: bool) -> dict[str, Any] | None:
    one, other = _figure(before), _figure(now)
    if one is None or other is None or not one["value"]:
        return None
    change = other["value"] - one["value"]
    rounds = min(one["rounds"], other["rounds"])
    spread = one["most"] - one["least"] + other["most"] - other["least"]
    by_chance = spread * LEAST_ROUNDS / max(rounds, LEAST_ROUNDS)
    percent = change / one["value"] * 100
    verdict = "better" if (change > 0) is more_is_better else "worse"
    if not same_question:
        verdict = "other question"
    elif rounds < LEAST_ROUNDS:
        verdict = "too few rounds"
    elif abs(change) <= by_chance or abs(percent) < LEAST_PERCENT:
        verdict = "within the spread"
    return {"before": one["value"], "now": other["value"], "percent": round(percent, 2), "verdict": verdict}


def _figure(value: Any) -> dict[str, float] | None:
    if not isinstance(value, dict):
        return None
    found = {name: value.get(name) for name in ("value", "least", "most", "rounds")}
    known = {name: float(part) for name, part in found.items() if isinstance(part, int | float)}
    return known if len(known) == len(found) else None


def _setup(before: Plain, now: Plain) -> Iterator[dict[str, Any]]:
    yield from _parts("", _OF_RUN, before, now)
    yield from _parts("", _ASKED, before["asked"], now["asked"])
    for key, names, of in (("instances", _OF_INSTANCE, "name"), ("cards", _OF_CARD, "uuid")):
        earlier = {str(part.get(of)): part for part in before[key]}
        later = {str(part.get(of)): part for part in now[key]}
        for name in (*earlier, *(name for name in later if name not in earlier)):
            if name not in earlier or name not in later:
                there = [side.get(name, {}).get("name") for side in (earlier, later)]
                yield {"where": name, "what": key, "before": there[0], "now": there[1]}
            else:
                yield from _parts(name, names, earlier[name], later[name])


def _parts(where: str, names: Plain, before: Plain, now: Plain) -> Iterator[dict[str, Any]]:
    for name in names:
        if before.get(name) != now.get(name):
            yield {"where": where, "what": name, "before": before.get(name), "now": now.get(name)}


def in_words(what: str) -> str:
    """Return what a difference of the set-up is called."""
    known = {**_OF_RUN, **_ASKED, **_OF_INSTANCE, "instances": "instance", "cards": "card"}
    return known.get(what, what.replace("_", " "))
