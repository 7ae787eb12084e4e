"""The Anthropic-compatible route /v1/messages."""

from __future__ import annotations

import time
from typing import Any

from ollamux.simulation.context import App
from ollamux.simulation.errors import ApiError
from ollamux.simulation.golang import to_json
from ollamux.simulation.http import Request
from ollamux.simulation.inference import Answer, Ask, body_of, find, options_of, speak
from ollamux.simulation.native import check_abilities, prompt_of
from ollamux.simulation.openai import options, request_id

_JSON = "application/json"
_KINDS = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}


def messages(app: App, request: Request) -> None:
    """Answer messages."""
    try:
        _messages(app, request, body_of(request, "MessagesRequest"))
    except ApiError as error:
        kind = _KINDS.get(error.status, "api_error")
        told = {"type": kind, "message": error.message}
        body = to_json({"type": "error", "error": told, "request_id": request_id("req_")})
        if request.started:
            request.chunk(b"event: error\ndata: " + body + b"\n\n")
        else:
            request.answer(error.status, body + b"\n", _JSON)


def _messages(app: App, request: Request, row: dict[str, Any]) -> None:
    begun = time.monotonic_ns()
    model = str(row.get("model") or "")
    manifest = find(app.store, model)
    check_abilities(app, manifest, row, model, chat=True)
    prompt = prompt_of(row.get("messages") or [])
    ask = Ask(model=model, prompt=prompt, options=options_of(app, manifest, options(row)), keep_ns=None)
    identity = request_id("msg_")
    streamed = bool(row.get("stream"))

    def say(word: str) -> None:
        if streamed:
            if not request.started:
                _begin(request, identity, model)
            delta = {"type": "text_delta", "text": word}
            _event(request, "content_block_delta", index=0, delta=delta)

    answer = speak(app, request, manifest, ask, say, begun)
    reason = "max_tokens" if answer.reason == "length" else "end_turn"
    if streamed:
        _end(request, reason, answer)
        return
    body = _message(identity, model, [{"type": "text", "text": "".join(answer.words)}], reason, _usage(answer))
    request.answer(200, to_json(body) + b"\n", _JSON)


def _usage(answer: Answer) -> dict[str, int]:
    return {"input_tokens": answer.prompt_tokens, "output_tokens": len(answer.words)}


def _message(
    identity: str, model: str, content: list[Any], reason: str | None, usage: dict[str, int]
) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "usage": usage,
    }


def _event(request: Request, name: str, **row: Any) -> None:
    request.chunk(f"event: {name}\n".encode() + b"data: " + to_json({"type": name, **row}) + b"\n\n")


def _begin(request: Request, identity: str, model: str) -> None:
    request.stream("text/event-stream")
    usage = {"input_tokens": 0, "output_tokens": 0}
    _event(request, "message_start", message=_message(identity, model, [], None, usage))
    _event(request, "content_block_start", index=0, content_block={"type": "text", "text": ""})


def _end(request: Request, reason: str, answer: Answer) -> None:
    _event(request, "content_block_stop", index=0)
    _event(request, "message_delta", delta={"stop_reason": reason}, usage=_usage(answer))
    _event(request, "message_stop")
