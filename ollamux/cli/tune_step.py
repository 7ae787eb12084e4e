"""One step of a tune: start a server, load the model with one value, fill its context, and see what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ollamux.cli.tune_lease import LOOK_S, Lease
from ollamux.cli.tune_task import read_cards
from ollamux.cli.tune_trial import Ask, Place, Trial
from ollamux.domain.errors import NotFoundError, RefusedError
from ollamux.domain.text import format_duration, safe_text
from ollamux.domain.tune import Outcome, Step, Task, What
from ollamux.ollama import trial as rules
from ollamux.ollama.loading import GENERATE, is_missing
from ollamux.supervisor.http import Answer
from ollamux.system.clock import monotonic

BACK_WITHIN_S = 10.0
_SLACK_BYTES = 64 * 1024**2
_SHORTER = (1.0, 0.97, 0.9)
"""What of a context is filled, and what where that was refused as too long."""
Tick = Callable[[str], None]


class Verdict(Exception):  # noqa: N818 - it ends a step, which is no error
    """What became of the value that is tried."""

    def __init__(self, outcome: Outcome, reason: str | None) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What every step needs."""

    task: Task
    place: Place
    lease: Lease
    timeout_s: float
    tick: Tick


def measure(kit: Kit, value: int, *, created: str | None = None) -> Step:
    """Try one value; `created` is a model that has it written in itself. Raises OllamuxError where nobody can say."""
    kit.lease.must_hold()
    run = _Run(kit, value, created)
    try:
        step = run.go()
    finally:
        run.end()
    _wait_for_memory(kit)
    kit.lease.must_hold()
    return step


