"""The inference routes of ollama's own API: generate, chat, embed, embeddings, ps."""

from __future__ import annotations

import time
from typing import Any

from ollamux.simulation.context import App
from ollamux.simulation.errors import ApiError
from ollamux.simulation.golang import now_ns, rfc3339, to_json
from ollamux.simulation.http import Request
from ollamux.simulation.inference import (
    Answer,
    Ask,
    body_of,
    capabilities,
    embed_texts,
    find,
    keep_alive_of,
    loaded,
    options_of,
    speak,
)
from ollamux.simulation.store import MODEL, Manifest
from ollamux.simulation.words import token_ids

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"


def ps(app: App, request: Request) -> None:
    """List what is loaded."""
    rows = []
    for entry, expires in app.scheduler.shown():
        config = app.store.config(entry.manifest)
        size, size_vram = entry.sizes
        row = {
            "name": entry.manifest.name.short,
            "model": entry.manifest.name.short,
            "size": size,
            "digest": entry.manifest.digest,
            "details": details(config),
            "expires_at": rfc3339(expires),
            "size_vram": size_vram,
            "context_length": entry.context,
        }
        rows.append(row)
    request.answer(200, to_json({"models": rows}), JSON)


def details(config: dict[str, Any], parent: str = "") -> dict[str, Any]:
    """Return the `details` of a model."""
    return {
        "parent_model": parent,
        "format": config["model_format"],
        "family": config["model_family"],
        "families": config["model_families"],
        "parameter_size": config["model_type"],
        "quantization_level": config["file_type"],
    }


def generate(app: App, request: Request) -> None:
    """Answer a prompt; without one, load or unload."""
    row = body_of(request, "GenerateRequest", ("model", "prompt", "system", "template", "suffix"))
    _run(app, request, row, str(row.get("prompt") or ""), chat=False)


def chat(app: App, request: Request) -> None:
    """Answer messages; without any, load or unload."""
    row = body_of(request, "ChatRequest")
    if not row.get("model"):
        raise ApiError(400, "model is required")
    _run(app, request, row, prompt_of(row.get("messages") or []), chat=True)


def prompt_of(messages: list[dict[str, Any]]) -> str:
    """Return the text of messages, whatever form their content has."""
    texts = []
    for message in messages:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        texts.append(str(content))
    return "\n".join(texts)


def _run(app: App, request: Request, row: dict[str, Any], prompt: str, *, chat: bool) -> None:
    begun = time.monotonic_ns()
    keep_ns = keep_alive_of(row)
    model = str(row.get("model") or "")
    manifest = find(app.store, model)
    empty = not (row.get("messages") if chat else prompt)
    if empty and keep_ns == 0:
        layer = manifest.layer(MODEL)
        if layer is not None:
            app.scheduler.expire(app.store.blob(layer.digest))
        _simple(request, model, "unload", chat=chat)
        return
    check_abilities(app, manifest, row, model, chat=chat)
    options = options_of(app, manifest, row.get("options"))
    if empty:
        with loaded(app, request, manifest, options, keep_ns):
            pass
        _simple(request, model, "load", chat=chat)
        return
    ask = Ask(
        model=model,
        prompt=prompt,
        options=options,
        keep_ns=keep_ns,
        truncate=row.get("truncate") is not False,
        images=bool(row.get("images")),
    )
    streamed = row.get("stream") is not False

    def say(word: str) -> None:
        if streamed:
            _line(request, {"model": model, "created_at": _now(), **_content(word, chat=chat), "done": False})

    answer = speak(app, request, manifest, ask, say, begun)
    content = _content("" if streamed else "".join(answer.words), chat=chat)
    last = {"model": model, "created_at": _now(), **content, "done": True, **_end(answer, prompt, chat=chat)}
    if streamed:
        _line(request, last)
    else:
        request.answer(200, to_json(last), JSON)


def check_abilities(app: App, manifest: Manifest, row: dict[str, Any], model: str, *, chat: bool) -> None:
    """Refuse what the model cannot do."""
    able = capabilities(app.store, manifest)
    if "completion" not in able:
        raise ApiError(400, f'"{model}" does not support {"chat" if chat else "generate"}')
    if row.get("tools") and "tools" not in able:
        raise ApiError(400, f"{manifest.name.full} does not support tools")
    if row.get("think") and "thinking" not in able:
        raise ApiError(400, f'"{model}" does not support thinking')


def _now() -> str:
    return rfc3339(now_ns(), utc=True)


def _content(text: str, *, chat: bool) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}} if chat else {"response": text}


def _simple(request: Request, model: str, reason: str, *, chat: bool) -> None:
    row = {"model": model, "created_at": _now(), **_content("", chat=chat), "done": True, "done_reason": reason}
    request.answer(200, to_json(row), JSON)


def _end(answer: Answer, prompt: str, *, chat: bool) -> dict[str, Any]:
    context = {} if chat else {"context": [2, *token_ids(prompt), *token_ids("".join(answer.words))]}
    return {
        "done_reason": answer.reason,
        **context,
        "total_duration": answer.total_ns,
        "load_duration": answer.load_ns,
        "prompt_eval_count": answer.prompt_tokens,
        "prompt_eval_duration": answer.prompt_ns,
        "eval_count": len(answer.words),
        "eval_duration": answer.eval_ns,
    }


def _line(request: Request, row: dict[str, Any]) -> None:
    if not request.started:
        request.stream(NDJSON)
    request.chunk(to_json(row) + b"\n")


def embed(app: App, request: Request) -> None:
    """Turn texts into vectors."""
    begun = time.monotonic_ns()
    row = body_of(request, "EmbedRequest")
    given = row.get("input")
    texts = [given] if isinstance(given, str) and given else given or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid input type")
    model = str(row.get("model") or "")
    vectors, tokens, load_ns = embed_texts(app, request, find(app.store, model), texts, row)
    if not texts:  # loaded, and nothing else
        request.answer(200, to_json({"model": model, "embeddings": []}), JSON)
        return
    body = {"model": model, "embeddings": vectors, "total_duration": time.monotonic_ns() - begun}
    request.answer(200, to_json({**body, "load_duration": load_ns, "prompt_eval_count": tokens}), JSON)


def embeddings(app: App, request: Request) -> None:
    """Turn one prompt into a vector: the older form."""
    row = body_of(request, "EmbeddingRequest", ("model", "prompt"))
    manifest = find(app.store, str(row.get("model") or ""))
    try:
        vectors, _, _ = embed_texts(app, request, manifest, [str(row.get("prompt") or "")], row)
    except ApiError as error:
        raise ApiError(500 if error.status == 501 else error.status, error.message) from error
    request.answer(200, to_json({"embedding": vectors[0]}), JSON)
