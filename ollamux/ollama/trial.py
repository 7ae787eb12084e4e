"""One trial of a tune: what to ask a server, what its log and its answers show, and whether that will do. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ollamux.domain.text import format_gib, safe_text
from ollamux.domain.tune import Asked, Outcome
from ollamux.ollama import events as ev
from ollamux.ollama.loading import error_of
from ollamux.ollama.log import LogReader, cite

GENERATED = 24
"""ollama breaks off without an end where a model says one token more than 30 times, as it may after such a prompt."""
_SPARE = 16
"""So many tokens of a context are left alone, since a prompt cannot be made to the token."""
_WORD = "water "
_SHORT = 24
_LONG = 72
_ENOUGH = 0.9
_HANDFUL = 3
_SIGNS = re.compile(rb"^.*(?:std::bad_alloc|Thread creation failed|Cannot allocate memory).*$", re.MULTILINE)
"""How a runner dies that gets no memory beside its buffers; no line of a log that means anything else says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the log of a server says of the one model it has loaded. What it does not say is None."""

    attempts: int = 0
    load_s: float | None = None
    offloaded: int | None = None
    total: int | None = None
    card_bytes: int | None = None
    host_bytes: int | None = None
    cache_in_host: bool = False
    out_of_memory: str | None = None
    failed: str | None = None
    fatal: str | None = None


def account_of(log: bytes) -> Account:
    """Read the log of a trial. What an attempt said that the server itself gave up is forgotten."""
    reader = LogReader()
    found = [*reader.feed(log), *reader.close()]
    starts = [number for number, event in enumerate(found) if isinstance(event, ev.RunnerStarting)]
    last = found[starts[-1] :] if starts else found
    layers = next((event for event in reversed(last) if isinstance(event, ev.LayersOffloaded)), None)
    started = next((event for event in last if isinstance(event, ev.RunnerStarted)), None)
    buffers = [event for event in last if isinstance(event, ev.BufferSize)]
    return Account(
        attempts=len(starts),
        load_s=None if started is None else started.seconds,
        offloaded=None if layers is None else layers.offloaded,
        total=None if layers is None else layers.total,
        card_bytes=_sum([buffer for buffer in buffers if buffer.on_gpu]) if buffers and started else None,
        host_bytes=_sum([buffer for buffer in buffers if not buffer.on_gpu]) if buffers and started else None,
        cache_in_host=any(buffer.kind == "KV" and not buffer.on_gpu and buffer.size_bytes for buffer in buffers),
        out_of_memory=next((event.line for event in found if isinstance(event, ev.OutOfMemory)), _sign(log)),
        failed=next((event.reason for event in found if isinstance(event, ev.LoadFailed)), None),
        fatal=next((event.reason for event in found if isinstance(event, ev.Fatal)), None),
    )


def _sign(log: bytes) -> str | None:
    sign = _SIGNS.search(log)
    return None if sign is None else cite(sign[0].decode("utf-8", "replace"))


def _sum(buffers: Sequence[ev.BufferSize]) -> int:
    """A model with sliding windows has two caches, each with a line; the other lines may come again for the same."""
    caches = sum(buffer.size_bytes for buffer in buffers if buffer.kind == "KV")
    last = {(b.component, b.device, b.kind): b.size_bytes for b in buffers if b.kind != "KV"}
    return caches + sum(last.values())


# What is asked


def load_body(model: str, options: Mapping[str, int]) -> bytes:
    """Return what loads the model and keeps it."""
    return json.dumps({"model": model, "options": dict(options), "keep_alive": -1, "stream": False}).encode()


def prompt_body(model: str, options: Mapping[str, int], prompt: str) -> bytes:
    """Return what generates a few tokens after a prompt, which is neither put into a template nor cut."""
    said = {**options, "num_predict": GENERATED, "temperature": 0, "seed": 1}
    body = {"model": model, "prompt": prompt, "raw": True, "truncate": False, "stream": False, "keep_alive": -1}
    return json.dumps({**body, "options": said}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How many tokens a prompt of so many words has, as two short prompts have shown."""

    base: float
    each: float

    def words(self, context: int, *, less: float = 1.0) -> int:
        """Return how many words fill a context but for what is generated, and a few tokens."""
        room = (context - GENERATED - _SPARE) * less
        return max(1, int((room - self.base) / self.each))


def probes(number: int) -> tuple[str, str]:
    """Return two prompts from whose lengths in tokens that of any other follows."""
    return prompt_of(_SHORT, number), prompt_of(_LONG, number + 1)


