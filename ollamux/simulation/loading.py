"""Start a runner for a model and wait until it is ready: arguments, log lines, time-outs.

When, and who has to go for it, is the scheduler's matter.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import sample
from ollamux.simulation import environment, faults, llama_log, memory
from ollamux.simulation.devices import Device, missing_text
from ollamux.simulation.errors import ApiError
from ollamux.simulation.gguf import Gguf
from ollamux.simulation.golang import SECOND, binary_size
from ollamux.simulation.logs import ERROR, Log
from ollamux.simulation.memory import MIB, Plan, Wish, free_bytes, plan, prediction_bytes
from ollamux.simulation.options import AUTOMATIC, Options
from ollamux.simulation.process import program
from ollamux.simulation.runner import DEVICES
from ollamux.simulation.runners import RunnerProcess, free_port
from ollamux.simulation.store import Manifest

_POLL_S = 0.01
_CLIENT_LOOK_S = 0.05
_FIT_SHARE = 0.8


class Loader:
    """Knows the devices of this server and starts runners on them."""

    def __init__(self, log: Log, devices: Sequence[Device]) -> None:
        self.log, self.devices = log, devices
        self.era = log.era
        self.box = environment.box()
        self.instance = environment.instance()
        self.parallel = max(1, environment.number("OLLAMA_NUM_PARALLEL", 1))
        self.kv_type = environment.variable("OLLAMA_KV_CACHE_TYPE").lower()
        self.default_context = environment.number("OLLAMA_CONTEXT_LENGTH", 0)

    def context(self, options: Options, head: Gguf) -> int:
        """Return the context a request really gets: what it asks for, at most what the model was trained for."""
        asked = int((options.num_ctx if options.num_ctx not in (None, 0, -1) else self.default_context) or 0)
        return min(asked or 4096, int(head.get("context_length")) or asked)

    def slots(self, head: Gguf) -> int:
        """Return how many requests a runner serves at once."""
        return 1 if "bert" in head.architecture else self.parallel

    def free(self, device: Device) -> int:
        """Return the free memory of a device now; a lost one is told and has what it had."""
        card = self._card(device)
        if card is None:
            self.log.warning("refresh", "unable to refresh free memory, using old values")
            return free_bytes(device.card)
        return free_bytes(card)

    def _card(self, device: Device) -> Gpu | None:
        found = (card for card in sample(self.box) if card.uuid == device.card.uuid) if self.box else iter(())
        return next((card for card in found if card.state == "ok"), None)

    def chosen(self, need: int, options: Options) -> list[Device]:
        """Return the devices for a model: one with room for it, else all of the best library."""
        if options.num_gpu == 0 or not self.devices:
            return []
        if options.main_gpu is not None and 0 <= options.main_gpu < len(self.devices):
            return [self.devices[options.main_gpu]]
        room = {device.name: self.free(device) for device in self.devices}
        best = max(self.devices, key=lambda device: room[device.name])
        spread = environment.flag("OLLAMA_SCHED_SPREAD")
        if len(self.devices) > 1 and not spread and need <= room[best.name] * _FIT_SHARE:
            return [best]
        return [device for device in self.devices if device.library == best.library]

    def fits(self, need: int) -> bool:
        """Say whether a model is expected to fit beside what is loaded."""
        return not self.devices or need <= _FIT_SHARE * max(self.free(device) for device in self.devices)

    def need(self, head: Gguf, manifest_size: int, options: Options) -> int:
        """Return the rough need of a model in bytes."""
        return prediction_bytes(head, manifest_size, self.context(options, head) * self.slots(head))

    def load(
        self, manifest: Manifest, path: Path, head: Gguf, options: Options, aborted: Callable[[], bool]
    ) -> tuple[RunnerProcess, tuple[int, int]]:
        """Load a model and return its runner and (size, size_vram); ApiError where it fails."""
        context = self.context(options, head)
        wish = self._wish(head, options, context)
        devices = self.chosen(self.need(head, path.stat().st_size, options), options)
        full = str(path)
        new = self.era.has_llama_server
        if not new:
            self._print_head(head, full)
        elif not devices:
            self.log.info("mmap", "disabling mmap for llama-server load by default", model=full, reason="cpu")
        if new:
            self.log.info("using", "using llama-server for model", model=full)
        asked = options.num_ctx if options.num_ctx not in AUTOMATIC else self.default_context
        trained = int(head.get("context_length"))
        if asked and asked > trained:
            message = "requested context size too large for model"
            self.log.warning("too-large", message, num_ctx=asked, n_ctx_train=trained)
        port = free_port()
        argv = self._argv(full, port, head, wish, options, devices)
        self._check_binary(manifest)
        begun = time.monotonic()
        self.log.info("start-runner", f"starting {'llama-server' if new else 'runner'}", cmd=" ".join(argv))
        runner = RunnerProcess(argv, self._environment(devices), port, self.log)
        placed = None if new else self._old_plan(head, wish, devices)
        self._tell_memory(devices, full, placed, head, options)
        try:
            self._wait(runner, begun, wish, placed, aborted, manifest, full)
        except ApiError:
            runner.kill()
            raise
        return runner, self._sizes(runner, placed, head)

    def batch(self, options: Options, head: Gguf, context: int) -> int:
        """Return how many tokens a runner takes at once."""
        if options.num_batch is not None or not self.era.has_llama_server:
            return options.num_batch or memory.SMALLEST_BATCH
        return memory.automatic_batch(head, context, self.slots(head), flash=self._flash() != "off")

    def _wish(self, head: Gguf, options: Options, context: int) -> Wish:
        forced = options.num_gpu if options.num_gpu is not None and options.num_gpu >= 0 else None
        old_overhead = 0 if self.era.has_llama_server else environment.number("OLLAMA_GPU_OVERHEAD", 0)
        margin = environment.number("LLAMA_ARG_FIT_TARGET", 1024) if self.era.has_llama_server else 457
        return Wish(
            context=context,
            parallel=self.slots(head),
            batch=self.batch(options, head, context),
            kv_type=self.kv_type or "f16",
            layers=forced,
            margin_bytes=margin * MIB + old_overhead,
            halve=faults.is_active(self.box, "spill", self.instance),
        )

    def _argv(
        self, path: str, port: int, head: Gguf, wish: Wish, options: Options, devices: Sequence[Device]
    ) -> list[str]:
        programs = environment.programs()
        if not self.era.has_llama_server:
            return [*program(programs, "bin/ollama", "ollama"), "runner", "--model", path, "--port", str(port)]
        argv = [*program(programs, "lib/ollama/llama-server", "llama_server"), "--model", path, "--port", str(port)]
        argv += ["--host", "127.0.0.1", "--no-webui", "--offline", "-c", str(wish.context * wish.parallel)]
        argv += ["-np", str(wish.parallel), "--log-verbosity", "4", "--no-log-prefix", "--no-log-timestamps"]
        embeds = "bert" in head.architecture
        argv += [] if embeds else ["--no-jinja", "--chat-template", "chatml"]
        argv += [] if devices else ["--load-mode", "none"]
        argv += ["--cache-type-k", self.kv_type, "--cache-type-v", self.kv_type] if self.kv_type else []
        argv += ["--flash-attn", self._flash()]
        argv += ["--embedding"] if embeds else []
        argv += ["-b", str(wish.batch), "-ub", str(wish.batch)]
        argv += ["-ngl", str(options.num_gpu)] if options.num_gpu is not None and options.num_gpu >= 0 else []
        argv += ["-t", str(options.num_thread)] if options.num_thread else []
        argv += ["--split-mode", "none", "--main-gpu", "0"] if len(devices) == 1 < len(self.devices) else []
        return argv if embeds else [*argv, "--context-shift", "--keep", "4"]

    def _flash(self) -> str:
        text = environment.variable("OLLAMA_FLASH_ATTENTION")
        return "auto" if not text else "on" if environment.flag("OLLAMA_FLASH_ATTENTION") else "off"

    def _environment(self, devices: Sequence[Device]) -> dict[str, str]:
        env = dict(os.environ)
        programs = environment.programs()
        library = str(programs / "lib/ollama") if programs else "/usr/local/lib/ollama"
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, [library, env.get("LD_LIBRARY_PATH", "")]))
        env[DEVICES] = ",".join(f"{device.name}={device.card.uuid}" for device in devices)
        if not self.era.has_llama_server:
            return env | {"OLLAMA_LIBRARY_PATH": library}
        env["LLAMA_MEDIA_MARKER"] = f"<__ollama_media_{os.urandom(16).hex()}__>"
        tokens = [device.filter_id for device in devices if device.library == "CUDA" and device.filter_id]
        return env | ({"CUDA_VISIBLE_DEVICES": ",".join(tokens)} if tokens else {})

    def _check_binary(self, manifest: Manifest) -> None:
        programs = environment.programs()
        if programs is None or not self.era.has_llama_server or (programs / "lib/ollama/llama-server").exists():
            return
        error = f"error starting llama-server: {missing_text(programs)} "
        self.log.info("create-failed", "failed to create server", model=manifest.name.short, error=error)
        raise ApiError(500, error)

    def _tell_memory(
        self, devices: Sequence[Device], path: str, placed: Plan | None, head: Gguf, options: Options
    ) -> None:
        self.log.info("system-memory", "system memory", total="23.5 GiB", free="23.1 GiB", free_swap="0 B")
        overhead = environment.number("OLLAMA_GPU_OVERHEAD", 0)
        for device in devices:
            # Values and order: llm/llama_server.go at v0.32.15; unverified on hardware.
            free = self.free(device)
            self.log.info(
                "gpu-memory",
                "gpu memory",
                id=device.ordinal if self.era.has_llama_server else device.card.uuid,
                library=device.library,
                available=binary_size(max(0, free - 457 * MIB - overhead)),
                free=binary_size(free),
                minimum="457.0 MiB",
                overhead=binary_size(overhead),
            )
        if placed is None:
            self.log.info("loading", "loading model via llama-server", model=path)
            return
        requested = -1 if options.num_gpu is None else options.num_gpu
        self.log.info("loading", "loading model", model__layers=placed.layers, requested=requested)
        self._tell_old_plan(placed, head)

    def _tell_old_plan(self, placed: Plan, head: Gguf) -> None:
        host = placed.host.model - _embedding_bytes(head)
        shares = [*placed.devices] + ([placed.host] if host > 0 or not placed.devices else [])
        for message, place, part in (("model weights", "device.go:245", "model"), ("kv cache", "device.go:256", "kv")):
            for share in shares:
                size = host if share is placed.host and part == "model" else getattr(share, part)
                if size:
                    self.log.info(place, message, device=share.name, size=binary_size(size))
        for share in placed.devices:
            self.log.info("device.go:267", "compute graph", device=share.name, size=binary_size(share.compute))
        total = sum(share.total for share in placed.devices) + host + placed.host.kv
        self.log.info("device.go:272", "total memory", size=binary_size(total))

    def _old_plan(self, head: Gguf, wish: Wish, devices: Sequence[Device]) -> Plan:
        cards = [(device.name, self._card(device)) for device in devices]
        return plan(head, wish, [(name, free_bytes(card)) for name, card in cards if card is not None])

    def _print_head(self, head: Gguf, path: str) -> None:
        lines = llama_log.loader_lines(head, path) + llama_log.info_lines(head, new=False, vocab_only=True)
        lines.append("llama_model_load: vocab only - skipping tensors")
        self.log.raw("".join(line + "\n" for line in lines).encode())

    def _sizes(self, runner: RunnerProcess, placed: Plan | None, head: Gguf) -> tuple[int, int]:
        if placed is None:
            return runner.sizes()
        host = placed.host.model - _embedding_bytes(head) + placed.host.kv
        card = sum(share.total for share in placed.devices)
        return (card if placed.devices and placed.offloaded == placed.layers else card + host), card

    def _wait(
        self,
        runner: RunnerProcess,
        begun: float,
        wish: Wish,
        placed: Plan | None,
        aborted: Callable[[], bool],
        manifest: Manifest,
        path: str,
    ) -> None:
        new = self.era.has_llama_server
        name = "llama-server" if new else "llama runner"
        if not new:
            runner.heard.set()
            self._send_wish(runner, wish, placed, aborted)
        self.log.info("waiting", f"waiting for {name} to start responding")
        thing, status = ("llama-server", "llm server not responding") if new else ("server", "llm server loading model")
        self.log.info("available", f"waiting for {thing} to become available", status=status)
        runner.heard.set()
        self._until_ready(runner, aborted, path)
        took = f"{name} started in {time.monotonic() - begun:.2f} seconds"
        self.log.info("started", took)
        if new:
            self.log.info(
                "template",
                "template selection",
                model=manifest.name.full,
                selected="go_template",
                renderer="",
                parser="",
                go_template="[completion]",
                chat_template="null",
                harmony="null",
                renderer_parser="null",
            )

    def tell_loaded(self, count: int, begun: float) -> None:
        """Log what follows once the runner is registered: ollama waits for it a second time."""
        name = "llama-server" if self.era.has_llama_server else "llama runner"
        self.log.info("loaded", "loaded runners", count=count)
        self.log.info("waiting", f"waiting for {name} to start responding")
        self.log.info("started", f"{name} started in {time.monotonic() - begun:.2f} seconds")

    def _send_wish(self, runner: RunnerProcess, wish: Wish, placed: Plan | None, aborted: Callable[[], bool]) -> None:
        layers = placed.offloaded if placed is not None and placed.devices else wish.layers
        row = {name: getattr(wish, name) for name in wish.__slots__}
        row |= {"layers": layers}
        while not runner.ended.is_set():
            if runner.health(0.2):
                runner.post("/load", row).close()
                return
            self._check(runner, aborted)
            time.sleep(_POLL_S)

    def _until_ready(self, runner: RunnerProcess, aborted: Callable[[], bool], path: str) -> None:
        timeout_s = environment.duration_ns("OLLAMA_LOAD_TIMEOUT", 300) / SECOND
        looked = 0.0
        while True:
            if self.log.failed and not self.era.has_llama_server:
                self._hang_without_log(runner, aborted)
            if runner.ended.is_set():
                self._failed(runner, path)
            if runner.is_ready():
                return
            now = time.monotonic()
            if now - looked > _CLIENT_LOOK_S:
                looked = now
                self._check(runner, aborted)
            if self.era.has_llama_server and 0 < timeout_s < now - runner.last_output:
                error = "timed out waiting for llama-server to start - "
                self.log.info("load-failed", "Load failed", model=path, error=error)
                raise ApiError(500, error)
            time.sleep(_POLL_S)

    def _check(self, runner: RunnerProcess, aborted: Callable[[], bool]) -> None:
        if aborted():
            if self.era.has_llama_server:
                message = "client connection closed before llama-server finished loading, aborting load"
            else:
                message = "client connection closed before server finished loading, aborting load"
            self.log.warning("client-closed" if self.era.has_llama_server else "server.go:1377", message)
            raise ApiError(499, "request canceled")

    def _hang_without_log(self, runner: RunnerProcess, aborted: Callable[[], bool]) -> None:
        """Recorded of 0.24.0: with stderr on a full disk every load hangs without an error, its runner gone."""
        runner.kill()
        while not aborted() and self.log.disk_full:
            time.sleep(_CLIENT_LOOK_S)
        raise ApiError(499, "request canceled")

    def _failed(self, runner: RunnerProcess, path: str) -> None:
        runner.kill()
        words = runner.exit_words
        said = "\n".join(runner.errors[-3:])
        if self.era.has_llama_server:
            code = os.WEXITSTATUS(runner.status or 0) if os.WIFEXITED(runner.status or 0) else -1
            self.log.write(ERROR, "terminated", "llama-server terminated", error=words, exit=code)
            error = f"llama-server process has terminated: {words}" + (f": {said}" if said else "")
            self.log.info("load-failed", "Load failed", model=path, error=error)
        else:
            error = f"llama runner process has terminated: {said or words}"
        raise ApiError(500, error)


def _embedding_bytes(head: Gguf) -> int:
    """Return the token table, which earlier versions do not count."""
    if not any(tensor.name == "output.weight" for tensor in head.tensors):
        return 0
    return sum(tensor.size_bytes for tensor in head.tensors if tensor.name.startswith("token_embd"))
