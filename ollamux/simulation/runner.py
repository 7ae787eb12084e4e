"""A simulated runner: the process that holds one model in (simulated) memory and says words. It knows no ollama.

It answers on a loopback port of its own: /health, /load (older runners), /completion, /embedding, and /detach for the
fault that makes it an orphan nobody can end politely.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import Usage, read_usages, sample, write_usage
from ollamux.gpu.simulated_energy import count_energy
from ollamux.simulation import environment, faults, gguf, llama_log
from ollamux.simulation.http import Request, Server, listen
from ollamux.simulation.memory import (
    CONTEXT_BYTES,
    MIB,
    Plan,
    Wish,
    card_facts,
    free_bytes,
    kv_bytes_per_token,
    plan,
    tokens_per_second,
)
from ollamux.simulation.process import sleep_through_signals, take_name
from ollamux.simulation.sharing import Sharing
from ollamux.simulation.slots import request_lines
from ollamux.simulation.words import vector, words

DEVICES = "OLLAMUX_SIMULATION_DEVICES"
TOKENS = "OLLAMUX_SIMULATION_TOKENS_PER_SECOND"
_JSON = "application/json; charset=utf-8"
_LOAD_S, _LOAD_MOST_S, _LOAD_BYTES_S = 0.2, 1.8, 5e9

_IGNORES_TERM = threading.Event()


class Runner:
    """One loaded model. `new` is true for llama-server, false for the runner of earlier versions."""

    def __init__(self, *, model: str, port: int, new: bool, name: str) -> None:
        self.model, self.port, self.new, self.name = model, port, new, name
        self.box = environment.box()
        self.instance = environment.instance()
        self.speed = environment.speed()
        self.head = gguf.read(Path(model))
        self.state = "loading"
        self.busy = 0
        self.requests = 0
        self.rate = 100.0
        self.wish = Wish(context=0)
        self.uuids: dict[str, str] = {}
        self.held: dict[str, int] = {}
        self._lock = threading.Lock()
        self._sharing = Sharing(self._beside)

    def run(self, wish: Wish | None, *, flash: str = "auto", embeds: bool = False) -> None:
        """Serve for ever. With a wish the model is loaded at once, else when asked."""
        take_name(self.name)
        self.embeds = embeds
        server = Server(listen("127.0.0.1", self.port), self.answer)
        threading.Thread(target=server.serve, daemon=True).start()
        if wish is not None:
            self.load(wish, flash)
        sleep_through_signals()

    def say(self, lines: list[str]) -> None:
        """Print lines. An older runner dies of a broken pipe, llama-server does not mind one."""
        data = "".join(line + "\n" for line in lines).encode()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(2, view) :]
            except BrokenPipeError:
                if not self.new:
                    os._exit(141)
                return
            except OSError:
                return

    def load(self, wish: Wish, flash: str = "auto") -> None:
        """Take memory, print the recorded lines, wait as long as loading takes."""
        cards = self._cards()
        if self.new:
            self.say(llama_log.hello_lines(self.model, cards, self._library()))
        placed = self._place(wish, cards)
        margin = wish.margin_bytes // MIB
        lines = llama_log.fit_lines(placed, margin) if self.new else []
        lines += llama_log.device_lines(cards)
        lines += llama_log.loader_lines(self.head, self.model)
        lines += llama_log.info_lines(self.head, new=self.new, vocab_only=False)
        mode = "load_mode = none" if self.new else "mmap = false"
        lines.append(f"load_tensors: loading model tensors, this can take a while... ({mode})")
        self.say(lines)
        if placed.overfull is not None:
            self._out_of_memory(placed)
        size = self.head.weights_bytes
        time.sleep((_LOAD_S + min(_LOAD_MOST_S, size / _LOAD_BYTES_S)) / self.speed)
        self._print_loaded(wish, placed, flash)
        bandwidths = [card_facts(card)[1] for _, card in cards]
        told = environment.number(TOKENS, 0)
        self.rate = told or tokens_per_second(self.head, placed, bandwidths) * self.speed
        self.wish = wish
        self.state = "ready"

    def _print_loaded(self, wish: Wish, placed: Plan, flash: str) -> None:
        lines = llama_log.tensor_lines(placed, mapped=bool(placed.devices))
        bias = ["cmn  common_init_: added <|end|> logit bias = -inf"]
        bias.append("cmn  common_init_: added <|im_end|> logit bias = -inf")
        lines += bias if self.new else []
        per_layer = kv_bytes_per_token(self.head, wish.kv_type)
        lines += llama_log.context_lines(wish, placed, new=self.new, flash=flash, kv_per_layer=per_layer)
        if self.new:
            size = int(self.head.get("attention.key_length", 0)) or int(self.head.get("embedding_length")) // int(
                self.head.get("attention.head_count", 1)
            )
            lines += [f"llama_kv_cache: attn_rot_{x} = 0, n_embd_head_k_all = {size}" for x in "kv"]
            lines += ["sched_reserve: reserving ...", "resolve_fused_ops: Flash Attention enabled"]
            lines.append("resolve_fused_ops: resolving fused DeepSeek V4 HC support:")
            lines += [f"resolve_fused_ops: fused DeepSeek V4 HC {part} enabled" for part in ("pre", "comb", "post")]
            lines += llama_log.compute_lines(placed, "sched_reserve")
            nodes = 34 * (placed.layers - 1)
            lines.append(f"sched_reserve: graph: nodes = {nodes}, splits = 1, input objects = 4, input tensors = 6")
            lines.append("sched_reserve: reserve took 0.98 ms, sched copies = 1")
            lines += llama_log.ready_lines(wish, self.port, environment.number("LLAMA_ARG_CACHE_RAM", 8192))
        else:
            lines.append("llama_context: Flash Attention was auto, set to enabled")
            lines += llama_log.compute_lines(placed, "llama_context")
            lines += [
                f"llama_context: graph nodes  = {34 * (placed.layers - 1) + 1}",
                "llama_context: graph splits = 1",
            ]
        self.say(lines)

    def _library(self) -> str:
        programs = environment.programs()
        return str(programs / "lib/ollama") if programs else "/usr/local/lib/ollama"

    def _cards(self) -> list[tuple[str, Gpu]]:
        wanted = [pair.split("=", 1) for pair in os.environ.get(DEVICES, "").split(",") if "=" in pair]
        if self.box is None:
            return []
        known = {card.uuid: card for card in sample(self.box) if card.state == "ok"}
        return [(name, known[uuid]) for name, uuid in wanted if uuid in known]

    def _place(self, wish: Wish, cards: list[tuple[str, Gpu]]) -> Plan:
        """Plan and take the memory in one go, so that two runners do not count on the same bytes."""
        if self.box is None or not cards:
            return plan(self.head, wish, [])
        with (self.box / ".memory.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh = {card.uuid: card for card in sample(self.box)}
            devices = [(name, free_bytes(fresh[card.uuid])) for name, card in cards]
            placed = plan(self.head, wish, devices)
            self.uuids = {name: card.uuid for name, card in cards}
            if placed.overfull is None:
                self.held = {self.uuids[share.name]: share.total + CONTEXT_BYTES for share in placed.devices}
                self._register()
        return placed

    def _register(self) -> None:
        if self.box is not None and self.held:
            count_energy(self.box)
            write_usage(self.box, Usage(pid=os.getpid(), name=self.name, memory=self.held, busy=self.busy))

    def _beside(self) -> int:
        """Return how many requests other runners are at on the same cards."""
        if self.box is None or not self.held:
            return 0
        others = (usage for usage in read_usages(self.box) if usage.pid != os.getpid())
        return sum(usage.busy for usage in others if usage.memory.keys() & self.held.keys())

    def _out_of_memory(self, placed: Plan) -> None:
        share = next(share for share in placed.devices if share.name == placed.overfull)
        size = share.total / MIB
        self.say(
            [
                f"ggml_backend_cuda_buffer_type_alloc_buffer: allocating {size:.2f} MiB on device 0: cudaMalloc"
                " failed: out of memory",
                f"alloc_tensor_range: failed to allocate {share.name} buffer of size {share.total}",
                "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
                "srv  llama_server: exiting due to model loading error",
            ]
        )
        os._exit(1)

    def answer(self, request: Request) -> None:
        """Answer one request of the server."""
        if request.path == "/health":
            self._health(request)
        elif request.path == "/load":
            self._load_asked(request)
        elif request.path == "/detach":
            os.setsid()
            # Only the main thread may set a handler; it sleeps in pause() and is woken for it.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
            _IGNORES_TERM.wait()
            request.answer(200, b"{}", _JSON)
        elif self.state != "ready":
            self._health(request)
        elif request.path == "/completion":
            self._working(request, self._complete)
        elif request.path == "/embedding":
            self._working(request, self._embed)
        else:
            request.answer(404, b'{"error":{"code":404,"message":"File Not Found"}}', _JSON)

    def _health(self, request: Request) -> None:
        if self.state == "ready":
            request.answer(200, b'{"status":"ok"}', _JSON)
        else:
            body = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
            request.answer(503, body, _JSON)

    def _load_asked(self, request: Request) -> None:
        row = json.loads(request.body)
        flash = row.pop("flash", "auto")
        request.answer(200, b'{"success":true}', _JSON)
        wish = Wish(**row)
        self.say([llama_log.request_line(wish)])
        self.load(wish, flash)

    def _working(self, request: Request, work: Any) -> None:
        self._die_with_the_card()
        with self._lock:
            self.busy += 1
            self._register()
        try:
            work(request, json.loads(request.body))
        finally:
            with self._lock:
                self.busy -= 1
                self._register()

    def _die_with_the_card(self) -> None:
        if any(faults.is_active(self.box, "gpu-lost", uuid) for uuid in self.held):
            self.say(["CUDA error: unspecified launch failure", "  current device: 0, in function ggml_cuda_compute"])
            os.abort()

    def _complete(self, request: Request, row: dict[str, Any]) -> None:
        said, reason = words(row["prompt"], int(row["seed"]), int(row["predict"]))
        tokens = int(row["tokens"])
        if self.new:
            self.requests += 1
            self.say(request_lines(self.requests, tokens, self.wish.context))
        request.stream("application/x-ndjson")
        begun = time.monotonic_ns()
        with self._sharing.turn() as until:
            until(min(2.0, tokens / (self.rate * 25)))
        prompt_ns = time.monotonic_ns() - begun
        begun = time.monotonic_ns()
        with self._sharing.turn() as until:
            for index, word in enumerate(said):
                until((index + 1) / self.rate)
                request.chunk(json.dumps({"content": word}).encode() + b"\n")
        eval_ns = time.monotonic_ns() - begun
        end = {"stop": True, "reason": reason, "prompt_ns": prompt_ns, "eval_ns": eval_ns, "count": len(said)}
        request.chunk(json.dumps(end).encode() + b"\n")
        if self.new:
            self.say(["srv  update_slots: all slots are idle"])

    def _embed(self, request: Request, row: dict[str, Any]) -> None:
        texts = [str(text) for text in row["texts"]]
        time.sleep(min(2.0, sum(map(len, texts)) / 4 / (self.rate * 25)))
        vectors = [vector(text, int(row["size"])) for text in texts]
        request.answer(200, json.dumps(vectors).encode(), _JSON)


def ignore_term(*_: object) -> None:
    """Stop obeying SIGTERM: the second half of becoming an orphan."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _IGNORES_TERM.set()