def prompt_of(words: int, number: int) -> str:
    """Return a prompt of so many words. It begins like no other: what a server has read before it reads no more."""
    return f"{number % 1_000_000_000:09d} {_WORD * words}"


def filling(short: int, long: int) -> Filling | None:
    """Return how to fill a context, None where the lengths make no sense."""
    each = (long - short) / (_LONG - _SHORT)
    return Filling(base=short - each * _SHORT, each=each) if each > 0 else None


def asked_of(body: bytes) -> Asked | None:
    """Return what an answer tells of itself, None where it has no end: its runner died, or ollama broke it off."""
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict) or plain.get("done") is not True:
        return None
    prompt, tokens = _count(plain, "prompt_eval_count"), _count(plain, "eval_count")
    return Asked(
        prompt_tokens=prompt or 0,
        prompt_s=_seconds(plain, "prompt_eval_duration"),
        tokens=tokens or 0,
        generation_s=_seconds(plain, "eval_duration"),
    )


def _count(plain: dict[str, Any], name: str) -> int | None:
    value = plain.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None


def _seconds(plain: dict[str, Any], name: str) -> float | None:
    value = _count(plain, name)
    return value / 1e9 if value else None


# What it shows

Verdict = tuple[Outcome, str | None]


def judge_failure(account: Account, status: int | None, body: bytes) -> Verdict:
    """Say what it means that a request failed."""
    said = account.failed or (account.fatal if status is None else None) or error_of(status, body)
    if account.out_of_memory is not None or _tells_memory(said):
        return Outcome.NO_MEMORY, account.out_of_memory or said
    return Outcome.FAILED, said


def judge_end(account: Account) -> Verdict:
    """Say what it means that an answer has no end."""
    if account.out_of_memory is not None:
        return Outcome.NO_MEMORY, account.out_of_memory
    return Outcome.FAILED, "an answer broke off before its end"


def _tells_memory(text: str) -> bool:
    lowered = text.lower()
    return any(sign in lowered for sign in ("memory", "allocate", "cannot be allocated", "signal: killed"))


def judge_load(account: Account, *, cards: bool, layers: int | None) -> Verdict:
    """Say whether all that is wanted went to the cards; `layers` None means every layer."""
    if account.attempts > 1:
        return Outcome.NO_MEMORY, "the server loaded it only at the second attempt, with less than was asked for"
    if not cards:
        return Outcome.WORKS, None
    if account.offloaded is None or account.total is None:
        wanted = layers is None or layers > 0
        return (Outcome.SPILLED, "no layer is on a card") if wanted else (Outcome.WORKS, None)
    wanted_layers = account.total if layers is None else min(layers, account.total)
    if account.offloaded < wanted_layers:
        return Outcome.SPILLED, f"only {account.offloaded} of {account.total} layers are on the card"
    if account.cache_in_host and account.offloaded == account.total:
        return Outcome.SPILLED, "part of the cache is in host memory"
    return Outcome.WORKS, None


def judge_answers(asked: Sequence[Asked], context: int) -> Verdict:
    """Say whether the whole context was really used, and something generated after it."""
    least = min(one.prompt_tokens for one in asked)
    if least < (context - GENERATED - _SPARE) * _ENOUGH - _HANDFUL:
        return Outcome.FAILED, f"its context was not filled: the prompt had {least} of {context} tokens"
    if min(one.tokens for one in asked) == 0:
        return Outcome.FAILED, "it generated nothing after a full context"
    return Outcome.WORKS, None


def judge_memory(free: int | None, headroom: int | None) -> Verdict:
    """Say whether what is to be kept free of each card is free."""
    if free is None or headroom is None or free >= headroom:
        return Outcome.WORKS, None
    return Outcome.TOO_FULL, f"{format_gib(free)} GiB are left free, and {format_gib(headroom)} GiB are to be"


def is_too_long(status: int | None, body: bytes) -> bool:
    """Whether a prompt was refused because it does not fit into the context."""
    said = error_of(status, body).lower()
    return status is not None and status != 200 and ("exceed" in said and "context" in said)


# What comes of it


def create_body(name: str, model: str, parameters: Mapping[str, int]) -> bytes:
    """Return what creates a model from another, with its weights, and these parameters beside its own."""
    return json.dumps({"model": name, "from": model, "parameters": dict(parameters), "stream": False}).encode()


def modelfile(model: str, parameters: Mapping[str, int], comments: Sequence[str]) -> str:
    """Return the text of a Modelfile."""
    lines = [f"# {safe_text(comment)}" for comment in comments]
    lines.append(f"FROM {model}")
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"
