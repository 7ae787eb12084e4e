"""The measuring itself: warm up, then round after round each instance alone and all of them together, with their cards.

Rounds go over everything before anything is measured again, so that a card that gets warm slows all alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ollamux.cli.bench_targets import Target, Targets
from ollamux.cli.volley import Shot, Volley
from ollamux.domain.bench import CardEnergy, Request, Step, together
from ollamux.domain.benchrun import Asked, BenchCard
from ollamux.domain.energy import Energy
from ollamux.gpu.meter import Meter
from ollamux.ollama.stream import prompt, question
from ollamux.system.places import state_dir

MOMENT_S = 0.1
CUT = "interrupted"

Tell = Callable[[str, int, int], None]
"""Called again and again: with what is being done, the number of the step and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One step that is to be done."""

    round: int
    instances: tuple[str, ...]
    concurrency: int

    @property
    def words(self) -> str:
        """Say what is done."""
        return f"round {self.round}: {' + '.join(self.instances)}, {self.concurrency} at once"


def parts(names: Sequence[str], asked: Asked) -> list[Part]:
    """Return everything that is to be measured, in order."""
    return [
        Part(round=number, instances=group, concurrency=concurrency)
        for number in range(1, asked.rounds + 1)
        for concurrency in asked.concurrency
        for group in together(names)
    ]


class Bench:
    """Measures targets. What was measured so far stands in `steps`, also after an interrupt."""

    def __init__(self, targets: Targets, asked: Asked, run: str, tell: Tell) -> None:
        self._targets = {target.name: target for target in targets.usable}
        self._model = targets.model
        self._asked = asked
        self._run = run
        self._tell = tell
        self._number = 0
        self._cut = False
        self._words = asked.prompt_tokens
        self._meter = _meter(list(self._targets.values()), simulated=targets.simulated)
        self.steps: list[Step] = []
        self.left_out: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """Return the instances that have answered so far."""
        return [name for name in self._targets if name not in self.left_out]

    def close(self) -> None:
        """End what measures the cards."""
        if self._meter is not None:
            self._meter.close()

    def measure(self) -> None:
        """Measure it all. An instance that answers nothing in a step is left out from there on."""
        todo = parts(list(self._targets), self._asked)
        for number, part in enumerate(todo, start=1):
            if not set(part.instances) & self.left_out.keys():
                self._step(part, number, len(todo))

    def warm_up(self) -> None:
        """Send one request to each, which is not counted, and see from it how many words make so many tokens."""
        requests = self._fire(list(self._targets), 1, lambda: self._tell("warming up", 0, 0))
        self._must_go_on()
        for request in requests:
            if request.error is not None:
                self.left_out[request.instance] = request.error
        told = [request.prompt_tokens for request in requests if request.prompt_tokens]
        if told:
            self._words = max(1, round(self._asked.prompt_tokens * self._words / max(told)))

    def _step(self, part: Part, number: int, count: int) -> None:
        cards = tuple(dict.fromkeys(uuid for name in part.instances for uuid in self._targets[name].view.gpus))
        meter = self._meter if cards else None
        if meter is not None:
            meter.begin(cards)

        def moment() -> None:
            self._tell(part.words, number, count)
            if meter is not None:
                meter.tick()

        requests = self._fire(part.instances, part.concurrency, moment)
        energies = {} if meter is None or self._cut else meter.end()
        self.steps.append(
            Step(
                round=part.round,
                instances=part.instances,
                concurrency=part.concurrency,
                requests=requests,
                cards=tuple(_card(uuid, energies.get(uuid)) for uuid in cards),
                cut=self._cut,
            )
        )
        self._must_go_on()
        for name in part.instances:
            errors = [request.error for request in requests if request.instance == name]
            if None not in errors:
                self.left_out[name] = next(error for error in errors if error is not None)

    def _fire(self, names: Sequence[str], concurrency: int, moment: Callable[[], None]) -> tuple[Request, ...]:
        """Send the requests of a step and wait for all of them; an interrupt ends them, and is told by `_cut`."""
        shots = [self._shot(self._targets[name]) for _ in range(concurrency) for name in names]
        volley = Volley(shots, timeout_s=self._asked.timeout_s)
        try:
            while not volley.wait(MOMENT_S):
                moment()
        except KeyboardInterrupt:
            self._cut = True
        finally:
            volley.cut(CUT)
        return volley.requests()

    def _must_go_on(self) -> None:
        if self._cut:
            raise KeyboardInterrupt

    def _shot(self, target: Target) -> Shot:
        self._number += 1
        text = prompt(self._run, self._number, self._words)
        body = question(self._model, text, tokens=self._asked.tokens, options=target.options)
        return Shot(instance=target.name, url=target.view.url, number=self._number, body=body)


def _meter(targets: Sequence[Target], *, simulated: bool) -> Meter | None:
    if not any(target.view.gpus for target in targets):
        return None
    box = Path(state_dir(os.environ, simulated=True)) / "box"
    return Meter("simulated", box) if simulated else Meter("auto", None)


def _card(uuid: str, energy: Energy | None) -> CardEnergy:
    if energy is None:
        return CardEnergy(uuid=uuid, joules=None, seconds=None, source=None)
    return CardEnergy(uuid=uuid, joules=round(energy.joules, 3), seconds=round(energy.seconds, 3), source=energy.source)


def cards_of(targets: Targets) -> tuple[BenchCard, ...]:
    """Return the cards of the measured instances, each once."""
    used = {uuid for target in targets.all for uuid in target.view.gpus}
    return tuple(
        BenchCard(
            uuid=gpu.uuid,
            index=gpu.index,
            name=gpu.name,
            memory_total_bytes=gpu.memory_total_bytes,
            power_limit_w=gpu.power_limit_w,
            instances=gpu.instances,
        )
        for gpu in targets.status.gpus
        if gpu.uuid in used
    )
