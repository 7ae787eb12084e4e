"""`ollamux bench`: measure how fast the instances answer, show it, keep it, and set it beside another run."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ollamux import __version__
from ollamux.cli import bench_saved, screen
from ollamux.cli.bench_run import Bench, cards_of
from ollamux.cli.bench_targets import Targets
from ollamux.cli.words import seconds
from ollamux.config import words as rules
from ollamux.config.rules import Wrong
from ollamux.domain.bench import doublings
from ollamux.domain.benchdiff import compare
from ollamux.domain.benchrun import Asked, Run, as_json
from ollamux.domain.errors import Exit, UsageError
from ollamux.domain.text import safe_text
from ollamux.ollama.stream import SEED
from ollamux.render.pen import Pen
from ollamux.system.clock import monotonic, rfc3339, wall

_MOST_AT_ONCE, _MOST_TOKENS, _MOST_ROUNDS = 256, 1 << 20, 100
_MOST_THREADS = 1024
_REDRAW_S = 0.15
_LAST = "last"
_ANEW = "\r\x1b[K"
_SURPRISED = "had the model loaded with options that do not show, and loaded it anew for the first request"
_RENEWED = "loaded the model anew meanwhile: its figures are of two loads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words of the command. No concurrency means as much as there are slots."""

    model: str | None
    instances: tuple[str, ...] | None
    concurrency: str | None
    prompt_tokens: int
    tokens: int
    rounds: int
    save: str | None
    compare: str | None
    timeout: str
    output: str
    simulated: bool


def bench(words: Words) -> int:
    """Measure; ends with 6 where a request failed or an instance was left out."""
    if words.output not in ("table", "json"):
        raise UsageError(f"-o: there is no form {words.output!r}", hint="there are: table, json")
    at_once = _concurrency(words.concurrency)
    timeout_s = seconds(words.timeout, "--timeout")
    _check(words)
    other = None if words.compare in (None, _LAST) else bench_saved.read(Path(words.compare or ""))
    targets = Targets(words.instances, words.model, simulated=words.simulated)
    if words.compare == _LAST:
        other = bench_saved.last(targets.model, simulated=targets.simulated)
    measured = _measured(words, targets, at_once, timeout_s)
    return _tell(words, measured, other)


def _concurrency(text: str | None) -> tuple[int, ...]:
    """Return the numbers of a list such as "1,2,4", each once, in order."""
    found = []
    for part in () if text is None else text.split(","):
        if not (part.isascii() and part.isdigit() and 1 <= int(part) <= _MOST_AT_ONCE):
            raise UsageError(
                f"--concurrency: {safe_text(part)!r} is no number from 1 to {_MOST_AT_ONCE}",
                hint="as in --concurrency 1,2,4",
            )
        found.append(int(part))
    return tuple(sorted(set(found)))


def _check(words: Words) -> None:
    for option, value, most in (
        ("--prompt-tokens", words.prompt_tokens, _MOST_TOKENS),
        ("--tokens", words.tokens, _MOST_TOKENS),
        ("--repeat", words.rounds, _MOST_ROUNDS),
    ):
        if not 1 <= value <= most:
            raise UsageError(f"{option}: {value} is not between 1 and {most}")
    try:
        rules.MODEL.check(words.model or "any")
    except Wrong as error:
        raise UsageError(f"{safe_text(words.model or '')!r} {error.message}", hint=error.hint) from None
    folder = os.path.dirname(words.save or "") or "."
    if words.save is not None and (os.path.isdir(words.save) or not os.access(folder, os.W_OK)):
        raise UsageError(f"--save: {safe_text(words.save)} cannot be written")


def _measured(words: Words, targets: Targets, at_once: tuple[int, ...], timeout_s: float) -> Run:
    """Load, measure and unload; what was measured until an interrupt is returned as a partial run."""
    line = _Line(live=screen.is_drawable(os.environ) and words.output == "table")
    began, run = wall(), secrets.token_hex(8)
    work: Bench | None = None
    asked = Asked(
        prompt_tokens=words.prompt_tokens,
        tokens=words.tokens,
        concurrency=at_once,
        rounds=words.rounds,
        timeout_s=timeout_s,
        seed=SEED,
    )
    notes: list[str] = []
    reason = None
    with _interruptible():
        try:
            targets.load(timeout_s=timeout_s, say=line.say)
            asked = replace(asked, concurrency=at_once or doublings(max(one.slots for one in targets.usable)))
            _must_fit(targets, asked)
            work = Bench(targets, asked, run, line.tell)
            work.warm_up()
            notes += [f"{name} {_SURPRISED}" for name in targets.renewed(work.names)]
            work.measure()
            notes += targets.evicted(work.names)
            notes += [f"{name} {_RENEWED}" for name in targets.renewed(work.names)]
        except KeyboardInterrupt:
            reason = "interrupted"
        finally:
            line.clear()
            if work is not None:
                work.close()
            for trouble in targets.unload():
                screen.say(f"{trouble}\n", fd=2)
    return _run(targets, asked, work, time=rfc3339(began), reason=reason, notes=(*_shared(targets), *notes))


