"""The OpenAI-compatible routes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from ollamux.simulation.context import App
from ollamux.simulation.errors import ApiError
from ollamux.simulation.golang import SECOND, now_ns, to_json
from ollamux.simulation.http import Request
from ollamux.simulation.inference import Answer, Ask, body_of, embed_texts, find, options_of, speak
from ollamux.simulation.native import check_abilities, prompt_of
from ollamux.simulation.store import Manifest, parse_name

_JSON = "application/json"
_EARLY = "application/json; charset=utf-8"
_SSE = "text/event-stream"
_KINDS = {400: "invalid_request_error", 404: "not_found_error"}
_RENAMED = {
    "max_tokens": "num_predict",
    "seed": "seed",
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}


def _error(error: ApiError) -> bytes:
    kind = _KINDS.get(error.status, "api_error")
    return to_json({"error": {"message": error.message, "type": kind, "param": None, "code": None}})


def _guarded(work: Callable[[App, Request, dict[str, Any]], None]) -> Callable[[App, Request], None]:
    """Put errors into OpenAI's form. One found before the model is asked has no line end (recorded)."""

    def answer(app: App, request: Request) -> None:
        try:
            row = body_of(request, "ChatCompletionRequest")
            if "messages" in row and not row["messages"]:
                raise ApiError(400, "[] is too short - 'messages'")
        except ApiError as error:
            request.answer(error.status, _error(error), _EARLY)
            return
        try:
            work(app, request, row)
        except ApiError as error:
            if request.started:
                request.chunk(b"data: " + _error(error) + b"\n\n")
            else:
                request.answer(error.status, _error(error) + b"\n", _JSON)

    return answer


def _identity(prefix: str) -> str:
    return f"{prefix}-{now_ns() // 1000 % 999}"


def options(row: dict[str, Any]) -> dict[str, Any]:
    """Return the options of ollama that a request comes to."""
    found = {mine: row[theirs] for theirs, mine in _RENAMED.items() if row.get(theirs) is not None}
    if row.get("max_completion_tokens") is not None:
        found["num_predict"] = row["max_completion_tokens"]
    return found


def _ask(app: App, row: dict[str, Any], prompt: str, *, chat: bool) -> tuple[Manifest, Ask]:
    model = str(row.get("model") or "")
    manifest = find(app.store, model)
    check_abilities(app, manifest, row, model, chat=chat)
    return manifest, Ask(model=model, prompt=prompt, options=options_of(app, manifest, options(row)), keep_ns=None)


def _usage(answer: Answer) -> dict[str, int]:
    said = len(answer.words)
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": said,
        "total_tokens": answer.prompt_tokens + said,
    }


class _Events:
    """The server-sent events of one streamed answer."""

    def __init__(self, request: Request, frame: dict[str, Any], *, usage: bool) -> None:
        self.request, self.frame, self.usage = request, frame, usage

    def send(self, choices: list[dict[str, Any]], **more: Any) -> None:
        """Send one event."""
        if not self.request.started:
            self.request.stream(_SSE)
        self.request.chunk(b"data: " + to_json({**self.frame, "choices": choices, **more}) + b"\n\n")

    def end(self, last: dict[str, Any], answer: Answer) -> None:
        """Send the last events."""
        self.send([last])
        if self.usage:
            self.send([], usage=_usage(answer))
        self.request.chunk(b"data: [DONE]\n\n")


