"""What watches the instances once they have been started: checks, views, requests, upkeep. Wiring only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ollamux.config.warn import start_warnings
from ollamux.domain.phases import Phase
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.devices import Devices
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.notify import Notifier
from ollamux.supervisor.preload import Preload
from ollamux.supervisor.recovery import Memory
from ollamux.supervisor.requests import Requests
from ollamux.supervisor.server import Server
from ollamux.supervisor.unit import Unit
from ollamux.supervisor.upkeep import Upkeep
from ollamux.supervisor.view import Observer
from ollamux.supervisor.waiters import Waiters
from ollamux.system.places import home

if TYPE_CHECKING:
    from ollamux.supervisor.boot import Launch

LEISURE_S = 0.5


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
        environment: Callable[[Unit], Mapping[str, str]],
        shutdown: Callable[[bool, Callable[[list[int]], None] | None], None],
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
        Preload(core, self.checks)
        self.notifier = Notifier(core, launch.fleet.supervisor.notify, env=launch.env)
        self.requests = Requests(
            core,
            self.observer,
            Waiters(core),
            shutdown=shutdown,
            remember=lambda: memory.write(sync=True),
            environment=environment,
            simulate=self._simulate if simulated else None,
        )
        gpus.listeners.append(self._on_gpus)

    def begin(self, early: list[dict[str, Any]]) -> None:
        """Catch up with what has been started, and tell what was recorded, before the loop runs."""
        launch = self._launch
        if launch.plain_output is not None:
            from ollamux.supervisor.console import Console

            width = max((len(spec.name) for spec in launch.fleet.instances), default=0)
            console = Console(self._core.loop, launch.plain_output, unicode=launch.unicode, name_width=width)
            for event in early:
                console.event(event)
            self._core.journal.listeners.append(console.event)
        for warning in start_warnings(launch.fleet, root=os.geteuid() == 0 and launch.box is None):
            self._core.note(None, f"warning: {warning}")
        for unit in self._core.units.values():
            self.checks.begin(unit)
        self._core.loop.call_later(LEISURE_S, self._at_leisure)
        self.observer.state = "running"

    def _at_leisure(self) -> None:
        """Import what is needed later: an installer may replace files under a running program."""
        import difflib  # noqa: F401
        import fnmatch  # noqa: F401

        import ollamux.ollama.words
        import ollamux.render.table  # noqa: F401

        launch = self._launch
        self.upkeep = Upkeep(
            self._core, self._server, self.observer, self._memory, config=launch.config, source=launch.source
        )

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
