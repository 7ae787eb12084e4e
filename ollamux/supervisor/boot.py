"""From a fleet specification to a running supervisor, and back to nothing. Read top to bottom.

Configuration first, so that a typo disturbs nothing; then the lock, before anything is written; then what an earlier
supervisor left; then the socket; then the instances.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ollamux.domain import events as ev
from ollamux.domain.errors import Exit
from ollamux.domain.phases import Phase
from ollamux.domain.rules import HURRY_S, KILL_TIMEOUT_S, SWEEP_TIMEOUT_S
from ollamux.domain.spec import FleetSpec, InstanceSpec, Pinning
from ollamux.supervisor.core import Core
from ollamux.supervisor.effects import Effects
from ollamux.supervisor.folder import Folder
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.journal import Journal
from ollamux.supervisor.programs import check_programs, launcher_for
from ollamux.supervisor.recovery import Memory, recover
from ollamux.supervisor.server import Client, Server
from ollamux.supervisor.service import ServiceManager
from ollamux.supervisor.settle import settle_process
from ollamux.supervisor.starter import Starter
from ollamux.system import child
from ollamux.system.clock import monotonic
from ollamux.system.files import private_dir, sweep_drafts
from ollamux.system.logfile import drop_unfinished
from ollamux.system.notify_socket import NO_MANAGER, ManagerEnv
from ollamux.system.places import home, log_dir, runtime_dirs, state_dir

if TYPE_CHECKING:
    from ollamux.domain.placed import Placement
    from ollamux.supervisor.carried import Handover
    from ollamux.supervisor.vram import Vram
    from ollamux.supervisor.watch import Watch

GPU_PATIENCE_S = 0.5
"""Where no instance is pinned the cards are only shown, and are read after the instances have been started."""
VIEWER_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a supervisor is started with. `source` are the very bytes that `fleet` was read from."""

    fleet: FleetSpec
    source: bytes
    config: str | None
    env: Mapping[str, str]
    host_name: str
    box: str | None = None
    child_home: str | None = None
    hang_up: bool = True
    announce: Callable[[str], None] = lambda path: None
    attach: Callable[[], frozenset[int]] | None = None
    plain_output: int | None = None
    unicode: bool = True
    manager: ManagerEnv = NO_MANAGER


def supervise(launch: Launch, handed: Handover | None = None) -> int:
    """Run until told to stop. Returns the exit code; raises OllamuxError before anything was started.

    With `handed` go on in the place of the program that this one has replaced.
    """
    simulated = launch.box is not None
    state = state_dir(launch.env, simulated=simulated)
    configured = launch.fleet
    placement = placed_before(state)
    if placement is not None:
        from ollamux.domain.placed import with_spans

        launch = replace(launch, fleet=with_spans(configured, placement.spans))
    programs = check_programs(launch.fleet, launch.env) if handed is None else {}
    logs = log_dir(launch.env, simulated=simulated)
    private_dir(state)
    folder = Folder(state, logs=logs)
    if handed is not None:
        folder.lock.inherit(handed.lock)
    else:
        folder.claim(launch.env, simulated=simulated)
    try:
        private_dir(logs)
        sweep_drafts(state)
        drop_unfinished(logs)
        if launch.config is not None:
            folder.keep_config(launch.config)
        return _Supervisor(
            launch, folder, logs=logs, programs=programs, handed=handed, configured=configured, placement=placement
        ).run()
    finally:
        folder.lock.release()


def _simulation(launch: Launch) -> dict[str, str]:
    """Return what simulated servers are told besides: their box, and how much faster than real ones they are to be."""
    if launch.box is None:
        return {}
    told = {name: launch.env[name] for name in ("OLLAMUX_SIMULATION_SPEED",) if name in launch.env}
    return {"OLLAMUX_SIMULATION": launch.box, **told}


def placed_before(state: str) -> Placement | None:
    """Return what was placed before; most have nothing placed, and do not wait for what reads it."""
    if not os.path.exists(f"{state}/placement.json"):
        return None
    from ollamux.supervisor.placements import kept_placement

    return kept_placement(state)


def longest_stop_s(specs: Iterable[InstanceSpec]) -> float:
    """Return how long it takes at most until all instances are down, or given up."""
    longest = max((spec.restart.stop_timeout_s for spec in specs), default=0.0)
    return max(longest, HURRY_S) + SWEEP_TIMEOUT_S + KILL_TIMEOUT_S + 5.0


