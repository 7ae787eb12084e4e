"""Watch the faults of one server while it runs, and act them out."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ollamux.gpu.simulated import EVERY, fault_path
from ollamux.simulation import faults
from ollamux.simulation.context import App, active_faults
from ollamux.simulation.errors import ApiError
from ollamux.simulation.options import Options
from ollamux.simulation.process import spawn
from ollamux.simulation.runners import ALIVE
from ollamux.simulation.store import MODEL

if TYPE_CHECKING:
    from ollamux.simulation.serve import Instance

_POLL_S = 0.03
_YOUNG_NS = 500_000_000
_FLOOD_CHUNK, _FLOOD_BYTES_S = 256 * 1024, 10_000_000


def watch(instance: Instance, app: App) -> None:
    """Look for faults in the background, as long as there is a box."""
    if instance.box is not None:
        threading.Thread(target=_watch, args=(instance, app, instance.box), daemon=True).start()


def _watch(instance: Instance, app: App, box: Path) -> None:
    folder = fault_path(box, "any", None).parent
    changed = -1
    known: frozenset[str] = frozenset()
    while True:
        stamp = _stamp(folder)
        # A second change within one tick of the file system leaves no trace of its own: a young stamp proves nothing.
        if stamp != changed or time.time_ns() - stamp < _YOUNG_NS:
            changed = stamp
            app.set_faults = seen = active_faults(box, instance.name)
            if "log-flood" in seen - known:
                threading.Thread(target=_flood, args=(app,), daemon=True).start()
            known = seen
            _act(instance, app, box, seen)
        time.sleep(_POLL_S)


def _stamp(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _act(instance: Instance, app: App, box: Path, seen: frozenset[str]) -> None:
    app.log.disk_full = "disk-full" in seen
    if not app.log.disk_full:
        app.log.failed = False
    if "crash" in seen and faults.consume(box, "crash", instance.name):
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit-code" in seen and faults.consume(box, "exit-code", instance.name):
        app.log.raw(b"Error: simulated failure: the server gives up\n")
        os._exit(1)
    if "hang-runner" in seen and faults.consume(box, "hang-runner", instance.name):
        _freeze_runners(app)
    if "orphan-runner" in seen and faults.consume(box, "orphan-runner", instance.name):
        _leave_orphans(app)
    if "port-taken" in seen and not instance.stopping:
        _give_port_away(instance, app, box)


def _freeze_runners(app: App) -> None:
    """Stop what is loaded in its tracks: it keeps its memory and its port, uses no CPU, and answers nothing."""
    if not ALIVE:
        _load_something(app)
    for runner in list(ALIVE):
        runner.freeze()


def _leave_orphans(app: App) -> NoReturn:
    if not ALIVE:
        _load_something(app)
    for runner in list(ALIVE):
        try:
            runner.detach()
        except (OSError, EOFError, ValueError):
            continue
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit


def _load_something(app: App) -> None:
    """Some faults need a runner: load the smallest model there is."""
    manifests = sorted(app.store.all(), key=lambda manifest: manifest.size)
    for manifest in manifests[:1]:
        layer = manifest.layer(MODEL)
        if layer is None:
            return
        path, head = app.store.blob(layer.digest), app.store.head(manifest)
        try:
            app.scheduler.release(app.scheduler.acquire(manifest, path, head, Options(), None, lambda: False))
        except ApiError:
            return


def _give_port_away(instance: Instance, app: App, box: Path) -> NoReturn:
    """Leave the port to a stranger: not our child, and nothing in its environment tells of us."""
    server = instance.server
    if server is None:
        raise RuntimeError("faults are watched only once the server serves")
    instance.stopping = True
    host, port = server.sock.getsockname()[:2]
    server.stop_listening()
    targets = (instance.name, EVERY)
    path = next((p for p in (fault_path(box, "port-taken", t) for t in targets) if p.exists()), box / "gone")
    env = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMUX_")}
    reader, writer = os.pipe()
    os.set_inheritable(writer, False)
    argv = [sys.executable, "-P", "-m", "ollamux.simulation.stranger", str(host), str(port), str(path)]
    null = os.open("/dev/null", os.O_WRONLY)
    pid = spawn(argv, env, stdout=writer, stderr=null)
    os.close(writer)
    os.waitpid(pid, 0)
    os.read(reader, 1)
    server.close()
    for runner in list(ALIVE):
        runner.kill()
    app.log.raw(f"Error: listen tcp {instance.host.address}: accept: connection aborted\n".encode())
    os._exit(1)


def _flood(app: App) -> None:
    line = b'time=2026-01-01T00:00:00.000Z level=DEBUG source=sched.go:999 msg="simulated log flood"\n'
    chunk = line * (_FLOOD_CHUNK // len(line))
    while "log-flood" in app.set_faults:
        app.log.raw(chunk)
        time.sleep(len(chunk) / _FLOOD_BYTES_S)
