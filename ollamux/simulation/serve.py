"""The command `ollama serve`: bind, tell, discover, serve; and what signals do to it."""

from __future__ import annotations

import base64
import errno
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from ollamux.simulation import environment, faults, mishaps
from ollamux.simulation.app import Site
from ollamux.simulation.context import App, active_faults
from ollamux.simulation.devices import Device, Discovery
from ollamux.simulation.environment import Host
from ollamux.simulation.eras import Era
from ollamux.simulation.golang import SECOND, binary_size, duration_text, now_ns, rfc3339
from ollamux.simulation.http import WILDCARDS, Server, listen
from ollamux.simulation.loading import Loader
from ollamux.simulation.logs import Log
from ollamux.simulation.memory import usable_bytes
from ollamux.simulation.process import sleep_through_signals, take_name
from ollamux.simulation.runners import ALIVE
from ollamux.simulation.scheduler import Scheduler
from ollamux.simulation.store import Store

_GIB = 1024**3
_SLOW_START_S = 20.0
_RESOLVER = "127.0.0.53:53"


class StartError(Exception):
    """The server cannot start; the text is what follows `Error: `."""


def serve(era: Era) -> int:
    """Run the server until a signal ends it."""
    take_name("ollama")
    try:
        Instance(era).run()
    except StartError as error:
        sys.stdout.flush()
        os.write(2, f"Error: {error}\n".encode())
    return 1