def _must_fit(targets: Targets, asked: Asked) -> None:
    """Raise UsageError where it is too much at once, or for a context: a server would cut the prompt without a word."""
    if len(targets.usable) * max(asked.concurrency) > _MOST_THREADS:
        raise UsageError(f"--concurrency: more than {_MOST_THREADS} requests at once in all are not measured")
    for target in targets.usable:
        room = target.loaded.context_length if target.loaded is not None else None
        if room is not None and asked.prompt_tokens + asked.tokens > room:
            need = f"{asked.prompt_tokens} + {asked.tokens} tokens"
            raise UsageError(
                f"{target.name}: {need} do not fit its context of {room}", hint="--prompt-tokens and --tokens"
            )


def _shared(targets: Targets) -> list[str]:
    said = []
    names = {target.name for target in targets.all}
    for card in cards_of(targets):
        measured = [name for name in card.instances if name in names]
        others = [name for name in card.instances if name not in names]
        gpu = "a card" if card.index is None else f"GPU {card.index}"
        if len(measured) > 1:
            said.append(f"{gpu} is shared by {', '.join(measured)}: its energy is that of all of them, counted once")
        if others:
            said.append(f"{gpu} is also used by {', '.join(others)}, whose energy is counted with it")
    return said


def _run(
    targets: Targets, asked: Asked, work: Bench | None, *, time: str, reason: str | None, notes: tuple[str, ...]
) -> Run:
    left_out = {} if work is None else work.left_out
    described = [target.described() for target in targets.all]
    host = targets.status.host
    return Run(
        version=__version__,
        time=time,
        simulated=targets.simulated,
        state="complete" if reason is None else "partial",
        reason=reason,
        model=targets.model,
        asked=asked,
        host=host.name,
        driver=host.driver,
        cuda=host.cuda,
        cards=cards_of(targets),
        instances=tuple(replace(one, error=one.error or left_out.get(one.name)) for one in described),
        steps=() if work is None else tuple(work.steps),
        notes=notes,
    )


def _tell(words: Words, run: Run, other: dict[str, Any] | None) -> int:
    """Keep the run, show it, and return the exit code."""
    plain: dict[str, Any] = json.loads(json.dumps(as_json(run)))
    comparison = None if other is None else compare(other, plain)
    whole = run.state == "complete"
    saved = bench_saved.keep(plain, simulated=run.simulated) if whole and run.steps else None
    if words.save is not None:
        bench_saved.write(words.save, plain)
    if words.output == "json":
        screen.write(json.dumps({**plain, "comparison": comparison}, indent=2, ensure_ascii=False) + "\n")
    else:
        from ollamux.render.bench import draw_bench

        screen.write(draw_bench(_pen(), run, comparison, words.save or saved))
    if not whole:
        raise KeyboardInterrupt
    return int(Exit.DEGRADED if run.failed else Exit.OK)


def _pen() -> Pen:
    env = os.environ
    return Pen(width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal interrupt as Ctrl-C does: what was loaded is to be unloaded."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Line:
    """A line on a terminal that says what is being done, drawn over again and taken away at the end."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._shown = False
        self._frame = 0
        self._drawn_at = 0.0

    def say(self, text: str) -> None:
        """Show what is done now."""
        if self._live:
            pen = _pen()
            line = pen.line((*pen.text(pen.spinner(self._frame), "wait"), (" ", ""), *pen.text(text)))
            screen.write(_ANEW + line)
            self._frame += 1
            self._shown = True

    def tell(self, text: str, number: int, count: int) -> None:
        """Show it, and how far it is, a few times a second."""
        if self._live and monotonic() - self._drawn_at > _REDRAW_S:
            self._drawn_at = monotonic()
            self.say(f"{number} of {count}  {text}" if count else text)

    def clear(self) -> None:
        """Take it away."""
        if self._shown:
            screen.write(_ANEW)
            self._shown = False
