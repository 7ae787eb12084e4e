"""The HTTP side of the simulated server: gates, checks of host and origin, routes, the access log.

The answers themselves are elsewhere.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import socket
import threading
import time
from collections.abc import Callable

from ollamux.simulation import anthropic, environment, native, openai, stored
from ollamux.simulation.context import App
from ollamux.simulation.errors import ApiError
from ollamux.simulation.golang import to_json
from ollamux.simulation.http import ClientGoneError, Request

JSON = "application/json; charset=utf-8"
_GATE_POLL_S = 0.03
Handler = Callable[[App, Request], None]


def _root(_: App, request: Request) -> None:
    request.answer(200, b"Ollama is running", "text/plain; charset=utf-8")


def _version(app: App, request: Request) -> None:
    request.answer(200, to_json({"version": app.log.era.version}), JSON)


def _status(_: App, request: Request) -> None:
    disabled = environment.flag("OLLAMA_NO_CLOUD")
    row = {"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}}
    request.answer(200, to_json(row), JSON)


_ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"HEAD": _root, "GET": _root},
    "/api/version": {"HEAD": _version, "GET": _version},
    "/api/status": {"GET": _status},
    "/api/tags": {"HEAD": stored.tags, "GET": stored.tags},
    "/api/ps": {"GET": native.ps},
    "/api/generate": {"POST": native.generate},
    "/api/chat": {"POST": native.chat},
    "/api/embed": {"POST": native.embed},
    "/api/embeddings": {"POST": native.embeddings},
    "/api/show": {"POST": stored.show},
    "/api/pull": {"POST": stored.pull},
    "/api/create": {"POST": stored.create},
    "/api/copy": {"POST": stored.copy},
    "/api/delete": {"DELETE": stored.delete},
    "/api/blobs/:": {"POST": stored.write_blob, "HEAD": stored.has_blob},
    "/api/experimental/model-recommendations": {"GET": stored.recommendations},
    "/v1/models": {"GET": openai.models},
    "/v1/models/:": {"GET": openai.model},
    "/v1/chat/completions": {"POST": openai.chat},
    "/v1/completions": {"POST": openai.completions},
    "/v1/embeddings": {"POST": openai.embeddings},
    "/v1/messages": {"POST": anthropic.messages},
}
_SCHEDULED = ("/api/ps", "/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/v1/")


class Site:
    """Answers every request of one server."""

    def __init__(self, app: App) -> None:
        self.app = app

    def handle(self, request: Request) -> None:
        """Answer one request and write its access line."""
        self._hold(request, "hang-api")
        begun = time.monotonic_ns()
        key = threading.get_ident()
        self.app.in_flight[key] = request, begun
        try:
            self._answer(request)
        except ClientGoneError:
            request.status = request.status or 200
            raise
        finally:
            if self.app.in_flight.pop(key, None) is not None:
                self._access(request, begun)

    def _access(self, request: Request, begun: int) -> None:
        took = time.monotonic_ns() - begun
        self.app.log.access(request.status or 200, took, request.client, request.method, request.target)

    def _hold(self, request: Request, fault: str) -> None:
        while fault in self.app.set_faults:
            if request.gone():
                raise ClientGoneError
            time.sleep(_GATE_POLL_S)

    def _answer(self, request: Request) -> None:
        if not self._allowed(request):
            request.answer(403, b"", None)
            return
        found = self._find(request.path)
        if found is None:
            self._unknown(request)
            return
        methods, request.parameter = found
        handler = methods.get(request.method)
        if handler is None:
            request.answer(405, b"405 method not allowed", "text/plain", Allow=", ".join(methods))
            return
        if request.path.startswith(_SCHEDULED) and not request.path.startswith("/v1/models"):
            self._hold(request, "hang-scheduler")
        try:
            handler(self.app, request)
        except ApiError as error:
            fail(request, error.status, error.message)
        except OSError as error:
            fail(request, 500, error_text(error))

    def _find(self, path: str) -> tuple[dict[str, Handler], str] | None:
        if path in _ROUTES and not path.endswith(":"):
            return _ROUTES[path], ""
        head, _, last = path.rpartition("/")
        methods = _ROUTES.get(f"{head}/:")
        return (methods, last) if methods and last else None

    def _unknown(self, request: Request) -> None:
        shorter = request.path.rstrip("/")
        if shorter != request.path and self._find(shorter) is not None:
            body = f'<a href="{shorter}">Moved Permanently</a>.\n\n'.encode()
            if request.method == "GET":
                request.answer(301, body, "text/html; charset=utf-8", Location=shorter)
            else:
                request.answer(307, b"", None, Location=shorter)
            return
        request.answer(404, b"404 page not found", "text/plain")

    def _allowed(self, request: Request) -> bool:
        origin = request.headers.get("origin", "")
        if origin and not any(fnmatch.fnmatch(origin, allowed) for allowed in environment.origins()):
            return False
        return not self.app.loopback or _is_local(request.headers.get("host", ""))


def _is_local(host: str) -> bool:
    head, colon, port = host.rpartition(":")
    name = (head if colon and port.isdigit() else host).strip("[]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        local = (".localhost", ".local", ".internal")
        return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(local)
    return address.is_loopback or address.is_private or address.is_unspecified


def fail(request: Request, status: int, message: str) -> None:
    """Answer with an error, or end a stream with one."""
    body = to_json({"error": message})
    if request.started:
        request.chunk(body + b"\n")
    else:
        request.answer(status, body, JSON)


def error_text(error: OSError) -> str:
    """Return an error of the system as Go words it."""
    text = (error.strerror or str(error)).lower()
    return f"open {error.filename}: {text}" if error.filename else text
