"""`ollamux up` in all its forms: in the foreground, detached, made sure of by cron, and on simulated GPUs."""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ollamux.cli import quick, screen
from ollamux.cli.target import BETWEEN_S
from ollamux.cli.words import find, seconds
from ollamux.config.cache import cache_path, load_fleet
from ollamux.config.source import read_source
from ollamux.domain.errors import Exit, NotFoundError, OllamuxError, RefusedError, TimedOutError
from ollamux.protocol.client import connect
from ollamux.supervisor.forewarn import forewarnings
from ollamux.supervisor.programs import check_programs
from ollamux.system.clock import monotonic
from ollamux.system.files import is_locked, open_plain, private_dir, read_bounded
from ollamux.system.places import log_dir, state_dir

BOOT_PATIENCE_S = 30.0
"""How long a detached supervisor may take to listen; it does so before any instance is started."""
_MOST_TO_END_S = 2.0


def up(
    config: str | None,
    *,
    detach: bool,
    wait: bool,
    timeout: str,
    ensure: bool,
    simulate: int | None,
    quiet: bool,
) -> int:
    """Start the supervisor."""
    timeout_s = seconds(timeout, "--timeout")
    simulated = simulate is not None
    if is_running(simulated):
        if ensure:
            from ollamux.cli.hung import end_if_hung

            end_if_hung(simulated)
        if not ensure or _goes_on(simulated):
            return _running_already(simulated, ensure=ensure)
    path = prepare_simulation(simulate, config) if simulate is not None else _configuration(config, ensure=ensure)
    if path is None:
        return int(Exit.OK)
    if detach:
        return _detached(path, simulated=simulated, wait=wait, timeout_s=timeout_s, quiet=quiet, ensure=ensure)
    return quick.run(path, simulated=simulated)


