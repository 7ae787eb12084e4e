"""Everything the three families of inference routes share: find the model, load it, let it speak. No wire format."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ollamux.simulation.catalogue import CATALOGUE
from ollamux.simulation.context import App
from ollamux.simulation.errors import ApiError
from ollamux.simulation.golang import GoError
from ollamux.simulation.http import ClientGoneError, Request
from ollamux.simulation.options import OptionError, Options, json_kind, read_keep_alive, read_options
from ollamux.simulation.runners import completion
from ollamux.simulation.scheduler import Loaded
from ollamux.simulation.store import MODEL, Manifest, Store, parse_name
from ollamux.simulation.words import TEMPLATE_TOKENS, count_tokens

_STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error,"
    " check ollama server logs for details"
)
_EOF = "an error was encountered while running the model: unexpected EOF"
_SLOT_POLL_S = 0.05


def body_of(request: Request, struct: str, texts: tuple[str, ...] = ("model",)) -> dict[str, Any]:
    """Read the JSON of a request, with Go's complaints about what is none."""
    if not request.body.strip():
        raise ApiError(400, "missing request body")
    try:
        row = json.loads(request.body)
    except ValueError as error:
        raise ApiError(400, _syntax(request.body, error)) from error
    if not isinstance(row, dict):
        raise ApiError(400, f"json: cannot unmarshal {json_kind(row)} into Go value of type api.{struct}")
    for name in texts:
        if row.get(name) is not None and not isinstance(row[name], str):
            kind = json_kind(row[name])
            text = f"json: cannot unmarshal {kind} into Go struct field {struct}.{name} of type string"
            raise ApiError(400, text)
    return row


def _syntax(body: bytes, error: ValueError) -> str:
    at = getattr(error, "pos", len(body))
    if at >= len(body.rstrip()):
        return "unexpected EOF"
    return f"invalid character {chr(body[at])!r} looking for beginning of value"


def keep_alive_of(row: dict[str, Any]) -> int | None:
    """Return keep_alive in nanoseconds, None where it is not said."""
    try:
        return read_keep_alive(row.get("keep_alive"))
    except GoError as error:
        raise ApiError(400, str(error)) from error


def find(store: Store, text: str) -> Manifest:
    """Return an installed model, or the recorded error."""
    name = parse_name(text) if text else None
    if name is None and text:
        raise ApiError(400, "invalid model name")
    try:
        manifest = store.read(name) if name is not None else None
    except (ValueError, KeyError) as error:
        raise ApiError(500, "unexpected EOF") from error
    if manifest is None:
        raise ApiError(404, f"model '{text}' not found")
    return manifest