class _Supervisor:
    """Everything wired together."""

    def __init__(
        self,
        launch: Launch,
        folder: Folder,
        *,
        logs: str,
        programs: Mapping[str, str],
        handed: Handover | None,
        configured: FleetSpec,
        placement: Placement | None,
    ) -> None:
        settle_process(folder.path)
        self._launch, self._folder, self._handed = launch, folder, handed
        simulated = launch.box is not None
        owner = folder.owner(None if handed is None else handed.owner)
        self.core = core = Core(
            launch.fleet,
            journal=Journal(folder.path),
            owner=owner,
            log_dir=logs,
            configured=configured,
            placement=placement,
        )
        self.gpus = Gpus(core, source="simulated" if simulated else "auto", box=launch.box, env=launch.env)
        self.starter = Starter(
            core,
            self.gpus,
            env=launch.env,
            home=launch.child_home or home(launch.env),
            extra=_simulation(launch),
        )
        self.starter.launcher = launcher_for(launch.fleet.supervisor.on_death, launch.env)
        if handed is None:
            self._learn_versions(programs)
        else:
            self.starter.recall_versions(handed.versions)
        self.effects = Effects(core, self.starter)
        self.effects.collected_elsewhere = self._own_children
        self.memory = Memory(core, folder.path)
        self.server = Server(
            core.loop,
            lambda: runtime_dirs(launch.env, simulated=simulated),
            handle=self._handle,
            bound=folder.keep_socket,
        )
        self.service = ServiceManager(core, launch.manager)
        self._watch: Watch | None = None
        self._vram: Vram | None = None
        self._viewers: frozenset[int] = frozenset()
        self._ended: list[Callable[[list[int]], None]] = []
        self._over = False
        self.exit_code = 0

    def run(self) -> int:
        """Listen, recover, start, and watch until stopped."""
        core, launch = self.core, self._launch
        for number in (signal.SIGTERM, signal.SIGINT):
            core.loop.on_signal(number, lambda: self.shut_down(core.shutting_down, None))
        core.loop.on_signal(signal.SIGQUIT, lambda: self.shut_down(True, None))  # who quits does not want to wait
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means what it says
            core.loop.on_signal(signal.SIGHUP, self._hang_up)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the program before this one held all of them back
        clients: list[Client] = []
        if self._handed is None:
            self.server.listen()
        else:
            clients = self.server.take_over(self._handed.listener, self._handed.clients)
        try:
            early: list[dict[str, Any]] = []
            core.journal.listeners.append(early.append)
            if self.memory.warning is not None:
                core.note(None, self.memory.warning)
            if self._handed is None:
                recover(core, self.memory, self.effects, self._look_whether_down)
                self._start_wanted()
            else:
                self._take_over(self._handed)
            core.journal.listeners.remove(early.append)
            self._begin_to_watch(early, clients)
            self.service.ready()
            launch.announce(self.server.path)
            if launch.attach is not None:
                self._viewers = launch.attach()
            core.loop.run()
        finally:
            self.server.close()
            self.gpus.close()
            if self._watch is not None:
                self._watch.close()
            core.loop.close()
            self._see_off_viewers()
        return self.exit_code

    def _start_wanted(self) -> None:
        for unit in self.core.units.values():
            if unit.spec.enabled and not self.memory.of(unit.name).stopped and unit.child is None:
                self.core.dispatch(unit, ev.StartAsked())
        self.memory.plan()
        self._read_gpus()

    def _take_over(self, handed: Handover) -> None:
        from ollamux.supervisor.carry import take_over

        take_over(self.core, self.gpus, self.effects, handed, self._look_whether_down)
        self._viewers = frozenset(pid for pid in handed.viewers if child.is_ours(pid))
        self.memory.plan()
        self._read_gpus()

    def _read_gpus(self) -> None:
        pinned = any(spec.pinning is not Pinning.CPU and spec.enabled for spec in self._launch.fleet.instances)
        self.core.loop.call_later(0.0 if pinned else GPU_PATIENCE_S, self.gpus.begin)

    def _begin_to_watch(self, early: list[dict[str, Any]], clients: list[Client]) -> None:
        # Imported only now: the children start while we still load what watches them.
        from ollamux.supervisor.vram import Vram
        from ollamux.supervisor.watch import Watch

        self._vram = vram = Vram(self.core, self.gpus)
        self.effects.leader_gone, self.effects.ended = vram.leader_gone, vram.ended
        self.starter.vram_obstacle = vram.obstacle
        self.core.changed.append(lambda unit, before: self._look_whether_down())
        self._watch = Watch(
            self.core,
            self.gpus,
            self._launch,
            memory=self.memory,
            server=self.server,
            starter=self.starter,
            service=self.service,
            check=lambda fleet: check_programs(fleet, self._launch.env),
            shutdown=self.shut_down,
            carry=self._carry,
            look_after=self._folder.look_after,
        )
        if self._handed is None:
            self._watch.begin(early)
        else:
            vram.go_on(self._handed.units)
            self._watch.go_on(self._handed, clients)
            self._handed = None

    def _carry(self) -> Handover:
        from ollamux.supervisor.carry import handover

        assert self._vram is not None  # noqa: S101 - the loop begins after it
        self._folder.look_after()  # the new program finds a lock that is not in its place to be no lock
        core, lock, server = self.core, self._folder.lock.fileno(), self.server.carried()
        return handover(self._launch, core, lock, server, viewers=self._viewers, starter=self.starter, vram=self._vram)

    def _handle(self, client: Client, request: dict[str, Any]) -> None:
        assert self._watch is not None  # noqa: S101 - the loop, and with it every client, begins after it
        self._watch.requests.handle(client, request)

    def _see_off_viewers(self) -> None:
        """Let the viewer say its last words before the shell has its prompt back; a stopped one is not waited for."""
        until = monotonic() + VIEWER_PATIENCE_S
        for pid in self._viewers:
            handle = os.pidfd_open(pid)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(0.0, until - monotonic()) * 1000)
            os.close(handle)

    def _own_children(self) -> frozenset[int]:
        notified = frozenset[int]() if self._watch is None else self._watch.own_pids
        return self.gpus.own_pids | self._viewers | notified

    def _hang_up(self) -> None:
        if self._launch.hang_up:
            self.shut_down(self.core.shutting_down, None)

    def _learn_versions(self, programs: Mapping[str, str]) -> None:
        """Ask a program for its version where a key of the configuration depends on it: headroom."""
        wanted = {
            spec.ollama for spec in self._launch.fleet.instances if spec.headroom_bytes is not None and spec.enabled
        }
        for name in wanted:
            from ollamux.ollama.binary import binary_version

            self.starter.learn_version(programs[name], binary_version(programs[name], timeout_s=5.0))

    def shut_down(self, hurry: bool, done: Callable[[list[int]], None] | None) -> None:
        """Stop all instances, in parallel, then the supervisor. A second call, or signal, hurries."""
        if done is not None:
            self._ended.append(done)
        first = not self.core.shutting_down
        self.core.shutting_down = True
        if self._watch is not None:
            self._watch.observer.state = "stopping"
        self.core.dispatch_all(ev.ShutdownAsked(hurry=hurry))
        if first:
            total = longest_stop_s(unit.spec for unit in self.core.units.values())
            self.service.stopping(total + VIEWER_PATIENCE_S)
            self.core.loop.call_later(total, self._give_up)
        self._look_whether_down()

    def _look_whether_down(self) -> None:
        if not self.core.shutting_down or self.core.leftovers:
            return
        if all(unit.state.phase in (Phase.STOPPED, Phase.STUCK, Phase.FAILED) for unit in self.core.units.values()):
            self._give_up()

    def _give_up(self) -> None:
        """End, with everything down, or with what will not go by name."""
        if self._over:
            return
        self._over = True
        stuck = [unit.child.pid for unit in self.core.units.values() if unit.child is not None]
        stuck += self.core.leftovers
        self.exit_code = int(Exit.DEGRADED) if stuck else int(Exit.OK)
        for pid in stuck:
            self.core.note(None, f"pid {pid} could not be ended: it hangs in the kernel")
        self.memory.forget_intents()
        ended, self._ended = self._ended, []
        self.server.close()
        for done in ended:
            done(stuck)
        self.core.loop.stop()
