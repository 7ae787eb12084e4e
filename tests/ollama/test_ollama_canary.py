"""The canary's question, its answers, and how long ollama itself would wait."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.canary import Answer
from ollamux.ollama.api import LoadedModel
from ollamux.ollama.canary import Facts, facts_of, question, read_answer
from ollamux.ollama.version import Era
from ollamux.ollama.waits import SLACK_S, load_patience_s

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
VERSIONS = ["v0.24.0", "v0.32.15"]
MODEL = LoadedModel(name="m:latest", digest="d", size_bytes=1, size_vram_bytes=1, context_length=4096, expires_at=None)
FACTS = Facts(generates=True, trained_context=32768)
RUNNER = ["llama-server", "--model", "/b/sha256-0", "-c", "8192", "-np", "2", "-b", "1024", "-ub", "1024", "-t", "3"]


def options(facts: Facts = FACTS, **more: Any) -> dict[str, Any]:
    asked = question(MODEL, facts, **{"era": Era.LLAMA_SERVER, "default_context": 8192, "arguments": [], **more})
    plain = json.loads(asked)
    assert set(plain) == {"model", "prompt", "stream", "options"}
    assert plain["options"].pop("num_predict") == 1
    assert plain["options"].pop("temperature") == 0
    return dict(plain["options"])


def test_the_options_are_those_of_the_runner() -> None:
    assert options() == {"num_ctx": 4096}
    assert options(arguments=RUNNER) == {"num_ctx": 4096, "num_thread": 3, "num_batch": 1024}
    assert options(arguments=["-t"]) == {"num_ctx": 4096}
    assert options(arguments=["-t", "many"]) == {"num_ctx": 4096}


def test_before_0_30_a_context_is_compared_as_it_was_asked_for() -> None:
    assert options(era=Era.RUNNER, arguments=RUNNER) == {"num_ctx": 4096}
    cut = Facts(generates=True, trained_context=4096)
    assert options(cut, era=Era.RUNNER) == {"num_ctx": 8192}
    assert options(cut, era=Era.RUNNER, default_context=2048) == {"num_ctx": 4096}
    assert options(cut) == {"num_ctx": 4096}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_real_show_says(version: str) -> None:
    assert facts_of((RECORDINGS / version / "show.json").read_bytes(), "llama") == Facts(
        generates=True, trained_context=2048
    )


@pytest.mark.parametrize(
    ("plain", "family", "generates"),
    [
        ({"capabilities": ["completion", "tools"]}, "bert", True),
        ({"capabilities": ["embedding"]}, "llama", False),
        ({"capabilities": []}, "llama", False),
        ({}, "llama", True),
        ({}, "nomic-bert", False),
        ({}, None, False),
    ],
)
def test_which_models_make_tokens(plain: dict[str, Any], family: str | None, generates: bool) -> None:
    facts = facts_of(json.dumps(plain).encode(), family)
    assert facts == Facts(generates=generates, trained_context=None)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_real_answer_is_a_token(version: str) -> None:
    assert read_answer(200, (RECORDINGS / version / "generate.json").read_bytes()).answer is Answer.TOKEN


DONE = {"done": True, "response": ""}
ANSWERS = [
    (200, {**DONE, "response": "x"}, Answer.TOKEN, ""),
    (200, {**DONE, "thinking": "x"}, Answer.TOKEN, ""),
    (200, {**DONE, "eval_count": 1}, Answer.TOKEN, ""),
    (200, {**DONE, "eval_count": 0}, Answer.MISS, "an answer without a token"),
    (200, {**DONE, "done_reason": "load"}, Answer.MISS, "an answer without a token"),
    (200, {"response": "x"}, Answer.MISS, "an answer without an end"),
    (200, {"error": "an error was encountered"}, Answer.MISS, "an error: an error was encountered"),
    (200, [], Answer.MISS, "an answer that is not JSON"),
    (500, {"error": {"message": "boom"}}, Answer.MISS, "status 500: boom"),
    (500, None, Answer.MISS, "status 500"),
    (502, {}, Answer.MISS, "status 502"),
    (503, {"error": "server busy"}, Answer.OPEN, "status 503: the server is busy"),
    (499, {}, Answer.OPEN, "status 499: the server is busy"),
    (404, {"error": "model 'm' not found"}, Answer.OPEN, "status 404: the model is not there any more"),
    (400, {"error": '"m" does not support generate'}, Answer.UNFIT, 'status 400: "m" does not support generate'),
    (403, None, Answer.UNFIT, "status 403"),
    (501, {}, Answer.UNFIT, "status 501"),
]


@pytest.mark.parametrize(("status", "body", "answer", "words"), ANSWERS)
def test_what_answers_mean(status: int, body: Any, answer: Answer, words: str) -> None:
    told = read_answer(status, json.dumps(body).encode())
    assert (told.answer, f"{told.what}{told.detail}") == (answer, words)


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_breaks_the_reader(status: int, body: bytes) -> None:
    assert read_answer(status, body).answer is not Answer.COMPUTING
    assert facts_of(body, None) is None or body.strip()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 300),
        ("", 300),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("90", 90),
        ('"20m"', 1200),
        ("0", math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        ("soon", 300),
        ("5 m", 300),
    ],
)
def test_a_load_may_stand_still_for_longer_than_ollama_bears_it(text: str | None, seconds: float) -> None:
    env = () if text is None else (("OLLAMA_LOAD_TIMEOUT", text),)
    assert load_patience_s(env) == seconds + SLACK_S