class Instance:
    """One running server."""

    def __init__(self, era: Era) -> None:
        self.era = era
        self.host = environment.listen_host()
        self.log = Log(era, environment.debug_level())
        self.box = environment.box()
        self.name = environment.instance()
        self.store = Store(environment.models())
        self.server: Server | None = None
        self.app: App | None = None
        self.discovery = Discovery(self.log, self.box, self.name)
        self.stopping = False

    def run(self) -> NoReturn:
        """Go through the recorded order of a start, then sleep until a signal comes."""
        if self.host.bad_port is not None:
            self._warn_of_port(early=True)
        self._ensure_key()
        sock = self._bind()
        at_start = active_faults(self.box, self.name)
        self.log.disk_full = "disk-full" in at_start
        if self.host.bad_port is not None:
            self._warn_of_port(early=False)
        self.log.info("config", "server config", env=environment.config_map(self.era, self._warn_of_variable))
        disabled = environment.flag("OLLAMA_NO_CLOUD")
        self.log.info("cloud", f"Ollama cloud disabled: {str(disabled).lower()}")
        self._prepare_store()
        shown = "[::]" if self.host.host in WILDCARDS else None
        port = sock.getsockname()[1]
        address = f"{shown}:{port}" if shown else Host(scheme="", host=_number(self.host.host), port=port).address
        self.log.info("listening", f"Listening on {address} (version {self.era.version})")
        self._obey_signals()
        devices = self._discover(disabled)
        app = self._app(Loader(self.log, devices))
        self._tell_context(app)
        self._delay(at_start)
        self.server = Server(sock, Site(app).handle)
        mishaps.watch(self, app)
        app.scheduler.start()
        threading.Thread(target=self.server.serve, daemon=True).start()
        sleep_through_signals()

    def _warn_of_variable(self, message: str, **values: object) -> None:
        self.log.warning("config.go:263", message, **values)

    def _warn_of_port(self, *, early: bool) -> None:
        bad = self.host.bad_port
        if not early:
            self.log.warning("config.go:51", "invalid port, using default", port=bad, default=self.host.port)
            return
        when = rfc3339(now_ns())[:19].replace("-", "/").replace("T", " ")
        line = f"{when} config.go:51: WARN invalid port, using default port={bad} default={self.host.port}\n"
        os.write(2, (line * 2).encode())

    def _ensure_key(self) -> None:
        """Make the key of the first start; whoever reads stdout is told of it."""
        home = environment.home()
        if not home:
            raise StartError("$HOME is not defined")
        folder = Path(home) / ".ollama"
        key = folder / "id_ed25519"
        if key.exists():
            return
        os.write(1, f"Couldn't find '{key}'. Generating new private key.\n".encode())
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            text = f"could not create directory mkdir {folder}: {(error.strerror or '').lower()}"
            raise StartError(text) from error
        raw = os.urandom(32)
        public = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + raw).decode()
        key.touch(mode=0o600)
        key.write_text("a simulated server has no private key\n", encoding="utf-8")
        key.with_suffix(".pub").write_text(public + "\n", encoding="utf-8")
        os.write(1, f"Your new public key is: \n\n{public}\n\n".encode())

    def _bind(self) -> socket.socket:
        host = self.host
        try:
            if host.host.isdigit():
                # The C library would take it for an address.
                raise socket.gaierror
            return listen(host.host, host.port)
        except socket.gaierror as error:
            raise StartError(f"listen tcp: lookup {host.host}: no such host") from error
        except OSError as error:
            text = (error.strerror or str(error)).lower()
            if error.errno == errno.EADDRNOTAVAIL:
                text = "cannot assign requested address"
            raise StartError(f"listen tcp {host.address}: bind: {text}") from error

    def _prepare_store(self) -> None:
        store = self.store
        try:
            store.root.mkdir(parents=True, exist_ok=True)
            store.blobs.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            path = error.filename if error.errno != errno.EEXIST else store.root
            text = "not a directory" if error.errno == errno.EEXIST else (error.strerror or "").lower()
            raise StartError(f"mkdir {path}: {text}: ensure path elements are traversable") from error
        if environment.flag("OLLAMA_NOPRUNE"):
            return
        try:
            store.manifests.mkdir(exist_ok=True)
            total, removed = store.prune()
        except OSError as error:
            call = "open" if str(error.filename).endswith("blobs") else "remove"
            raise StartError(f"{call} {error.filename}: {(error.strerror or '').lower()}") from error
        self.log.info("total", f"total blobs: {total}")
        for path, failure in removed:
            if failure is not None:
                why = (failure.strerror or "").lower()
                self.log.info("remove", f"couldn't remove file '{path}': remove {path}: {why}")
        self.log.info("removed", f"total unused blobs removed: {len(removed)}")

    def _discover(self, disabled: bool) -> tuple[Device, ...]:
        begun = time.monotonic_ns()
        if disabled:
            wait = duration_text(4 * 3600 * SECOND + now_ns() % (300 * SECOND))
            self._tell_sleep(wait, 0)
        if self.era.has_llama_server:
            self._tell_hydration(begun)
        if not disabled and not self.era.has_llama_server:
            self._tell_offline()
        if not disabled and self.era.has_llama_server:
            threading.Timer(0.003, self._tell_offline).start()
        return self.discovery.run()

    def _tell_hydration(self, begun: int) -> None:
        models = len(self.store.all())
        took = duration_text(time.monotonic_ns() - begun)
        message = "model list cache hydration complete"
        self.log.info("hydration", message, models=models, failures=0, elapsed=took)

    def _tell_offline(self) -> None:
        lookup = f"dial tcp: lookup ollama.com on {_RESOLVER}: no such host"
        url = f"https://ollama.com:443/api/tags?ts={now_ns() // SECOND}"
        self.log.warning("show-cache", "model show cloud cache hydration failed", error=f'Get "{url}": {lookup}')
        url = "https://ollama.com/api/experimental/model-recommendations"
        self.log.warning("recommendations", "model recommendations refresh failed", error=f'Get "{url}": {lookup}')
        self._tell_sleep(duration_text(250 * SECOND + now_ns() % (60 * SECOND)), 1)

    def _tell_sleep(self, wait: str, failures: int) -> None:
        message = "model recommendations cache sleep scheduled"
        self.log.info("recommendations-sleep", message, wait=wait, consecutive_failures=failures)

    def _app(self, loader: Loader) -> App:
        loopback = _number(self.host.host).startswith("127.") or self.host.host == "::1"
        scheduler = Scheduler(loader)
        self.app = App(
            log=self.log,
            store=self.store,
            scheduler=scheduler,
            loopback=loopback,
            box=self.box,
            instance=self.name,
            set_faults=active_faults(self.box, self.name),
        )
        return self.app

    def _tell_context(self, app: App) -> None:
        loader = app.scheduler.loader
        total = sum(usable_bytes(device.card) for device in loader.devices)
        tier = 262144 if total >= 47 * _GIB else 32768 if total >= 23 * _GIB else 4096
        message = "vram-based default context"
        self.log.info("context", message, total_vram=binary_size(total), default_num_ctx=tier)
        loader.default_context = loader.default_context or tier

    def _delay(self, at_start: frozenset[str]) -> None:
        """Play the faults that keep HTTP from answering; both end early when they are cleared."""
        until = time.monotonic() + _SLOW_START_S / environment.speed()
        while (
            "slow-start" in at_start
            and time.monotonic() < until
            and faults.is_active(self.box, "slow-start", self.name)
        ):
            time.sleep(0.03)
        while "never-ready" in at_start and faults.is_active(self.box, "never-ready", self.name):
            time.sleep(0.03)

    def _obey_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGQUIT, _dump)

    def _stop(self, number: int, _: object) -> None:
        """Close everything at once, kill the runners, leave: nothing is logged about it."""
        ignored = number == signal.SIGTERM and faults.is_active(self.box, "ignore-term", self.name)
        if ignored or self.stopping:
            return
        self.stopping = True
        self.discovery.kill()
        if self.server is not None:
            self.server.close()
        runners = list(ALIVE)
        for runner in runners:
            runner.kill(wait=False)
        for runner in runners:
            runner.ended.wait()
        if self.app is not None:
            for request, begun in list(self.app.in_flight.values()):
                took = time.monotonic_ns() - begun
                status = request.status or 200
                method, target = request.method, request.target
                self.log.access(status, took, request.client, method, target, wait=False)
            self.app.in_flight.clear()
        os._exit(0)


def _number(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _dump(*_: object) -> None:
    """Print what a Go program prints on SIGQUIT, about 19 kB, and exit with 2."""
    lines = ["SIGQUIT: quit", "PC=0x0 m=0 sigcode=0", ""]
    for routine in range(1, 60):
        lines += [f"goroutine {routine} [select, 1 minutes]:", "runtime.gopark(0x0, 0x0, 0x0, 0x0, 0x0)"]
        lines += ["\t/usr/local/go/src/runtime/proc.go:435 +0xce fp=0x0 sp=0x0 pc=0x0"]
        lines += ["created by github.com/ollama/ollama/server.Serve in goroutine 1", "\t/src/server/routes.go +0x0", ""]
    os.write(2, ("\n".join(lines) + "\n").encode())
    os._exit(2)
