"""A server that holds models as `ollama serve` does: loads, evicts, reloads, forgets, fetches. Standard library only.

It shares no code with the program under test. What it does is what 0.24.0 and 0.32.15 were seen to do: a load evicts as
soon as OLLAMA_MAX_LOADED_MODELS are there, pins too; a request with another context ends the runner and starts one; a
`keep_alive` in a request replaces the one before; a load whose client goes away is aborted; ps does not list what is
being loaded; a deleted model stays loaded and listed, and is refused to whoever asks; a pull is a stream, and ends with
its connection.

What is installed is what has a manifest in OLLAMA_MODELS. Files in the folder FAKE_DIR, looked at whenever it matters:
load-gate (a path: loads wait until it is there) · refuse-load (a text: loads fail with it, 500) · embeds (a name that
only embeds) · pull-gate (a path: pulls wait half-way) · pull-error (a text) · pull-status (the status of the answer)
Each POST is written to `asked`, each pull that began or ended to `pulls`. FAKE_STARTS names a file of starts.
"""

import datetime
import hashlib
import json
import os
import select
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER = os.environ.get("FAKE_DIR", "")
STORE = os.environ.get("OLLAMA_MODELS", "")
ORDERS = {signal.SIGUSR1, signal.SIGUSR2}
LOCK = threading.RLock()
LOADING = threading.Lock()
LOADED = {}


def knob(name):
    try:
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def append(name, line):
    path = name if name.startswith("/") else os.path.join(FOLDER, name)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def full(name):
    return name if ":" in name else f"{name}:latest"


def manifest(name):
    return os.path.join(STORE, "manifests/registry.ollama.ai/library", *full(name).split(":"))


def blob(name):
    return hashlib.sha256(full(name).encode()).hexdigest()


def install(name):
    path = manifest(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{blob(name)}", "size": 1000}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"schemaVersion": 2, "config": {**layer, "mediaType": "c", "size": 1}, "layers": [layer]}, file)


def seconds(value):
    """Return a keep_alive in seconds, None for ever."""
    if isinstance(value, str):
        value = float(value[:-1]) * {"s": 1, "m": 60, "h": 3600}[value[-1]]
    return None if value < 0 else value


class Model:
    def __init__(self, name, context, keep):
        self.name, self.context, self.keep = full(name), context, keep
        self.used = time.time()  # noqa: TID251
        with open(manifest(self.name), "rb") as file:
            self.digest = hashlib.sha256(file.read()).hexdigest()
        words = [sys.executable, "-IS", os.path.abspath(__file__), "runner", "--model", f"/b/sha256-{blob(name)}"]
        self.pid = os.posix_spawn(sys.executable, words, os.environ, setsigmask=ORDERS)

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def row(self):
        until = 9e9 if self.keep is None else self.used + self.keep
        moment = datetime.datetime.fromtimestamp(until, datetime.UTC).isoformat()
        sizes = {"size": 1000, "size_vram": 0, "context_length": self.context}
        return {"name": self.name, "model": self.name, "digest": self.digest, "expires_at": moment, **sizes}


def expire():
    now = time.time()  # noqa: TID251
    with LOCK:
        for name, model in list(LOADED.items()):
            if model.keep is not None and now > model.used + model.keep:
                LOADED.pop(name).end()


def watch():
    while True:
        expire()
        time.sleep(0.02)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, status, row):
        data = json.dumps(row).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def gone(self):
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1)

    def waits_for(self, gate):
        path = knob(gate)
        while path and not os.path.exists(path):
            if self.gone():
                return False
            time.sleep(0.01)
        return True

    def do_GET(self):
        if self.path == "/api/version":
            self.answer(200, {"version": "0.32.15"})
        elif self.path == "/api/ps":
            append("looks", "1")
            with LOCK:
                rows = [model.row() for model in LOADED.values()]
            self.answer(200, {"models": rows})
        else:
            self.answer(404, {"error": "no"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        append("asked", f"{self.path} {json.dumps(body)}")
        if self.path == "/api/pull":
            self.pull(full(body["model"]))
        else:
            self.load(body)

    def load(self, body):
        name = full(body["model"])
        if not os.path.exists(manifest(name)):
            self.answer(404, {"error": f"model '{body['model']}' not found"})
        elif self.path == "/api/generate" and body.get("keep_alive") == 0 and not body.get("prompt"):
            with LOCK:
                if name in LOADED:
                    LOADED[name].keep, LOADED[name].used = 0, 0
            self.answer(200, {"model": name, "done": True, "done_reason": "unload"})
        elif self.path == "/api/generate" and knob("embeds") == name:
            self.answer(400, {"error": f'"{name}" does not support generate'})
        elif self.take(name, body):
            self.answer(200, {"model": name, "response": "", "done": True, "done_reason": "load"})

    def take(self, name, body):
        context = (body.get("options") or {}).get("num_ctx") or int(os.environ["OLLAMA_CONTEXT_LENGTH"])
        with LOADING:
            known = LOADED.get(name)
            if (known is None or known.context != context) and not self.make_room(name, context):
                return False
            model = LOADED[name]
            if "keep_alive" in body:
                model.keep = seconds(body["keep_alive"])
            model.used = time.time()  # noqa: TID251
        return True

    def make_room(self, name, context):
        with LOCK:
            if name in LOADED:
                LOADED.pop(name).end()
            most = int(os.environ.get("OLLAMA_MAX_LOADED_MODELS") or 3)
            while len(LOADED) >= most:
                victim = min(LOADED.values(), key=lambda model: 9e9 if model.keep is None else model.keep)
                LOADED.pop(victim.name).end()
        if not self.waits_for("load-gate"):
            return False
        if knob("refuse-load"):
            self.answer(500, {"error": knob("refuse-load")})
            return False
        with LOCK:
            LOADED[name] = Model(name, context, seconds(os.environ.get("OLLAMA_KEEP_ALIVE") or "5m"))
        return True

    def pull(self, name):
        append("pulls", f"begins {name}")
        if knob("pull-status"):
            self.answer(int(knob("pull-status")), {"error": knob("pull-error")})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.tell(status="pulling manifest")
        layer = {"status": "pulling abcdef012345", "digest": "sha256:ab", "total": 4000}
        self.tell(**layer)
        self.tell(**layer, completed=2000)
        if not self.waits_for("pull-gate"):
            append("pulls", f"cancelled {name}")
            return
        if knob("pull-error"):
            self.tell(error=knob("pull-error"))
        else:
            self.tell(**layer, completed=4000)
            install(name)
            append("pulls", f"ends {name}")
            self.tell(status="success")
        self.wfile.write(b"0\r\n\r\n")

    def tell(self, **row):
        line = json.dumps(row).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, address):
        pass


def run_as_runner():
    busy = False
    while True:
        while busy and not ORDERS & signal.sigpending():
            sum(range(1000))
        busy = signal.sigwait(ORDERS) == signal.SIGUSR1


def end(number, frame):
    for model in LOADED.values():
        os.kill(model.pid, signal.SIGKILL)
    os._exit(0)


def main():
    if sys.argv[1:2] == ["runner"]:
        run_as_runner()
    if sys.argv[1:2] == ["--version"]:
        sys.exit("Warning: client version is 0.32.15")
    if "FAKE_STARTS" in os.environ:
        append(os.environ["FAKE_STARTS"], f"{os.getpid()}")
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    signal.signal(signal.SIGTERM, end)
    server = Server((host, int(port)), Handler)
    threading.Thread(target=watch, daemon=True).start()
    server.serve_forever()


main()