def _frame(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {
        "id": _identity(prefix),
        "object": kind,
        "created": now_ns() // SECOND,
        "model": model,
        "system_fingerprint": "fp_ollama",
    }


def _wants_usage(row: dict[str, Any]) -> bool:
    return bool((row.get("stream_options") or {}).get("include_usage"))


def _chat(app: App, request: Request, row: dict[str, Any]) -> None:
    begun = time.monotonic_ns()
    manifest, ask = _ask(app, row, prompt_of(row.get("messages") or []), chat=True)
    streamed = bool(row.get("stream"))
    frame = _frame("chatcmpl", "chat.completion.chunk" if streamed else "chat.completion", ask.model)
    events = _Events(request, frame, usage=_wants_usage(row))

    def say(word: str) -> None:
        if streamed:
            # Newer versions name the role once.
            bare = request.started and app.log.era.has_llama_server
            delta = {"content": word} if bare else {"role": "assistant", "content": word}
            events.send([{"index": 0, "delta": delta, "finish_reason": None}])

    answer = speak(app, request, manifest, ask, say, begun)
    if streamed:
        delta = {} if app.log.era.has_llama_server else {"role": "assistant", "content": ""}
        events.end({"index": 0, "delta": delta, "finish_reason": answer.reason}, answer)
        return
    message = {"role": "assistant", "content": "".join(answer.words)}
    choices = [{"index": 0, "message": message, "finish_reason": answer.reason}]
    request.answer(200, to_json({**frame, "choices": choices, "usage": _usage(answer)}) + b"\n", _JSON)


def _completions(app: App, request: Request, row: dict[str, Any]) -> None:
    begun = time.monotonic_ns()
    prompt = row.get("prompt") or ""
    manifest, ask = _ask(app, row, prompt if isinstance(prompt, str) else " ".join(map(str, prompt)), chat=False)
    streamed = bool(row.get("stream"))
    events = _Events(request, _frame("cmpl", "text_completion", ask.model), usage=_wants_usage(row))

    def say(word: str) -> None:
        if streamed:
            events.send([{"text": word, "index": 0, "finish_reason": None}])

    answer = speak(app, request, manifest, ask, say, begun)
    last = {"text": "" if streamed else "".join(answer.words), "index": 0, "finish_reason": answer.reason}
    if streamed:
        events.end(last, answer)
    else:
        body = {**events.frame, "choices": [last], "usage": _usage(answer)}
        request.answer(200, to_json(body) + b"\n", _JSON)


def _embeddings(app: App, request: Request, row: dict[str, Any]) -> None:
    given = row.get("input")
    texts = [given] if isinstance(given, str) else [str(text) for text in given or []]
    if not texts:
        raise ApiError(400, "invalid input")
    model = str(row.get("model") or "")
    vectors, tokens, _ = embed_texts(app, request, find(app.store, model), texts, {})
    # The official client asks for base64 unless told otherwise.
    data = [
        {"object": "embedding", "embedding": _encoded(vector, row), "index": index}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    request.answer(200, to_json({"object": "list", "data": data, "model": model, "usage": usage}) + b"\n", _JSON)


def _encoded(vector: list[float], row: dict[str, Any]) -> Any:
    if row.get("encoding_format") != "base64":
        return vector
    import base64  # only for clients that ask for it
    import struct

    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


chat = _guarded(_chat)
completions = _guarded(_completions)
embeddings = _guarded(_embeddings)


def _row(manifest: Manifest) -> dict[str, Any]:
    created = manifest.modified_ns // SECOND
    return {"id": manifest.name.short, "object": "model", "created": created, "owned_by": manifest.name.namespace}


def models(app: App, request: Request) -> None:
    """List what is installed."""
    rows = [_row(manifest) for manifest in app.store.all()]
    request.answer(200, to_json({"object": "list", "data": rows}) + b"\n", _JSON)


def model(app: App, request: Request) -> None:
    """Tell about one model."""
    name = parse_name(request.parameter)
    manifest = app.store.read(name) if name is not None else None
    if manifest is None:
        text = name.short if name is not None and app.log.era.has_llama_server else request.parameter
        request.answer(404, _error(ApiError(404, f"model '{text}' not found")) + b"\n", _JSON)
        return
    request.answer(200, to_json(_row(manifest)) + b"\n", _JSON)


def request_id(prefix: str, size: int = 24) -> str:
    """Return a random-looking identity."""
    return prefix + hashlib.sha256(str(now_ns()).encode()).hexdigest()[:size]
