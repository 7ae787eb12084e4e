"""The canary's question as ollama takes it, and what its answer says. Pure.

The question must not make ollama load the model anew, so it carries the options the runner was started with, as far as
they can be seen, and no keep_alive: that would change how long the model stays (both seen on 0.24.0 and 0.32.15). The
query in its address does nothing but tell its line in the server's access log from those of clients.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from ollamux.domain.canary import Answer
from ollamux.domain.text import safe_text
from ollamux.ollama.api import LONGEST_BODY, LoadedModel
from ollamux.ollama.version import Era

GENERATE = "/api/generate?ollamux=canary"
SHOW = "/api/show?ollamux=canary"
_PROMPT = "Hi"
_EMBEDDING_FAMILIES = ("bert", "nomic-bert")
_BUSY = (429, 499, 503)
_OPTIONS = {"-t": "num_thread", "-b": "num_batch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What does not change about a model: whether it makes tokens, and the context it was trained with."""

    generates: bool
    trained_context: int | None


def facts_of(body: bytes, family: str | None) -> Facts | None:
    """Read the body of `POST /api/show`; None where it is something else."""
    plain = _object(body)
    if plain is None:
        return None
    able = plain.get("capabilities")
    if isinstance(able, list):
        generates = "completion" in able
    else:
        generates = family is not None and not any(each in family for each in _EMBEDDING_FAMILIES)
    info = plain.get("model_info")
    known = info.items() if isinstance(info, dict) else ()
    contexts = [value for key, value in known if key.endswith(".context_length") and _is_count(value)]
    return Facts(generates=generates, trained_context=contexts[0] if len(contexts) == 1 else None)


def about(model: LoadedModel) -> bytes:
    """Return the body that asks what a model is."""
    return json.dumps({"model": model.name}).encode()


def question(model: LoadedModel, facts: Facts, *, era: Era | None, default_context: int, arguments: list[str]) -> bytes:
    """Return the body of the question; `arguments` are those of the model's runner."""
    same = options_of(model, facts, era=era, default_context=default_context, arguments=arguments)
    options = {"num_predict": 1, "temperature": 0, **same}
    return json.dumps({"model": model.name, "prompt": _PROMPT, "stream": False, "options": options}).encode()


def options_of(
    model: LoadedModel, facts: Facts, *, era: Era | None, default_context: int, arguments: list[str]
) -> dict[str, Any]:
    """Return the options with which a request is answered by the runner that is there."""
    options: dict[str, Any] = {}
    context = model.context_length
    if era is not Era.LLAMA_SERVER and context is not None and context == facts.trained_context:
        # Before 0.30 a context is compared as it was asked for, and shown as it was cut to the trained one.
        context = max(context, default_context)
    if context is not None:
        options["num_ctx"] = context
    if era is Era.LLAMA_SERVER:
        for flag, option in _OPTIONS.items():
            at = arguments.index(flag) + 1 if flag in arguments else len(arguments)
            if at < len(arguments) and arguments[at].isascii() and arguments[at].isdigit():
                options[option] = int(arguments[at])
    return options


class Told(NamedTuple):
    """What an answer means. `what` and `detail` say it in words: "got `what` from some model`detail`"."""

    answer: Answer
    what: str = ""
    detail: str = ""


def read_answer(status: int, body: bytes) -> Told:
    """Say what a whole answer means."""
    if status in _BUSY:
        return Told(Answer.OPEN, f"status {status}", ": the server is busy")
    if status == 404:
        return Told(Answer.OPEN, "status 404", ": the model is not there any more")
    plain = _object(body)
    error = plain.get("error") if plain is not None else None
    if isinstance(error, dict):
        error = error.get("message")
    told = f": {safe_text(error, limit=200)}" if isinstance(error, str) and error else ""
    if status in range(400, 500) or status == 501:
        return Told(Answer.UNFIT, f"status {status}", told)
    if status != 200:
        return Told(Answer.MISS, f"status {status}", told)
    if plain is None:
        return Told(Answer.MISS, "an answer that is not JSON")
    if told:
        return Told(Answer.MISS, "an error", told)
    if plain.get("done") is not True:
        return Told(Answer.MISS, "an answer without an end")
    # A model that thinks may spend its one token on a mark that is cut out of the text: the count is what tells.
    count = plain.get("eval_count")
    if (_is_count(count) and count) or plain.get("response") or plain.get("thinking"):
        return Told(Answer.TOKEN)
    return Told(Answer.MISS, "an answer without a token")


def _object(body: bytes) -> dict[str, Any] | None:
    if len(body) > LONGEST_BODY:
        return None
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60