class _Run:
    """The one trial of a step, and what is measured of it on the way."""

    def __init__(self, kit: Kit, value: int, created: str | None) -> None:
        task = kit.task
        self._kit, self._value, self._verifies = kit, value, created is not None
        self._model = created or task.model
        self._context = value if task.what is What.CONTEXT else task.context
        self._parallel = value if task.what is What.PARALLEL else task.parallel
        self._layers = value if task.what is What.LAYERS else task.layers
        self._options = {} if self._verifies else options_of(task, value)
        self._began = monotonic()
        self._until = self._began + kit.timeout_s
        self._measured: dict[str, Any] = {}
        self._doing = "starting a server"
        self._trial = Trial(kit.place, kit.lease, parallel=self._parallel, tick=self._tick)

    def _tick(self) -> None:
        self._kit.tick(f"{self._doing}, {format_duration(round(monotonic() - self._began))}")

    def end(self) -> None:
        self._trial.end()

    def go(self) -> Step:
        try:
            self._trial.wait()
            self._load()
            self._generate()
            verdict: rules.Verdict = Outcome.WORKS, None
        except Verdict as found:
            verdict = found.outcome, found.reason
        if verdict[0] in (Outcome.WORKS, Outcome.SPILLED):
            memory = self._look_at_cards()
            verdict = verdict if memory[0] is Outcome.WORKS else memory
        self._take_account()
        outcome, reason = verdict
        return Step(
            value=self._value,
            outcome=outcome,
            reason=reason,
            verifies=self._verifies,
            seconds=monotonic() - self._began,
            **self._measured,
        )

    def _ask(self, bodies: Sequence[bytes], doing: str) -> list[Answer]:
        self._doing = doing
        return self._trial.ask([Ask(GENERATE, body) for body in bodies], self._until - monotonic())

    def _must(self, answer: Answer) -> bytes:
        """Return what was answered, or end the step with what the failure means."""
        if answer.status == 200 and b'"error"' not in answer.body[:16]:
            return answer.body
        if answer.status is None and monotonic() >= self._until:
            took = format_duration(self._kit.timeout_s)
            raise Verdict(Outcome.TOO_SLOW, f"it was not done after {took}, while {self._doing}")
        if is_missing(answer.status, answer.body):
            raise NotFoundError(f"{safe_text(self._model)} went away in the middle of the tune: it is not in the store")
        account = rules.account_of(self._trial.log())
        outcome, reason = rules.judge_failure(account, answer.status, answer.body)
        raise Verdict(outcome, answer.error if reason == "answered with None" and answer.error else reason)

    def _load(self) -> None:
        self._must(self._ask([rules.load_body(self._model, self._options)], "loading")[0])
        account = self._take_account()
        _weigh(rules.judge_load(account, cards=bool(self._kit.task.cards), layers=self._layers))

    def _take_account(self) -> rules.Account:
        account = rules.account_of(self._trial.log())
        self._measured |= {
            "load_s": account.load_s,
            "layers_offloaded": account.offloaded,
            "layers_total": account.total,
            "card_buffers_bytes": account.card_bytes,
            "host_buffers_bytes": account.host_bytes,
        }
        return account

    def _generate(self) -> None:
        """Fill the context of every slot at the same time, and generate."""
        number = time.time_ns() // 1000
        lengths = []
        for prompt in rules.probes(number):
            asked = rules.asked_of(self._must(self._ask([self._prompt(prompt)], "measuring a prompt")[0]))
            lengths.append(0 if asked is None else asked.prompt_tokens)
        if 0 in lengths:
            raise Verdict(*rules.judge_end(rules.account_of(self._trial.log())))
        filling = rules.filling(*lengths)
        if filling is None:
            raise Verdict(Outcome.FAILED, "the server does not tell how many tokens a prompt has")
        for less in _SHORTER:
            words = filling.words(self._context, less=less)
            number += 1000
            bodies = [self._prompt(rules.prompt_of(words, number + slot)) for slot in range(self._parallel)]
            answers = self._ask(bodies, f"filling a context of {self._context}{self._slots()}")
            if not any(rules.is_too_long(answer.status, answer.body) for answer in answers):
                break
        found = [rules.asked_of(self._must(answer)) for answer in answers]
        told = tuple(asked for asked in found if asked is not None)
        self._measured["requests"] = told
        if len(told) < self._parallel:
            raise Verdict(*rules.judge_end(rules.account_of(self._trial.log())))
        _weigh(rules.judge_answers(told, self._context))

    def _prompt(self, prompt: str) -> bytes:
        return rules.prompt_body(self._model, self._options, prompt)

    def _slots(self) -> str:
        return "" if self._parallel == 1 else f", {self._parallel} at once"

    def _look_at_cards(self) -> rules.Verdict:
        task = self._kit.task
        if not task.cards:
            return Outcome.WORKS, None
        gpus = read_cards([card.uuid for card in task.cards], simulated=self._kit.lease.simulated)
        used = [gpu.memory_used_bytes for gpu in gpus]
        frees = [(gpu.memory_total_bytes or 0) - (gpu.memory_used_bytes or 0) for gpu in gpus]
        known = None not in used
        self._measured["memory_used_bytes"] = sum(size or 0 for size in used) if known else None
        self._measured["memory_free_bytes"] = min(frees) if known else None
        return rules.judge_memory(self._measured["memory_free_bytes"], task.headroom_bytes)


def _weigh(verdict: rules.Verdict) -> None:
    if verdict[0] is not Outcome.WORKS:
        raise Verdict(*verdict)


def options_of(task: Task, value: int) -> Mapping[str, int]:
    """Return the options by which a value is tried, which are also the parameters of what comes of it."""
    if task.what is What.LAYERS:
        return {"num_ctx": task.context, "num_gpu": value}
    return {"num_ctx": value if task.what is What.CONTEXT else task.context}


def _wait_for_memory(kit: Kit) -> None:
    """A driver gives memory back some time after a process is gone; the next load is not to be measured before."""
    cards = kit.task.cards
    if not cards:
        return
    until = monotonic() + BACK_WITHIN_S
    before = {card.uuid: card.used_bytes for card in cards}
    while monotonic() < until:
        gpus = read_cards(list(before), simulated=kit.lease.simulated)
        if all((gpu.memory_used_bytes or 0) <= before[gpu.uuid] + _SLACK_BYTES for gpu in gpus):
            return
        kit.tick("waiting for the card's memory to come back")
        time.sleep(LOOK_S)
    kit.lease.must_hold()  # where that is the reason it is the better one
    raise RefusedError(
        "the memory of the card does not come back: somebody else uses it, and beside that nothing can be measured",
        hint="ollamux status processes shows who",
    )