def main(arguments: list[str], *, new: bool, name: str) -> None:
    """Run with the arguments of a runner."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, ignore_term)
    values = _values(arguments)
    runner = Runner(model=values["--model"], port=int(values["--port"]), new=new, name=name)
    if not new:
        runner.run(None)
    parallel = int(values.get("-np", "1"))
    layers = values.get("-ngl")
    target = environment.number("LLAMA_ARG_FIT_TARGET", 1024)
    wish = Wish(
        context=int(values["-c"]) // parallel,
        parallel=parallel,
        batch=int(values.get("-ub", "512")),
        kv_type=values.get("--cache-type-k", "f16"),
        layers=None if layers is None else int(layers),
        margin_bytes=target * MIB,
        halve=faults.is_active(runner.box, "spill", runner.instance),
    )
    _check_cache_type(runner, wish)
    runner.run(wish, flash=values.get("--flash-attn", "auto"), embeds="--embedding" in arguments)


def _values(arguments: list[str]) -> dict[str, str]:
    return {name: value for name, value in pairwise(arguments) if name.startswith("-")}


def _check_cache_type(runner: Runner, wish: Wish) -> None:
    """A quantised cache needs heads of whole blocks (recorded: a load with heads of 16 fails)."""
    heads = max(1, int(runner.head.get("attention.head_count", 1)))
    size = int(runner.head.get("attention.key_length", int(runner.head.get("embedding_length")) // heads))
    if wish.kv_type.startswith("q") and size % 32:
        why = f"K cache type {wish.kv_type} with block size 32 does not divide n_embd_head_k={size}"
        text = f"llama_init_from_model: {why}"
        runner.say([text, text, "srv  llama_server: exiting due to model loading error"])
        os._exit(1)