def is_running(simulated: bool, env: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody holds the supervisor's lock, answering or not."""
    return is_locked(f"{state_dir(env, simulated=simulated)}/lock")


def _goes_on(simulated: bool) -> bool:
    """Whether somebody has the lock who is not just ending: the kernel takes socket and lock from it one by one."""
    until = monotonic() + BETWEEN_S
    while is_running(simulated):
        if _listens(simulated) or monotonic() > until:
            return True
        select.select([], [], [], 0.02)
    return False


def _listens(simulated: bool) -> bool:
    connection = connect(os.environ, simulated=simulated)
    if connection is None:
        return False
    connection.close()
    return True


def _running_already(simulated: bool, *, ensure: bool) -> int:
    if ensure:
        return int(Exit.OK)
    what = "a simulation" if simulated else "a supervisor"
    flag = " --simulated" if simulated else ""
    raise RefusedError(
        f"{what} is running already; nothing was changed",
        hint=f"ollamux status{flag} shows it, ollamux down{flag} ends it",
    )


def _configuration(explicit: str | None, *, ensure: bool) -> Path | None:
    """Return the file to run; without one, offer to write it. None: the person said no."""
    if explicit is None and ensure and not os.environ.get("OLLAMUX_CONFIG"):
        remembered = read_bounded(f"{state_dir(os.environ, simulated=False)}/config-path", 4096)
        if remembered is not None and os.path.isfile(remembered.decode(errors="replace").strip()):
            return Path(remembered.decode().strip())
    found = find(explicit)
    if found.path is not None:
        return found.path
    from ollamux.cli.hardware import has_ollama, read_gpus

    ways = "ollamux init writes one; ollamux up --simulate 4 shows everything on simulated GPUs"
    if not (screen.is_terminal(0) and screen.is_terminal(1)):
        places = ", ".join(str(place.path) for place in found.looked)
        raise NotFoundError(f"there is no configuration; looked at {places}", hint=ways)
    if not has_ollama() and not read_gpus().gpus:
        raise NotFoundError("there is no configuration, no GPU and no ollama on this machine", hint=ways)
    return _offer_init()


def _offer_init() -> Path | None:
    from ollamux.cli.configuration import init_path, initial_text, write_initial

    text, path = initial_text(), init_path(None)
    shown = "\n".join(line for line in text.splitlines() if line and not line.startswith("#"))
    screen.say(f"There is no configuration yet. For this machine it would be:\n\n{shown}\n\n")
    if not _agrees(f"Write it to {path}, with every option explained, and start? [Y/n] "):
        screen.say("nothing was written or started\n")
        return None
    written = write_initial(path, text, force=False)
    screen.say(f"wrote {written}\n")
    return written


def _agrees(question: str) -> bool:
    """Ask on the terminal; Ctrl-D and Ctrl-C are a no."""
    try:
        screen.say(question)
        # A signal that comes just before a blocking read is noticed only after it: look now and then instead.
        while not select.select([0], [], [], 0.2)[0]:
            pass
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = ""
    if not answer.endswith("\n"):
        screen.write("\n")
    return bool(answer) and answer.strip().lower() in ("", "y", "yes")


def prepare_simulation(count: int, config: str | None) -> Path:
    """Make the simulated box and its configuration; return the file to run."""
    from ollamux.simulation.prepare import prepare

    state = state_dir(os.environ, simulated=True)
    private_dir(os.path.dirname(state))
    private_dir(state)
    return prepare(Path(state), count, None if config is None else find(config).required())


def _detached(path: Path, *, simulated: bool, wait: bool, timeout_s: float, quiet: bool, ensure: bool) -> int:
    state = state_dir(os.environ, simulated=simulated)
    private_dir(state)
    fleet = load_fleet(read_source(path), str(path), cache_path(state))
    check_programs(fleet, os.environ)
    if not quiet:
        for warning in forewarnings(fleet, os.environ, simulated=simulated):
            screen.say(f"warning: {warning}\n", fd=2)
    flag = " --simulated" if simulated else ""
    try:
        _spawn(path, simulated=simulated)
        if wait:
            from ollamux.cli.progress import wait_until_ready

            return wait_until_ready(simulated=simulated, timeout_s=timeout_s, quiet=quiet)
    except RefusedError:
        if ensure and (is_running(simulated) or _listens(simulated)):
            return int(Exit.OK)  # another one was quicker, or runs on though its lock was removed
        raise
    except KeyboardInterrupt:
        way_out = f"ollamux status{flag} shows how far it is, ollamux down{flag} ends it"
        screen.say(f"\ninterrupted; the supervisor goes on by itself\n  {way_out}\n", fd=2)
        raise
    if not quiet:
        screen.say(f"the supervisor runs; ollamux status{flag} shows how far the instances are\n")
    return int(Exit.OK)


def _spawn(path: Path, *, simulated: bool) -> None:
    """Start a supervisor that survives this terminal; return once it listens, or raise what stopped it."""
    logs = log_dir(os.environ, simulated=simulated)
    private_dir(logs)
    read, write = os.pipe()
    out = _own_log(f"{logs}/supervisor.log")
    words = [sys.executable, "-P", "-m", "ollamux.supervisor", "--config", os.path.abspath(path), "--ready-fd", "3"]
    words += ["--simulated"] if simulated else []
    pid = os.posix_spawn(
        sys.executable,
        words,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, out, 2),
            (os.POSIX_SPAWN_DUP2, write, 3),
        ],
        setsid=True,
    )
    os.close(write)
    os.close(out)
    answer = _read_all(read)
    code, _, text = answer.partition("\n")
    if code.isdigit() and int(code) == Exit.OK:
        return
    # It has said all: whoever looks next is to find nothing of it. Not for ever, as it may hang over a dead disk.
    select.select([os.pidfd_open(pid)], [], [], _MOST_TO_END_S)
    if not code.isdigit():
        raise OllamuxError("the supervisor ended before it was ready", hint=f"see {logs}/supervisor.log")
    raise _passed_on(int(code), text)


def _own_log(path: str) -> int:
    """Open what the supervisor prints into; on a full or read-only disk that is lost, and it runs all the same.

    Servers that are to be taken over would otherwise have no supervisor for as long as the disk is so.
    """
    try:
        return open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return os.open(os.devnull, os.O_WRONLY)


def _passed_on(code: int, text: str) -> OllamuxError:
    message, _, hint = text.removeprefix("ollamux: ").rstrip("\n").partition("\n  ")
    kind = RefusedError if code == Exit.REFUSED else OllamuxError
    return kind(message, hint=hint or None, exit_code=Exit(code))


def _read_all(fd: int) -> str:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    data = b""
    until = time.monotonic() + BOOT_PATIENCE_S
    while poll.poll(max(0.0, until - time.monotonic()) * 1000):
        part = os.read(fd, 65536)
        if not part:
            os.close(fd)
            return data.decode(errors="replace")
        data += part
    raise TimedOutError(f"the supervisor did not listen within {BOOT_PATIENCE_S:g} s")
