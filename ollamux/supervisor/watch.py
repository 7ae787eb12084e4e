"""What watches the instances once they have been started: checks, views, requests, upkeep. Wiring only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ollamux import __version__
from ollamux.config.cache import cache_path
from ollamux.domain.instance import Instance
from ollamux.domain.phases import Phase
from ollamux.domain.spec import FleetSpec, InstanceSpec
from ollamux.supervisor import leisure
from ollamux.supervisor.autoplace import AutoPlace
from ollamux.supervisor.canary import Canaries
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.devices import Devices
from ollamux.supervisor.forewarn import forewarnings
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.loads import Loads
from ollamux.supervisor.models import Models
from ollamux.supervisor.notify import Notifier
from ollamux.supervisor.placements import Placements
from ollamux.supervisor.preload import Preload
from ollamux.supervisor.pulls import Pulls
from ollamux.supervisor.recovery import Memory
from ollamux.supervisor.reload import Plan, Reload
from ollamux.supervisor.requests import Requests
from ollamux.supervisor.server import Client, Server
from ollamux.supervisor.service import ServiceManager
from ollamux.supervisor.starter import Starter
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.upkeep import Upkeep
from ollamux.supervisor.view import Observer
from ollamux.supervisor.waiters import Waiters
from ollamux.system.patience import patiently
from ollamux.system.places import home, state_dir

if TYPE_CHECKING:
    from ollamux.supervisor.boot import Launch
    from ollamux.supervisor.calibration import Calibrations
    from ollamux.supervisor.carried import Handover
    from ollamux.supervisor.console import Console
    from ollamux.supervisor.upgrade import Upgrade

LEISURE_S = 0.5
LOAD_AGAIN_S = 5.0


def _name_width(fleet: FleetSpec) -> int:
    return max((len(spec.name) for spec in fleet.instances), default=0)


class Watch:
    """Everything that looks at the instances and speaks about them."""

    def __init__(
        self,
        core: Core,
        gpus: Gpus,
        launch: Launch,
        *,
        memory: Memory,
        server: Server,
        starter: Starter,
        service: ServiceManager,
        check: Callable[[FleetSpec], object],
        shutdown: Callable[[bool, Callable[[list[int]], None] | None], None],
        carry: Callable[[], Handover],
        look_after: Callable[[], bool],
    ) -> None:
        self._core = core
        self._gpus = gpus
        self._launch = launch
        self._server = server
        self._memory = memory
        simulated = launch.box is not None
        self.devices = Devices(core, gpus)
        self.checks = Checks(core, self.devices, home=launch.child_home or home(launch.env))
        self.observer = Observer(
            core, gpus, pid=os.getpid(), host=launch.host_name, config=launch.config, simulated=simulated
        )
        self.loads = Loads(core)
        self.pulls = Pulls(core, home=self.checks.home)
        self.preload = Preload(core, self.checks, gpus, self.loads, self.pulls)
        self.calibrations: Calibrations | None = None
        self.console: Console | None = None
        self.upkeep: Upkeep | None = None
        self._warned: tuple[str, ...] = ()
        self._source = launch.source
        state = state_dir(launch.env, simulated=simulated)
        reload = Reload(core, gpus, starter, memory, service, cache=cache_path(state), check=check)
        reload.applied.append(self._after_reload)
        self.canaries = Canaries(core, self.checks)
        self.notifier = Notifier(core, launch.fleet.supervisor.notify, env=launch.env)
        self.models = Models(
            core,
            self.checks,
            gpus,
            self.loads,
            self.pulls,
            preload=self.preload,
            remember=self._pinned,
            program=starter.program,
        )
        self.placements = Placements(core, self.checks, self.preload, self.models.unloads, reload=reload, folder=state)
        self.autoplace = AutoPlace(core, gpus, self.pulls, env=launch.env, simulated=simulated)
        self.models.drop_placed = self.placements.drop
        self.placements.placed.append(self.autoplace.placed)
        self.requests = Requests(
            core,
            self.observer,
            Waiters(core),
            models=self.models,
            place=self.placements.place,
            shutdown=shutdown,
            upgrade=self._upgrade,
            remember=lambda: memory.write(sync=True),
            program=starter.program,
            environment=starter.environment,
            reload=reload,
            simulate=self._simulate if simulated else None,
        )
        self._carry, self._look_after = carry, look_after
        self._upgrading: Upgrade | None = None
        gpus.listeners.append(self._on_gpus)

    @property
    def own_pids(self) -> frozenset[int]:
        """Our own children that are collected where they were started, and nowhere else."""
        return self.notifier.pids | self.autoplace.pids

    def close(self) -> None:
        """End what runs beside the instances."""
        self.notifier.close()
        self.autoplace.close()

    def _pinned(self) -> None:
        self._memory.write(sync=True)
        self.autoplace.look()

    def begin(self, early: list[dict[str, Any]]) -> None:
        """Catch up with what has been started, and tell what was recorded, before the loop runs."""
        launch = self._launch
        self._begin_to_print()
        if self.console is not None:
            for event in early:
                self.console.event(event)
        self._warn(launch.fleet)
        for unit in self._core.units.values():
            self.checks.begin(unit)
        self._core.loop.call_later(LEISURE_S, self.at_leisure)
        self._core.changed.insert(0, self._before_the_last_ready)  # nobody may hear of it before all is loaded
        self.observer.state = "running"
        if launch.manager.address is not None:
            self.at_leisure()  # it is told READY=1 next

    def _begin_to_print(self) -> None:
        launch = self._launch
        if launch.plain_output is not None:
            from ollamux.supervisor.console import Console

            self.console = Console(self._core.loop, launch.plain_output, unicode=launch.unicode)
            self.console.name_width = _name_width(launch.fleet)
            self._core.journal.listeners.append(self.console.event)

    def go_on(self, handed: Handover, clients: list[Client]) -> None:
        """Go on from where the program before this one was; whoever waits goes on waiting."""
        leisure.load(simulated=handed.simulated)  # nobody waits for a start, and an installer may still be at work
        self._begin_to_print()
        if self.console is not None:
            self.console.unwritten = handed.plain_unwritten.encode("latin-1")
        self.notifier.told = dict(handed.told)
        self.observer.go_on(started_wall=handed.started_wall, started=handed.started)
        self.observer.config_changed = handed.config_changed
        self.observer.state = "running"
        running = sum(unit.child is not None for unit in self._core.units.values())
        what = f"{running} instance{'' if running == 1 else 's'} untouched"
        self._core.note(None, f"upgraded: supervisor {handed.version} -> {__version__}, pid {os.getpid()}, {what}")
        self._warned = handed.warned
        canaries = {unit.name: unit.canary for unit in handed.units}
        loads = {unit.name: unit.loads for unit in handed.units}
        for unit in self._core.units.values():
            self.checks.begin(unit)
            self.checks.go_on(unit)
            self.canaries.go_on(unit, canaries.get(unit.name))
            self.notifier.look(unit)
            self.models.go_on_loading(unit, loads.get(unit.name, ()))
        for client in clients:
            self.requests.go_on(client, handed.version)
        self._core.loop.call_later(LEISURE_S, self.at_leisure)

    def _upgrade(self, client: Client, version: str, timeout_s: float) -> None:
        if self._upgrading is None:
            from ollamux.supervisor.upgrade import Upgrade

            self._upgrading = Upgrade(
                self._core, collect=self._collect, ready=self._before_upgrade, manager=self._launch.manager
            )
        self._upgrading.ask(client, version, timeout_s)

    def _before_upgrade(self) -> None:
        self._core.tell()
        if self.console is not None:
            self.console.flush()
        self._memory.write(sync=False)

    def _collect(self) -> Handover:
        from ollamux.gpu.codec import inventory_to_json

        machine, console = self._gpus.machine, self.console
        return replace(
            self._carry(),
            source=self._source.decode("latin-1"),
            plain_unwritten="" if console is None else console.unwritten.decode("latin-1"),
            inventory=None if machine is None else inventory_to_json(machine),
            sampled_at=self._gpus.sampled_at,
            warned=self._warned,
            told=dict(self.notifier.told),
            started_wall=self.observer.started_wall,
            started=self.observer.started,
            config_changed=self.observer.config_changed,
        )

    def at_leisure(self) -> None:
        """Do what a start need not wait for, once: before the last READY is told, or before READY=1."""
        if self.upkeep is not None:
            return
        self.upkeep = Upkeep(
            self._core,
            self._server,
            self.observer,
            self._memory,
            config=self._launch.config,
            source=self._source,
            folder=self._look_after,
        )
        self._load_the_rest()

    def _before_the_last_ready(self, unit: Unit, before: Instance) -> None:
        if not any(unit.state.phase in (Phase.STARTING, Phase.WAITING) for unit in self._core.units.values()):
            self._core.changed.remove(self._before_the_last_ready)
            self.at_leisure()

    def _load_the_rest(self) -> None:
        simulated = self._launch.box is not None
        try:
            leisure.load(simulated=simulated)
        except OSError:  # no descriptor left, or a disk that does not answer: what is there goes on
            self._core.loop.call_later(LOAD_AGAIN_S, self._load_the_rest)
            return
        from ollamux.supervisor.calibration import Calibrations

        folder = state_dir(self._launch.env, simulated=simulated)
        self.calibrations = Calibrations(self._core, self._gpus, self.checks.listeners, folder=folder)

    def _warn(self, fleet: FleetSpec) -> None:
        """Say what was not said before."""
        env, simulated = self._launch.env, self._launch.box is not None
        try:
            told = patiently("what a start risks", lambda: forewarnings(fleet, env, simulated=simulated))
        except TimeoutError:
            return
        for warning in told:
            if warning not in self._warned:
                self._core.note(None, f"warning: {warning}")
        self._warned = told

    def _after_reload(self, plan: Plan, old: Mapping[str, InstanceSpec]) -> None:
        """Let everybody who keeps something of the configuration follow it."""
        if plan.source is not None:
            self._source = plan.source
            self.observer.config_changed = False
            if self.upkeep is not None:
                self.upkeep.replace_source(plan.source)
        self.notifier.argv = list(plan.fleet.supervisor.notify)
        if self.console is not None:
            self.console.name_width = _name_width(plan.fleet)
        for unit in self._core.units.values():
            before = old.get(unit.name)
            if before is None:
                continue
            if before.health != unit.spec.health:
                self.checks.change(unit)
            if (before.preload, before.pull) != (unit.spec.preload, unit.spec.pull):
                self.preload.change(unit, before.preload)
        self._gpus.begin_again()
        self._memory.write(sync=True)
        self._warn(plan.fleet)
        self.autoplace.look()

    def _on_gpus(self) -> None:
        for unit in self._core.units.values():
            unit.gpus = tuple(self._gpus.current(unit.gpus))
            if unit.state.phase is Phase.READY:
                self.devices.judge_gpus(unit)
                self.notifier.look(unit)

    def _simulate(self, fault: str | None, target: str | None, clear: bool) -> str:
        from ollamux.simulation.control import make

        assert self._launch.box is not None  # noqa: S101 - offered only then
        return make(self._launch.box, fault, target, clear_all=clear, instances=list(self._core.units))
