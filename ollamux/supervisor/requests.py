"""What a request over the control socket means. A closed set of words; nothing is looked up by a name from outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ollamux import __version__
from ollamux.domain import events as ev
from ollamux.domain.errors import Exit, OllamuxError, RefusedError, UsageError
from ollamux.domain.phases import NO_PROCESS, SERVING, Phase
from ollamux.domain.snapshot import VIEWS, as_json
from ollamux.domain.tally import asked_for
from ollamux.protocol.client import PROTOCOL, TEXT_HEAD
from ollamux.supervisor.core import Core
from ollamux.supervisor.family import MARKS
from ollamux.supervisor.models import FIELDS as MODEL_FIELDS
from ollamux.supervisor.models import Models
from ollamux.supervisor.placements import FIELDS as PLACE_FIELDS
from ollamux.supervisor.reload import Reload
from ollamux.supervisor.selecting import select
from ollamux.supervisor.server import Client
from ollamux.supervisor.settling import Settling, timeout_of
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.view import Observer
from ollamux.supervisor.waiters import Waiters
from ollamux.system.clock import monotonic

Reply = Callable[[dict[str, Any]], None]
MENDABLE = frozenset({"cpu_fallback", "fallen", "wrong_gpu", "astray"})
"""Device faults that a restart may mend. A spill or a lost card it does not, and cron must not cut streams for them."""


_CHANGE = frozenset({"names", "all", "wait", "timeout", "rolling", "if_unhealthy", "if_running"})
FIELDS: dict[str, frozenset[str]] = {
    "draw": frozenset({"view", "format", "width", "color", "unicode"}),
    "status": frozenset(),
    "start": _CHANGE,
    "stop": _CHANGE,
    "restart": _CHANGE,
    "wait": frozenset({"timeout"}),
    "down": frozenset({"hurry"}),
    "upgrade": frozenset({"version", "timeout"}),
    "env": frozenset({"name"}),
    "reload": frozenset({"digest", "dry_run", "wait", "timeout"}),
    "sim": frozenset({"fault", "target", "clear"}),
    **MODEL_FIELDS,
    "place": PLACE_FIELDS,
}
"""What each request may say."""


class Requests:
    """Answers clients. `shutdown` takes the box down and calls back with what could not be stopped."""

    def __init__(
        self,
        core: Core,
        observer: Observer,
        waiters: Waiters,
        *,
        models: Models,
        place: Callable[[Client, dict[str, Any]], None],
        shutdown: Callable[[bool, Callable[[list[int]], None] | None], None],
        upgrade: Callable[[Client, str, float], None],
        remember: Callable[[], None],
        program: Callable[[Unit], str],
        environment: Callable[[Unit, str], Mapping[str, str]],
        reload: Reload,
        simulate: Callable[[str | None, str | None, bool], str] | None,
    ) -> None:
        self._core = core
        self._observer = observer
        self._settling = Settling(core, waiters, restart=self._restart_one)
        self._models = models
        self._shutdown = shutdown
        self._ask_upgrade = upgrade
        self._remember = remember
        self._program = program
        self._environment = environment
        self._reloading = reload
        self._simulate = simulate
        self._words: dict[str, Callable[[Client, dict[str, Any]], None]] = {
            "draw": self._draw,
            "status": self._status,
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "wait": self._wait,
            "down": self._down,
            "upgrade": self._upgrade,
            "env": self._env,
            "reload": self._reload,
            "sim": self._sim,
            **models.words,
            "place": place,
        }

    def handle(self, client: Client, request: dict[str, Any]) -> None:
        """Answer one request, now or later. Raises OllamuxError where it is refused."""
        self._core.tell()  # whoever asks sees nothing that is not on record
        word = self._words.get(str(request.get("cmd")))
        if word is None:
            raise RefusedError(f"the supervisor does not know the request {request.get('cmd')!r}")
        unknown = request.keys() - FIELDS[str(request["cmd"])] - {"v", "cmd"}
        if unknown:
            raise UsageError(f"the request {request['cmd']} has no {', '.join(sorted(map(str, unknown)))}")
        if request["cmd"] in MODEL_FIELDS:
            self._refuse_in_shutdown()
        word(client, request)

    def _draw(self, client: Client, request: dict[str, Any]) -> None:
        view, form = request.get("view"), request.get("format")
        if view is not None and (not isinstance(view, str) or view not in VIEWS):
            raise UsageError(f"there is no view {view!r}")
        status = self._observer.status()
        if form == "json":
            import json

            text = json.dumps(as_json(status, view), indent=2, ensure_ascii=False) + "\n"
        else:
            from ollamux.render.table import status_table

            text = status_table(
                status,
                width=_bounded(request.get("width"), 20, 1000, 80),
                color=request.get("color") is True,
                unicode=request.get("unicode") is True,
                view=view,
                wide=form == "wide",
            )
            text += "" if text.endswith("\n") else "\n"
        head = TEXT_HEAD + str(int(health_exit(self._core))).encode() + b"\n"
        client.answer_bytes(head + text.encode("utf-8", "surrogatepass"))

    def _status(self, client: Client, request: dict[str, Any]) -> None:
        client.answer(
            {
                "v": PROTOCOL,
                "ok": True,
                "exit": int(health_exit(self._core)),
                "status": as_json(self._observer.status()),
            }
        )

    def _units(self, request: dict[str, Any]) -> list[Unit]:
        names = request.get("names")
        if request.get("all") is True:
            return list(self._core.units.values())
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError("no instance is named")
        return select(self._core.units, names)

    def _staying(self, request: dict[str, Any]) -> list[Unit]:
        """Return the instances that are meant, and may still be started."""
        units = self._units(request)
        leaving = [unit.name for unit in units if unit.leaving]
        if leaving and request.get("all") is not True:
            raise RefusedError(
                f"{', '.join(leaving)}: gone from the configuration, and on the way out",
                hint="write it there again, then: ollamux reload",
            )
        return [unit for unit in units if not unit.leaving]

    def _start(self, client: Client, request: dict[str, Any]) -> None:
        self._refuse_in_shutdown()
        units = self._staying(request)
        disabled = [unit.name for unit in units if not unit.spec.enabled]
        if disabled and not request.get("all"):
            raise RefusedError(
                f"{', '.join(disabled)}: disabled in the configuration", hint="set enabled = true there, then start it"
            )
        wanted = [unit for unit in units if unit.spec.enabled]
        before = {unit.name: unit.state.gen - (unit.state.phase in SERVING) for unit in wanted}
        for unit in wanted:
            if unit.wanted and unit.state.phase in NO_PROCESS:
                self._count(unit)  # a restart before its time
            self._core.dispatch(unit, ev.StartAsked())
        self._remember()
        self._settling.settle(client, request, before, "ready")

    def _stop(self, client: Client, request: dict[str, Any]) -> None:
        units = self._units(request)
        for unit in units:
            self._core.dispatch(unit, ev.StopAsked())
        self._remember()
        self._settling.settle(client, request, {unit.name: unit.state.gen for unit in units}, "stopped")

    def _restart(self, client: Client, request: dict[str, Any]) -> None:
        self._refuse_in_shutdown()
        if request.get("if_unhealthy") is True and not request.get("names"):
            units = list(self._core.units.values())
        else:
            units = self._staying(request)
        units = [unit for unit in units if unit.spec.enabled]
        if request.get("if_running") is True:
            units = [unit for unit in units if unit.wanted]
        if request.get("if_unhealthy") is True:
            units = [unit for unit in units if unit.wanted and needs_restart(unit)]
        self._look_for_programs(units)
        if request.get("rolling") is True:
            self._settling.roll(client, request, units)
            return
        before = {unit.name: self._ask_restart(unit) for unit in units}
        self._remember()
        self._settling.settle(client, request, before, "ready")

    def _look_for_programs(self, units: Iterable[Unit]) -> None:
        """Raise OllamuxError where a program is missing, as while its package is updated: what serves is not ended."""
        for unit in units:
            try:
                self._program(unit)
            except OllamuxError as error:
                message = f"nothing was restarted, since {unit.name} could not be started again: {error.message}"
                raise OllamuxError(message, hint=error.hint, exit_code=error.exit_code) from None

    def _ask_restart(self, unit: Unit) -> int:
        """Ask for a new incarnation, and return the generation that is to be left.

        While one that was asked for is still starting it is what everybody gets: a cron job that asks more often than
        a start takes would otherwise cut off each start, and the instance would never be ready.
        """
        gen = unit.state.gen
        joins = unit.state.phase is Phase.STARTING and unit.state.pid is not None and gen == unit.tally.asked_gen
        if joins:
            self._count(unit, gen)
            return gen - 1
        unit.asked_incidents |= MENDABLE & set(unit.degraded)
        self._count(unit)
        self._core.dispatch(unit, ev.RestartAsked())
        return gen

    def _count(self, unit: Unit, gen: int | None = None) -> None:
        unit.tally, warning = asked_for(unit.tally, unit.state.gen + 1 if gen is None else gen, monotonic())
        if warning is not None:
            self._core.note(unit, warning)

    def _restart_one(self, unit: Unit) -> int:
        gen = self._ask_restart(unit)
        self._remember()
        return gen

    def _wait(self, client: Client, request: dict[str, Any]) -> None:
        units = [unit for unit in self._core.units.values() if unit.wanted]
        self._settling.settle(client, {**request, "wait": True}, {unit.name: -1 for unit in units}, "ready")

    def _down(self, client: Client, request: dict[str, Any]) -> None:
        names = [unit.name for unit in self._core.units.values() if unit.child is not None]

        def ended(stuck: list[int]) -> None:
            exit_code = Exit.DEGRADED if stuck else Exit.OK
            client.answer({"v": PROTOCOL, "ok": True, "exit": int(exit_code), "stopped": names, "stuck": stuck})

        self._shutdown(self._core.shutting_down or request.get("hurry") is True, ended)

    def _upgrade(self, client: Client, request: dict[str, Any]) -> None:
        self._refuse_in_shutdown()
        if any(unit.leaving for unit in self._core.units.values()):
            raise RefusedError("what the last reload removed is still stopping", hint="try again in a moment")
        version = request.get("version")
        if not isinstance(version, str):
            raise UsageError("no version is named")
        client.waits = {"upgrade": version}
        self._ask_upgrade(client, version, timeout_of(request))

    def go_on(self, client: Client, version: str) -> None:
        """Go on with what a client waited for when the program before this one, of that version, was replaced."""
        waits = client.waits
        if waits is not None and "upgrade" in waits:
            running = sum(unit.child is not None for unit in self._core.units.values())
            reply = {"from": version, "to": __version__, "pid": os.getpid(), "instances": running}
            client.answer({"v": PROTOCOL, "ok": True, "exit": 0, **reply})
        elif waits is not None and "models" in waits:
            self._models.go_on(client, waits)
        elif waits is not None:
            self._settling.go_on(client, waits)
        elif client.asked and not client.answered:
            error = RefusedError("the supervisor was replaced while it was asked", hint="ask again")
            client.refuse(error)

    def _env(self, client: Client, request: dict[str, Any]) -> None:
        name = request.get("name")
        if not isinstance(name, str):
            raise UsageError("no instance is named")
        unit = select(self._core.units, [name])[0]
        # Without the mark: whatever a person starts with it would be taken for a process of the instance, and be ended.
        env = {key: value for key, value in self._environment(unit, self._program(unit)).items() if key not in MARKS}
        client.answer({"v": PROTOCOL, "ok": True, "exit": 0, "name": unit.name, "env": env})

    def _reload(self, client: Client, request: dict[str, Any]) -> None:
        self._refuse_in_shutdown()
        digest = request.get("digest")
        if not isinstance(digest, str):
            raise UsageError("no configuration is named")
        plan = self._reloading.plan(digest)
        if request.get("dry_run") is True:
            unchanged = len(plan.fleet.instances) - sum(
                plan.fleet.instance(change.name) is not None for change in plan.difference.changes
            )
            answer = {"v": PROTOCOL, "ok": True, "exit": 0, "plan": self._reloading.words(plan), "unchanged": unchanged}
            client.answer(answer)
            return
        started, stopped = self._reloading.apply(plan)
        self._settling.settle(client, request, {**stopped, **started}, "ready", stopping=stopped)

    def _sim(self, client: Client, request: dict[str, Any]) -> None:
        if self._simulate is None:
            raise RefusedError(
                "faults can only be made on a simulation, and this supervisor runs the real thing",
                hint="ollamux up --simulate 4 -d, then ollamux sim FAULT --simulated",
            )
        fault, target = request.get("fault"), request.get("target")
        if target is not None and not isinstance(target, str):
            raise UsageError("the target must be a name")
        words = self._simulate(None if fault is None else str(fault), target, request.get("clear") is True)
        client.answer({"v": PROTOCOL, "ok": True, "exit": 0, "words": words})

    def _refuse_in_shutdown(self) -> None:
        if self._core.shutting_down:
            raise RefusedError("the supervisor is stopping", hint="wait until it is down, then: ollamux up")


def needs_restart(unit: Unit) -> bool:
    """Whether a restart may mend what is wrong with an instance, each device fault once per incident."""
    if unit.state.phase in (Phase.FAILED, Phase.UNHEALTHY):
        return True
    return unit.state.phase is Phase.READY and bool((MENDABLE & set(unit.degraded)) - unit.asked_incidents)


def health_exit(core: Core) -> Exit:
    """Return the exit code of `status`: 0 where every wanted instance is READY and not degraded."""
    wanted = [unit for unit in core.units.values() if unit.wanted]
    well = all(unit.state.phase is Phase.READY and not unit.degraded for unit in wanted)
    return Exit.OK if well else Exit.DEGRADED


def _bounded(value: object, low: int, high: int, default: int) -> int:
    return min(high, max(low, value)) if isinstance(value, int) and not isinstance(value, bool) else default
