"""Ask every instance how it is, at its own pace, and turn the answers into events. Levels 2 and 3 of the health ladder.

Level 1, the process, needs no question: its end is told by the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ollamux.domain import events as ev
from ollamux.domain.health import NOTHING_SEEN, SuspectRunner, api_answered, complaint, rested, scheduler_answered
from ollamux.domain.instance import Instance
from ollamux.domain.phases import SERVING, Phase
from ollamux.domain.text import safe_text
from ollamux.ollama.api import BadAnswerError, LoadedModel, parse_loaded, parse_server_version
from ollamux.ollama.store import find_manifest, store_path
from ollamux.ollama.version import era_of
from ollamux.ollama.waits import load_patience_s
from ollamux.supervisor import accounts, family
from ollamux.supervisor.core import Core
from ollamux.supervisor.devices import FALLEN, Devices
from ollamux.supervisor.http import Answer, Request, probe_host
from ollamux.supervisor.unit import Unit
from ollamux.system import ports, procs
from ollamux.system.clock import asleep_s, monotonic, wall
from ollamux.system.patience import patiently

FIRST_LOOK_S = 0.02
SLOWEST_START_LOOK_S = 0.5
SCHEDULER_PATIENCE_S = 20.0
"""A server that pings a hung runner answers /api/ps after 18 to 19.5 s (0.32.15), and has helped itself then."""
OVERDUE_SLACK_S = 2.0


class Checks:
    """Plans and reads the probes of all instances."""

    def __init__(self, core: Core, devices: Devices, *, home: str) -> None:
        self._core = core
        self._devices = devices
        self.home = home
        self.listeners: list[Callable[[Unit], None]] = []
        core.changed.append(self._on_change)

    def _on_change(self, unit: Unit, before: Instance) -> None:
        after = unit.state
        began = after.gen != before.gen or before.phase is not Phase.STARTING  # an adopted one keeps its generation
        if began:
            self.begin(unit)
        if after.phase is Phase.READY and before.phase is Phase.STARTING:
            self._plan(unit, "api", unit.spec.health.interval_s)
            self.ask_scheduler(unit)
        elif after.phase not in SERVING and before.phase in SERVING:
            unit.forget_checks()

    def begin(self, unit: Unit) -> None:
        """Begin to ask an instance that is starting."""
        if unit.state.phase is Phase.STARTING and unit.state.pid is not None:
            unit.slept_s = asleep_s()
            self._plan(unit, "api", FIRST_LOOK_S)

    def change(self, unit: Unit) -> None:
        """Ask at the pace that holds now, not only after a wait at the old one."""
        if unit.state.phase in (Phase.READY, Phase.UNHEALTHY):
            for what in ("api", "scheduler"):
                if what in unit.check_timers and what not in unit.requests:
                    self._plan(unit, what, unit.spec.health.interval_s)

    def go_on(self, unit: Unit) -> None:
        """Ask an instance that the program before this one was asking."""
        unit.slept_s = asleep_s()
        if unit.state.phase in SERVING and unit.state.phase is not Phase.STARTING:
            self._plan(unit, "api", FIRST_LOOK_S)
            self.ask_scheduler(unit)

    def _plan(self, unit: Unit, what: str, delay_s: float) -> None:
        ask = self._ask_api if what == "api" else self.ask_scheduler
        old = unit.check_timers.pop(what, None)
        if old is not None:
            old.cancel()
        unit.check_timers[what] = self._core.loop.call_later(delay_s, lambda: ask(unit))

    def _ask(self, unit: Unit, what: str, target: str, *, timeout_s: float) -> None:
        old = unit.requests.pop(what, None)
        if old is not None:
            old.cancel()
        gen = unit.state.gen

        def done(answer: Answer) -> None:
            unit.requests.pop(what, None)
            if unit.state.gen == gen and unit.state.phase in SERVING:
                self._read(unit, what, answer)

        address = (probe_host(unit.spec.host), unit.spec.port)
        try:
            unit.requests[what] = Request(self._core.loop, address, target, timeout_s=timeout_s, done=done)
        except OSError:  # no descriptor left to ask with, which says nothing about the instance
            self._plan(unit, what, max(SLOWEST_START_LOOK_S, unit.spec.health.interval_s))

    def _ask_api(self, unit: Unit) -> None:
        self._ask(unit, "api", "/api/version", timeout_s=unit.spec.health.timeout_s)

    def ask_scheduler(self, unit: Unit) -> None:
        """Look at what is loaded, now."""
        self._ask(unit, "scheduler", "/api/ps", timeout_s=max(unit.spec.health.timeout_s, SCHEDULER_PATIENCE_S))

    def _read(self, unit: Unit, what: str, answer: Answer) -> None:
        self._devices.read_log(unit)
        if self._woke_up(unit):
            unit.health = rested(unit.health)
            unit.incidents -= {"cpu_fallback", FALLEN}  # after a suspend a server often finds its GPU gone, as if anew
        elif what == "api":
            self._read_api(unit, answer)
        else:
            self._read_scheduler(unit, answer)
        if unit.state.phase is Phase.STARTING:
            waited = monotonic() - unit.spawned_at
            self._plan(unit, "api", min(SLOWEST_START_LOOK_S, max(FIRST_LOOK_S, waited / 4)))
        elif unit.state.phase in SERVING:
            self._plan(unit, what, max(0.0, unit.spec.health.interval_s - answer.seconds))

    def _woke_up(self, unit: Unit) -> bool:
        slept = asleep_s()
        woke = slept - unit.slept_s > 1.0
        unit.slept_s = slept
        return woke

    def _read_api(self, unit: Unit, answer: Answer) -> None:
        error = answer.error
        if error is None and answer.status != 200:
            error = f"GET /api/version was answered with {answer.status}"
        if error is None:
            error = self._read_version(unit, answer.body)
        if unit.state.phase is Phase.STARTING:
            self._judge_start(unit, answer, error)
            return
        unit.health = api_answered(unit.health, error)
        self.judge(unit)

    def _read_version(self, unit: Unit, body: bytes) -> str | None:
        try:
            version = parse_server_version(body)
        except BadAnswerError as error:
            return str(error)
        unit.server_version = version.text
        unit.era = era_of(version.numbers)
        return None

    def _judge_start(self, unit: Unit, answer: Answer, error: str | None) -> None:
        gen = unit.state.gen
        if error is not None:
            reason = "the port is open, but HTTP is not answered yet" if answer.silent else error
            self._core.dispatch(unit, ev.HealthFailed(gen=gen, reason=reason))
            return
        stranger = self._stranger(unit)
        if stranger is not None:
            self._core.dispatch(unit, ev.HealthFailed(gen=gen, reason=stranger))
            return
        unit.health = NOTHING_SEEN
        if self._devices.judge_start(unit):
            self._core.dispatch(unit, ev.HealthPassed(gen=gen))

    def _stranger(self, unit: Unit) -> str | None:
        """Return who answers on the port where it is provably not the instance itself."""
        sockets = ports.listeners(probe_host(unit.spec.host), unit.spec.port)
        child = unit.child
        if child is None or not sockets or ports.owns([child.pid], sockets):
            return None
        if ports.owns(procs.descendants(child.pid), sockets) or _is_closed_to_us(child.pid):
            return None
        held = ports.holder(unit.spec.host, unit.spec.port)
        if held is not None and held.pid is not None and family.mark_of(held.pid) == unit.mark:
            return None
        if held is None:
            return f"port {unit.spec.port} was answered by a process that is gone, not by this instance"
        return f"port {unit.spec.port} is answered by {held}, not by this instance"

    def _read_scheduler(self, unit: Unit, answer: Answer) -> None:
        error, models = _loaded(answer)
        overdue: dict[str, SuspectRunner] = {}
        loading: dict[str, SuspectRunner] = {}
        if models is not None:
            unit.runners = family.runners(unit.child.pid) if unit.child is not None else {}
            overdue = self._overdue(unit, models)
            loading = self._loading(unit, models)
            self._tell_gone_runners(unit, models)
            unit.models, unit.models_at = models, monotonic()
            accounts.look(unit, self.runner_of)
            self._devices.judge_models(unit, on_cpu_by_wish=self._on_cpu_by_wish(unit))
            for listener in self.listeners:
                listener(unit)
        if unit.state.phase in SERVING:
            unit.health = scheduler_answered(
                unit.health,
                error,
                overdue=overdue,
                loading=loading,
                load_patience_s=load_patience_s(unit.spec.env),
                now=monotonic(),
            )
            self.judge(unit)

    def judge(self, unit: Unit) -> None:
        """Turn what is known of an instance's health into an event, where it is one."""
        gen = unit.state.gen
        bad = complaint(unit.health, unit.spec.health.failures)
        if bad is not None:
            self._core.dispatch(unit, ev.HealthFailed(gen=gen, reason=bad.reason, runner=bad.runner))
        elif unit.state.phase is Phase.UNHEALTHY and not unit.health.api_misses and not unit.health.scheduler_misses:
            self._core.dispatch(unit, ev.HealthPassed(gen=gen))

    def _overdue(self, unit: Unit, models: tuple[LoadedModel, ...]) -> dict[str, SuspectRunner]:
        now, offset = wall(), wall() - monotonic()
        found: dict[str, SuspectRunner] = {}
        known, unit.promises = unit.promises, {}
        for model in models:
            # A server counts on a clock that stands still in suspend and is never set; what it tells as wall time is
            # worth nothing once the two have parted.
            promised, then = known.get(model.name, (model.expires_at, offset))
            then = then if promised == model.expires_at else offset
            unit.promises[model.name] = (model.expires_at, then)
            if abs(offset - then) > OVERDUE_SLACK_S:
                continue
            if model.expires_at is not None and model.expires_at < now - OVERDUE_SLACK_S:
                pid = self.runner_of(unit, model)
                effort = family.effort(pid) if pid is not None else None
                if pid is not None and effort is not None:
                    found[model.name] = SuspectRunner(pid=pid, effort=effort)
        return found

    def _loading(self, unit: Unit, models: tuple[LoadedModel, ...]) -> dict[str, SuspectRunner]:
        """Return the runners of models that ps does not list: it lists none that is loading."""
        listed = [self._blob_of(unit, model) for model in models]
        if len(unit.runners) <= len(models) or None in listed:
            return {}
        found: dict[str, SuspectRunner] = {}
        for pid, path in unit.runners.items():
            effort = None if any(blob and path.endswith(blob) for blob in listed) else family.effort(pid)
            if effort is not None:
                found[self._name_of(unit, path)] = SuspectRunner(pid=pid, effort=effort)
        return found

    def _name_of(self, unit: Unit, path: str) -> str:
        """Return the name of the model in a blob where it was seen or is configured, else the blob's own."""
        for name in (*(pin.name for pin in unit.pins), *unit.spec.canary.models):
            self._blob_named(unit, name, None)
        known = next((name for (name, _), blob in unit.blobs.items() if blob is not None and path.endswith(blob)), None)
        return safe_text(known or path.rpartition("/")[2][:19])

    def runner_of(self, unit: Unit, model: LoadedModel) -> int | None:
        """Return the pid of a model's runner.

        ps tells the digest of the manifest and a runner's arguments the blob of the weights; the manifest maps them.
        """
        blob = self._blob_of(unit, model)
        if blob is not None:
            return next((pid for pid, path in unit.runners.items() if path.endswith(blob)), None)
        return next(iter(unit.runners)) if len(unit.runners) == 1 and len(unit.models) <= 1 else None

    def _on_cpu_by_wish(self, unit: Unit) -> frozenset[str]:
        """Return the models that are in host memory because whoever asked for them asked for that: num_gpu = 0."""
        suspects = [model for model in unit.models if model.size_bytes > 0 and model.size_vram_bytes == 0]
        runners = {model.name: self.runner_of(unit, model) for model in suspects}
        return frozenset(name for name, pid in runners.items() if pid is not None and family.keeps_to_cpu(pid))

    def _blob_of(self, unit: Unit, model: LoadedModel) -> str | None:
        return self._blob_named(unit, model.name, model.digest)

    def _blob_named(self, unit: Unit, name: str, digest: str | None) -> str | None:
        key = (name, digest)
        if key not in unit.blobs:
            store = store_path(unit.spec.store, self.home)
            try:
                manifest = patiently(f"the store {store}", lambda: find_manifest(Path(store), name))
            except TimeoutError:
                return None  # not known, which is no reason to do anything
            unit.blobs[key] = None if manifest is None else manifest.blob
        return unit.blobs[key]

    def _tell_gone_runners(self, unit: Unit, models: tuple[LoadedModel, ...]) -> None:
        known = {model.name for model in unit.models}
        gone = frozenset(
            model.name
            for model in models
            if model.name in known and self._blob_of(unit, model) and self.runner_of(unit, model) is None
        )
        for name in sorted(gone - unit.gone_runners):
            self._core.note(unit, f"the runner of {name} is gone; the next request for it starts another")
        unit.gone_runners = gone


def _loaded(answer: Answer) -> tuple[str | None, tuple[LoadedModel, ...] | None]:
    """Return (what is wrong with an answer of /api/ps, the models it tells); a server without ps tells nothing."""
    if answer.error is not None:
        return answer.error, None
    if answer.status == 404:
        return None, None
    if answer.status != 200:
        return f"GET /api/ps was answered with {answer.status}", None
    try:
        return None, parse_loaded(answer.body, now=wall())
    except BadAnswerError as error:
        return f"GET /api/ps: {error}", None


def _is_closed_to_us(pid: int) -> bool:
    """Whether the kernel does not show us what a process has open, as of one with capabilities of its own."""
    try:
        os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        return True
    except OSError:
        return False
    return False
