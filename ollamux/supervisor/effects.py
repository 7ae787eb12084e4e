"""Carry out what the machine asks for, and report back what became of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import assert_never

from ollamux.domain import commands as cm
from ollamux.domain import events as ev
from ollamux.domain.instance import Instance
from ollamux.domain.phases import GOING_DOWN, SERVING, Phase
from ollamux.supervisor import family
from ollamux.supervisor.core import Core
from ollamux.supervisor.starter import Starter
from ollamux.supervisor.unit import Unit
from ollamux.system import logfile
from ollamux.system.child import Child, handled
from ollamux.system.clock import wall
from ollamux.system.reserve import spare

_TAIL_BYTES = 4096
STUCK_LOOK_S = 10.0
BLIND_LOOK_S = 0.05
"""How often to look at what there is no descriptor left to watch with."""
COLLECT_AFTER_S = 0.002
"""One look for dead orphans does for all that ends in this time, and comes after what replaces the dead."""


class Effects:
    """Acts on processes. Every signal goes through a handle that cannot mean anybody else."""

    def __init__(self, core: Core, starter: Starter) -> None:
        self._core = core
        self._starter = starter
        self.collected_elsewhere: Callable[[], frozenset[int]] = frozenset
        self.leader_gone: Callable[[Unit, list[int]], None] = lambda unit, left: None
        self.ended: Callable[[Unit], None] = lambda unit: None
        """These two are told of instances with cards alone."""
        self._collecting = False
        family.own_children()  # opened while there are descriptors to be had
        core.execute = self.execute
        core.loop.on_signal(signal.SIGCHLD, self.child_changed)
        core.changed.append(self._look_after_stuck)

    def execute(self, unit: Unit, command: cm.Command) -> None:
        """Carry out one command of the machine."""
        match command:
            case cm.Spawn():
                self._starter.spawn(unit, command.gen)
                if unit.child is not None:
                    self.watch(unit)
            case cm.TermLeader():
                self._signal_leader(unit, signal.SIGTERM)
            case cm.TermGroup():
                self._signal_rest(unit, signal.SIGTERM)
            case cm.KillGroup():
                self._kill(unit)
            case cm.Reap():
                self._reap(unit)
            case cm.EndRunner():
                if unit.child is not None:
                    family.signal_members(unit.mark, unit.child, [command.pid], signal.SIGKILL)
                    told = f"ended the hung runner (pid {command.pid}); the next request starts another"
                    self._core.note_soon(unit, told)  # after the change that asked for it
            case _:
                assert_never(command)

    def watch(self, unit: Unit) -> None:
        """Be told when the leader ends."""
        assert unit.child is not None  # noqa: S101 - called only once there is one
        self._core.loop.watch(unit.child.pidfd, read=lambda: self._leader_ended(unit))

    def adopt(self, unit: Unit, leader: Child) -> None:
        """Watch a process of an earlier supervisor."""
        unit.child = leader
        self.watch(unit)

    def take_over(self, unit: Unit, leader: Child, *, ended: bool) -> None:
        """Go on with a process of the program before this one, at whatever point of its life it is."""
        unit.child, unit.leader_ended = leader, ended
        if not ended:
            self.watch(unit)
        elif unit.state.phase in GOING_DOWN:
            self._core.loop.call_soon(lambda: self.look_at_members(unit))
        if unit.state.phase is Phase.STUCK:
            self._core.loop.call_soon(lambda: self._look_again(unit, unit.state.gen))

    def _known(self) -> frozenset[int]:
        return handled() | self.collected_elsewhere()

    def _signal_leader(self, unit: Unit, number: int) -> None:
        if unit.child is not None:
            unit.child.signal(number)
            unit.child.signal(signal.SIGCONT)  # a stopped process acts on SIGTERM only once it goes on

    def _signal_rest(self, unit: Unit, number: int) -> None:
        if unit.child is None:
            return
        rest = family.members(unit.mark, unit.child, self._known())
        family.signal_members(unit.mark, unit.child, rest, number)
        family.signal_members(unit.mark, unit.child, rest, signal.SIGCONT)
        self._watch_members(unit, rest)

    def _kill(self, unit: Unit) -> None:
        if unit.child is None:
            return
        self._signal_leader(unit, signal.SIGKILL)
        if unit.child.ours:
            # The leader is not reaped, so the number of its group cannot mean another group.
            try:
                os.killpg(unit.child.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        self._signal_rest(unit, signal.SIGKILL)

    def _look_after_stuck(self, unit: Unit, before: Instance) -> None:
        """Look now and then at what would not die: not every end of a process is told to us."""
        if unit.state.phase is Phase.STUCK and before.phase is not Phase.STUCK:
            self._look_again(unit, unit.state.gen)

    def _look_again(self, unit: Unit, gen: int) -> None:
        if unit.state.phase is Phase.STUCK and unit.state.gen == gen:
            self.look_at_members(unit)
            self._core.loop.call_later(STUCK_LOOK_S, lambda: self._look_again(unit, gen))

    def _reap(self, unit: Unit) -> None:
        self._forget_members(unit)
        if unit.child is not None:
            if unit.gpus:
                self.ended(unit)
            self._core.loop.unwatch(unit.child.pidfd)
            unit.child.reap()
            unit.child = None
        unit.forget_incarnation()

    def _leader_ended(self, unit: Unit) -> None:
        child = unit.child
        status = None if child is None else child.exit_status()
        if child is None or status is None:
            return
        self._core.loop.unwatch(child.pidfd)
        unit.leader_ended = True
        left = family.members(unit.mark, child, self._known())
        if unit.gpus:
            self.leader_gone(unit, left)
        code, by = status
        # SIGKILL leaves no time for a last word: what the log ends with was said of something else.
        words = self._words(unit) if unit.state.phase in SERVING and by != "SIGKILL" else None
        unit.last_exit_wall = wall()
        # What stands before the server says so with these two where it cannot run it (setpriv(1)); no server does.
        never_ran = code in (126, 127) and bool(self._starter.launcher) and unit.state.phase is Phase.STARTING
        event = ev.LeaderExited(
            gen=unit.state.gen, code=code, signal=by, members=bool(left), words=words, never_ran=never_ran
        )
        self._core.dispatch(unit, event)

    @spare()
    def _words(self, unit: Unit) -> str | None:
        try:
            from ollamux.ollama.words import last_words  # not needed until something dies

            tail = logfile.tail(unit.log_path, _TAIL_BYTES, since=unit.log_start)
        except OSError:
            return None
        return last_words(tail.decode("utf-8", "replace"))

    def _watch_members(self, unit: Unit, pids: list[int]) -> None:
        look_again_s = 0.0
        for pid in pids:
            if pid in unit.member_handles:
                continue
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            except OSError:
                look_again_s = BLIND_LOOK_S
                continue
            unit.member_handles[pid] = handle
            self._core.loop.watch(handle, read=lambda: self.look_at_members(unit))
        if not unit.member_handles and unit.state.phase in GOING_DOWN:
            self._core.loop.call_later(look_again_s, lambda: self.look_at_members(unit))

    def _forget_members(self, unit: Unit) -> None:
        for handle in unit.member_handles.values():
            self._core.loop.unwatch(handle)
            os.close(handle)
        unit.member_handles = {}

    def look_at_members(self, unit: Unit) -> None:
        """See whether anything of an incarnation whose leader has ended is left."""
        family.reap_orphans(self._known())
        child = unit.child
        if child is None or unit.state.phase not in (Phase.SWEEPING, Phase.KILLING, Phase.STUCK):
            return
        if not unit.leader_ended:
            # What has ended below a leader that has not stays readable: it must not be watched until the leader goes.
            # And the leader's own end must be told first, since it says how.
            self._forget_members(unit)
            return
        left = family.members(unit.mark, child, self._known())
        self._forget_members(unit)
        if left:
            if unit.state.phase is not Phase.SWEEPING:
                family.signal_members(unit.mark, child, left, signal.SIGKILL)  # some may be newer than the first kill
            self._watch_members(unit, left)
        else:
            self._core.dispatch(unit, ev.GroupEmptied(gen=unit.state.gen))

    def child_changed(self) -> None:
        """A child of ours ended, or one that fell to us: collect, soon, what is not collected elsewhere."""
        if not self._collecting:
            self._collecting = True
            self._core.loop.call_later(COLLECT_AFTER_S, self._collect)

    def _collect(self) -> None:
        self._collecting = False
        family.reap_orphans(self._known())