def capabilities(store: Store, manifest: Manifest) -> list[str]:
    """Return what a model is able to do."""
    told = store.config(manifest).get("capabilities")
    spec = CATALOGUE.get(manifest.name.short)
    return list(told or (spec.capabilities if spec else ("completion",)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question to a model."""

    model: str
    prompt: str
    options: Options
    keep_ns: int | None
    truncate: bool = True
    images: bool = False


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came of it; durations in nanoseconds."""

    words: list[str]
    reason: str = "stop"
    prompt_tokens: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    eval_ns: int = 0
    total_ns: int = 0


def options_of(app: App, manifest: Manifest, asked: Any) -> Options:
    """Return the effective options of a request."""
    try:
        return read_options(app.store.params(manifest), asked)
    except OptionError as error:
        raise ApiError(500, str(error)) from error
    except GoError as error:
        raise ApiError(400, str(error)) from error


@contextmanager
def loaded(app: App, request: Request, manifest: Manifest, options: Options, keep_ns: int | None) -> Iterator[Loaded]:
    """Lend the loaded model; the wait for it ends when the client hangs up."""
    layer = manifest.layer(MODEL)
    if layer is None:
        raise ApiError(500, f"model {manifest.name.short} has no weights")
    path = app.store.blob(layer.digest)
    try:
        head = app.store.head(manifest)
    except FileNotFoundError as error:
        text = f'model "{manifest.name.short}" not found, try pulling it first'
        raise ApiError(404, text) from error
    entry = app.scheduler.acquire(manifest, path, head, options, keep_ns, request.gone)
    try:
        yield entry
    finally:
        app.scheduler.release(entry)


@contextmanager
def _slot(entry: Loaded, request: Request) -> Iterator[None]:
    """Wait, without a limit, for one of the runner's slots."""
    while not entry.slots.acquire(timeout=_SLOT_POLL_S):
        if request.gone():
            raise ApiError(499, "request canceled")
    try:
        yield
    finally:
        entry.slots.release()


def speak(app: App, request: Request, manifest: Manifest, ask: Ask, say: Callable[[str], None], begun: int) -> Answer:
    """Load the model, let it answer and pass each word to `say`."""
    with loaded(app, request, manifest, ask.options, ask.keep_ns) as entry:
        answer = Answer(words=[], load_ns=time.monotonic_ns() - begun)
        tokens = TEMPLATE_TOKENS + count_tokens(ask.prompt)
        new = app.log.era.has_llama_server
        if ask.images and new:
            raise ApiError(
                400, _server_error("Multimodal data provided, but model does not support multimodal requests.")
            )
        if tokens > entry.context:
            if not ask.truncate:
                raise ApiError(400, _too_long(tokens, entry.context) if new else LONG)
            tokens = entry.context // 2 + 2 if new else entry.context
        answer.prompt_tokens = tokens
        row = {"prompt": ask.prompt, "tokens": tokens, "seed": ask.options.seed, "predict": ask.options.num_predict}
        with _slot(entry, request):
            _relay(entry, request, row, say, answer)
        answer.total_ns = time.monotonic_ns() - begun
        return answer


LONG = "the input length exceeds the context length"


def _relay(entry: Loaded, request: Request, row: dict[str, Any], say: Callable[[str], None], answer: Answer) -> None:
    try:
        reply = entry.runner.post("/completion", row)
    except (OSError, EOFError, ValueError) as error:
        raise ApiError(500, _STOPPED) from error
    try:
        for part in completion(reply):
            if part.get("stop"):
                answer.reason = part["reason"]
                answer.prompt_ns, answer.eval_ns = part["prompt_ns"], part["eval_ns"]
                return
            answer.words.append(part["content"])
            say(part["content"])
            if not request.started and request.gone():
                raise ClientGoneError
    except (OSError, EOFError, ValueError) as error:
        raise ApiError(500, _EOF) from error
    finally:
        reply.close()


def _server_error(message: str) -> str:
    return json.dumps(
        {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}, separators=(",", ":")
    )


def _too_long(tokens: int, context: int) -> str:
    message = f"request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
    error = {"code": 400, "message": message, "type": "exceed_context_size_error"}
    return json.dumps({"error": {**error, "n_prompt_tokens": tokens, "n_ctx": context}}, separators=(",", ":"))


def embed_texts(
    app: App, request: Request, manifest: Manifest, texts: list[str], row: dict[str, Any]
) -> tuple[list[list[float]], int, int]:
    """Return a vector for each text, the tokens read and the nanoseconds of the load."""
    begun = time.monotonic_ns()
    options = options_of(app, manifest, row.get("options"))
    with loaded(app, request, manifest, options, keep_alive_of(row)) as entry:
        load_ns = time.monotonic_ns() - begun
        if not texts:
            return [], 0, load_ns
        tokens = [count_tokens(text) for text in texts]
        if row.get("truncate") is False and any(count > entry.context for count in tokens):
            raise ApiError(400, LONG)
        if app.log.era.has_llama_server and "embedding" not in capabilities(app.store, manifest):
            raise ApiError(501, "This server does not support embeddings. Start it with `--embeddings`")
        size = int(entry.head.get("embedding_length"))
        with _slot(entry, request):
            try:
                reply = entry.runner.post("/embedding", {"texts": texts, "size": size})
                vectors = json.loads(reply.read())
            except (OSError, EOFError, ValueError) as error:
                raise ApiError(500, _STOPPED) from error
        return vectors, sum(min(count, entry.context - 2) for count in tokens), load_ns
