"""Bugs, planted into a supervisor of a chaos run to see that they are found. Each breaks one invariant.

Only what belongs to the run is ever signalled: OX_NVML names its folder.
"""

import dataclasses
import os
import signal
import threading


def _ours(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return f"{os.environ['OX_NVML']}/".encode() in file.read()
    except OSError:
        return False


def impatient():
    """I1: starts the next one at once, and ends what the last one left later."""
    from ollamux.supervisor import family

    real = family.members

    def hurried(mark, leader, known):
        left = real(mark, leader, known)
        if left:
            threading.Timer(0.7, lambda: [os.kill(pid, signal.SIGKILL) for pid in left if _ours(pid)]).start()
        return []

    family.members = hurried


def no_sweep():
    """I2: never looks for what a server leaves."""
    from ollamux.supervisor import family

    family.members = lambda mark, leader, known: []


def by_name():
    """I3: ends whatever has the right name."""
    from ollamux.supervisor.effects import Effects

    real = Effects._signal_leader

    def signal_leader(self, unit, number):
        real(self, unit, number)
        for name in os.listdir("/proc"):
            if name.isdigit() and _ours(name):
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if file.read().startswith(b"ollama\0"):
                        os.kill(int(name), signal.SIGTERM)

    Effects._signal_leader = signal_leader


def stale_pid():
    """I3: believes the numbers in the state file."""
    from ollamux.supervisor import family, recovery

    real = recovery._adopt

    def adopt(core, effects, unit, known, running):
        if known.pid is not None and known.pid not in family.marked(core.owner) and _ours(known.pid):
            os.kill(known.pid, signal.SIGTERM)
        return real(core, effects, unit, known, running)

    recovery._adopt = adopt


def forgetful():
    """I4: does not write down that an instance was stopped."""
    from ollamux.supervisor import recovery

    real = recovery._remembered
    recovery._remembered = lambda unit: dataclasses.replace(real(unit), stopped=False)


def no_respawn():
    """I5: leaves a server that died where it is."""
    from ollamux.domain import moves

    moves.restarts_after_exit = lambda restart, code: False


def leak():
    """I6: loses a descriptor with every question."""
    from ollamux.supervisor.requests import Requests

    real = Requests._status

    def status(self, client, request):
        os.open("/dev/null", os.O_RDONLY)
        real(self, client, request)

    Requests._status = status


def broken_command():
    """I6: fails where it should answer."""
    from ollamux.supervisor.requests import Requests

    def restart(self, client, request):
        raise RuntimeError("planted")

    Requests._restart = restart


PLANTS = (
    *(impatient, no_sweep, by_name, stale_pid, forgetful, no_respawn),
    *(leak, broken_command),
)


def plant(name):
    """Plant one."""
    next(function for function in PLANTS if function.__name__ == name)()
