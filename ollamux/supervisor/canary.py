"""Level 5 of the health ladder: ask a loaded model for one token, now and then, where the configuration says so.

When, and what follows, is decided in `domain.canary`; here it is looked, asked and told. Looks come with the answers of
`/api/ps`, so that what is asked was loaded a moment ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ollamux.domain import canary as rules
from ollamux.domain.canary import Answer, Remedy
from ollamux.domain.health import Complaint, Effort
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.snapshot import CanaryView
from ollamux.domain.text import format_duration, safe_text, same_model
from ollamux.ollama import canary as ollama
from ollamux.ollama.api import LoadedModel
from ollamux.ollama.canary import Facts, Told
from ollamux.supervisor import family, http
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.unit import Unit
from ollamux.system import procs
from ollamux.system.clock import asleep_s, monotonic, rfc3339, wall

if TYPE_CHECKING:
    from ollamux.supervisor.carried import CarriedCanary

SELF_HELP_S = 10.0
"""A server pings a runner for so long before it gives it up: what another runner answers sooner was a new load."""
QUIET_S = 1.0
"""A runner that was at work so short a while ago is only pausing, or waits for its share of a busy processor."""
_SLOT = "canary"


@dataclass(slots=True)
class _Work:
    """What a runner had done when it was looked at last, and when it was last seen at work."""

    effort: Effort
    at: float
    active_at: float | None = None
    computes: bool = False


class CanaryWatch:
    """What the canary knows of one incarnation of one instance."""

    def __init__(self, state: rules.Canary) -> None:
        self.state = state
        self.last: CanaryView | None = None
        self.facts: dict[tuple[str, str | None], Facts] = {}
        self.work: dict[int, _Work] = {}
        self.slept_s = asleep_s()
        self.accused: tuple[str, int, float] | None = None
        self.passed: tuple[str, int, float, float] | None = None

    def carried(self) -> CarriedCanary:
        """Return what the program that takes our place needs; a question that is under way is asked again."""
        from ollamux.supervisor.carried import CarriedCanary

        return CarriedCanary(state=self.state, last=self.last, accused=self.accused, passed=self.passed)


class Canaries:
    """One question at a time for each instance."""

    def __init__(self, core: Core, checks: Checks) -> None:
        self._core = core
        self._checks = checks
        core.changed.append(self._on_change)
        checks.listeners.append(self._look)

    def go_on(self, unit: Unit, carried: CarriedCanary | None) -> None:
        """Go on with what the program before this one knew; else begin with an instance that is ready."""
        if carried is not None:
            unit.canary = CanaryWatch(carried.state)
            unit.canary.last, unit.canary.accused, unit.canary.passed = carried.last, carried.accused, carried.passed
        elif unit.state.phase in (Phase.READY, Phase.UNHEALTHY):
            self._begin(unit, ())

    def _begin(self, unit: Unit, asked: tuple[float, ...]) -> None:
        units = list(self._core.units)
        spec, place = unit.spec.canary, units.index(unit.name)
        unit.canary = CanaryWatch(rules.begin(spec, now=monotonic(), place=place, places=len(units), asked=asked))

    def _on_change(self, unit: Unit, before: Instance) -> None:
        if unit.state.phase is Phase.READY and before.phase is Phase.STARTING:
            self._begin(unit, unit.canary.state.asked if unit.canary is not None else ())
        elif unit.state.phase is not Phase.READY and _SLOT in unit.requests:
            unit.requests.pop(_SLOT).cancel()

    def _look(self, unit: Unit) -> None:
        watch, spec, now = unit.canary, unit.spec.canary, monotonic()
        if watch is None or not spec.models:
            return
        if self._slept(watch):
            watch.state = rules.rested(watch.state, spec, now)
        pids = {model.name: self._checks.runner_of(unit, model) for model in unit.models}
        look = _look_at(unit, watch, pids, now)
        watch.state = rules.looked(watch.state, look)
        self._see_whether_moved(unit, watch)
        self._see_whether_mended(unit, watch, look)
        if unit.state.phase is not Phase.READY or _SLOT in unit.requests or watch.passed is not None:
            return
        chosen = rules.choose(watch.state, spec, look, now)
        model = next((each for each in unit.models if chosen is not None and each.name == chosen.name), None)
        if chosen is None or model is None:
            return
        facts = watch.facts.get((model.name, model.digest))
        if facts is None:
            self._ask_facts(unit, watch, model)
        elif chosen.pid is not None:
            self._ask(unit, watch, model, facts, chosen)

    def _slept(self, watch: CanaryWatch) -> bool:
        slept = asleep_s()
        before, watch.slept_s = watch.slept_s, slept
        return slept - before > 1.0

    def _see_whether_moved(self, unit: Unit, watch: CanaryWatch) -> None:
        """Stop asking a model whose runner was replaced by the question."""
        # An answer of ps may be older than ours, and a runner that is being replaced takes a moment to go.
        if watch.passed is None or monotonic() - watch.passed[3] < QUIET_S:
            return
        (name, before, seconds, _), watch.passed = watch.passed, None
        model = next((each for each in unit.models if each.name == name), None)
        pid = None if model is None else self._checks.runner_of(unit, model)
        watch.state, unfit = rules.moved(watch.state, name, before, pid, quickly=seconds < SELF_HELP_S)
        if unfit:
            self._core.note(
                unit,
                f"the canary leaves {safe_text(name)} alone from now on: ollama loaded it anew for the question, "
                "so its clients use options that cannot be seen",
            )

    def _see_whether_mended(self, unit: Unit, watch: CanaryWatch, look: rules.Look) -> None:
        """Withdraw the complaint where the runner is gone, or others' requests are served by it."""
        if watch.accused is None:
            return
        name, pid, since = watch.accused
        model = next((each for each in look.models if each.name == name), None)
        if pid not in unit.runners or (model is not None and rules.proven(model, look, since=since)):
            watch.accused = None
            unit.health = replace(unit.health, canary=None)

    def _ask_facts(self, unit: Unit, watch: CanaryWatch, model: LoadedModel) -> None:
        def done(answer: http.Answer) -> None:
            facts = ollama.facts_of(answer.body, model.family) if answer.status == 200 else None
            if facts is None:
                watch.state = rules.put_off(watch.state, unit.spec.canary, monotonic())
            else:
                watch.facts[model.name, model.digest] = facts

        self._send(unit, watch, ollama.SHOW, ollama.about(model), unit.spec.health.timeout_s, done)

    def _ask(self, unit: Unit, watch: CanaryWatch, model: LoadedModel, facts: Facts, chosen: rules.Loaded) -> None:
        assert chosen.pid is not None  # noqa: S101 - looked at by the caller
        pid, spec = chosen.pid, unit.spec.canary
        before, asked_wall = family.effort(pid), wall()
        if before is None:
            return
        body = ollama.question(
            model,
            facts,
            era=unit.era,
            default_context=unit.spec.context_length,
            arguments=procs.arguments(pid),
        )

        def done(answer: http.Answer) -> None:
            if self._slept(watch):
                watch.state = rules.rested(watch.state, unit.spec.canary, monotonic())
            else:
                told = _judge(answer, spec.timeout_s, pid, before)
                ok = {Answer.TOKEN: True, Answer.MISS: False}.get(told.answer)
                watch.last = CanaryView(
                    model=model.name,
                    at=rfc3339(asked_wall),
                    ok=ok,
                    seconds=round(answer.seconds, 3),
                    reason=f"{told.what}{told.detail}" or None,
                )
                self._answered(unit, watch, model.name, told, pid=pid, seconds=answer.seconds)

        if self._send(unit, watch, ollama.GENERATE, body, spec.timeout_s, done):
            watch.state = rules.sent(watch.state, spec, chosen, monotonic())

    def _send(
        self,
        unit: Unit,
        watch: CanaryWatch,
        target: str,
        body: bytes,
        timeout_s: float,
        done: http.Done,
    ) -> bool:
        """Ask; what comes back counts only for the incarnation that was asked, while it is READY."""

        def arrived(answer: http.Answer) -> None:
            unit.requests.pop(_SLOT, None)
            if unit.canary is watch and unit.state.phase is Phase.READY:
                done(answer)

        address = (http.probe_host(unit.spec.host), unit.spec.port)
        try:
            unit.requests[_SLOT] = http.Request(
                self._core.loop, address, target, timeout_s=timeout_s, done=arrived, body=body
            )
        except OSError:  # no descriptor left to ask with, which says nothing about the model
            watch.state = rules.put_off(watch.state, unit.spec.canary, monotonic())
            return False
        return True

    def _answered(self, unit: Unit, watch: CanaryWatch, name: str, told: Told, *, pid: int, seconds: float) -> None:
        spec, shown, answer = unit.spec.canary, safe_text(name), told.answer
        said = f"the canary got {told.what} from {shown}{told.detail}"
        known = watch.state.records.get(name)
        missed = known is not None and (known.misses > 0 or known.remedied)
        watch.state, remedy = rules.answered(watch.state, spec, name, answer, now=monotonic())
        if answer is Answer.TOKEN:
            watch.passed = (name, pid, seconds, monotonic())
            if missed:
                self._core.note(unit, f"the canary got a token from {shown} again ({format_duration(seconds)})")
        elif answer is Answer.UNFIT:
            self._core.note(unit, f"the canary leaves {shown} alone from now on: it got {told.what}{told.detail}")
        elif answer is Answer.MISS and remedy is None:
            misses = watch.state.records[name].misses
            self._core.note(unit, f"{said}; {misses} of {spec.failures} misses")
        if remedy is None:
            return
        times = f", {spec.failures} times in a row" if spec.failures > 1 else ""
        again = ", also after its runner was replaced" if remedy is Remedy.RESTART else ""
        reason = f"{said}{times}{again}"
        watch.accused = (name, pid, monotonic())
        runner = pid if remedy is Remedy.END_RUNNER else None
        unit.health = replace(unit.health, canary=Complaint(reason=reason, runner=runner))
        self._checks.judge(unit)


def _look_at(unit: Unit, watch: CanaryWatch, pids: Mapping[str, int | None], now: float) -> rules.Look:
    """Put together what the rules want to know, looking at the runners of models on the list."""
    models: list[rules.Loaded] = []
    work: dict[int, _Work] = {}
    for model in unit.models:
        allowed = any(same_model(model.name, other) for other in unit.spec.canary.models)
        pid = pids[model.name] if allowed else None
        effort = None if pid is None else family.effort(pid)
        if pid is not None and effort is not None:
            work[pid] = _at_work(watch.work.get(pid), effort, now)
        facts = watch.facts.get((model.name, model.digest))
        seen = None if pid is None else work.get(pid)
        models.append(
            rules.Loaded(
                name=model.name,
                allowed=allowed,
                generates=None if facts is None else facts.generates,
                expires_at=model.expires_at,
                pid=None if seen is None else pid,
                computes=seen is None or seen.computes,
                active_at=None if seen is None else seen.active_at,
            )
        )
    watch.work = work
    loading = len(unit.runners) > len(unit.models)
    return rules.Look(models=tuple(models), loading=loading, served_at=unit.served_at, wall=wall())


def _at_work(before: _Work | None, effort: Effort, now: float) -> _Work:
    """Compare two looks at a runner; one that is seen for the first time is taken to be at work."""
    if before is None:
        return _Work(effort, now, active_at=now, computes=True)
    busy = rules.computes(before.effort, effort, now - before.at, ticks_per_s=procs.CLOCK_TICKS)
    active_at = now if busy else before.active_at
    return _Work(effort, now, active_at=active_at, computes=active_at is not None and now - active_at < QUIET_S)


def _judge(answer: http.Answer, timeout_s: float, pid: int, before: Effort) -> Told:
    """Say what came of a question: a runner that worked in the meantime, or is not there any more, has not failed."""
    if answer.status is not None:
        return ollama.read_answer(answer.status, answer.body)
    if answer.seconds < timeout_s:
        return Told(Answer.OPEN, "no answer", f": {answer.error}")
    after = family.effort(pid)
    if after is None:
        return Told(Answer.OPEN, "no answer", ": its runner is gone")
    if rules.computes(before, after, answer.seconds, ticks_per_s=procs.CLOCK_TICKS):
        return Told(Answer.COMPUTING, "no answer", ": its runner is busy")
    return Told(Answer.MISS, "no token", f" in {format_duration(timeout_s)}")
