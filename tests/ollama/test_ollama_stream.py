"""The question of a bench, and its answer in whatever pieces it comes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.ollama.stream import GenerateStream, prompt, question

LINES = [
    {"model": "m", "response": "", "done": False},
    {"model": "m", "response": " wörd", "done": False},
    {"model": "m", "response": " two", "done": False},
    {
        "model": "m", "response": "", "done": True, "done_reason": "length", "load_duration": 5_000_000,
        "prompt_eval_count": 64, "prompt_eval_duration": 250_000_000, "eval_count": 2, "eval_duration": 40_000_000,
    },
]  # fmt: skip
WHOLE = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in LINES)
TOLD = {
    "prompt_tokens": 64, "prompt_s": 0.25, "tokens": 2, "generation_s": 0.04, "load_s": 0.005, "done_reason": "length",
}  # fmt: skip


def fed(*pieces: bytes) -> GenerateStream:
    stream = GenerateStream()
    for number, piece in enumerate(pieces):
        stream.feed(piece, float(number))
    stream.end(99.0)
    return stream


@given(st.sets(st.integers(1, len(WHOLE) - 1)))
def test_it_is_read_the_same_however_it_is_cut(cuts: set[int]) -> None:
    ends = [0, *sorted(cuts), len(WHOLE)]
    stream = fed(*(WHOLE[one:other] for one, other in pairwise(ends)))
    assert stream.error is None and stream.told == TOLD
    first_text = WHOLE.index(b"\n", WHOLE.index(b"\n") + 1)
    assert stream.first_at == sum(1 for cut in cuts if cut <= first_text), "when the first text was whole"


def test_the_first_token_of_a_model_that_thinks_counts() -> None:
    assert fed(b'{"response":""}\n', b'{"response":"","thinking":"hm"}\n', WHOLE).first_at == 1.0


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ((), "the answer was empty"),
        ((b"\n\n",), "the answer was empty"),
        ((WHOLE[:60],), "the answer is not one of ollama"),
        ((WHOLE.rsplit(b"\n", 2)[0] + b"\n",), "the answer broke off before its end"),
        ((WHOLE[:20], b'\n{"error":"boom"}\n'), "boom"),
        ((b'{"response":"x"}\n{"error":"unexpected EOF"}\n',), "unexpected EOF"),
        ((b'{"response":" a"}\n' * 31,), "the model said one word for ever, and the server ended it"),
        ((b'{"response":" a"}\n' * 30,), "the answer broke off before its end"),
        ((b'{"error":"boom"}',), "boom"),
        ((b"<html>",), "the answer is not one of ollama"),
        ((b"[1]\n",), "the answer is not one of ollama"),
        ((b'{"error":"a\x1b[31m"}\n',), "the answer is not one of ollama"),
        ((b'{"error":"a\\u001b[31m"}\n',), "a\\x1b[31m"),
    ],
)
def test_what_is_no_whole_answer_is_told(pieces: tuple[bytes, ...], error: str) -> None:
    assert fed(*pieces).error == error


def test_an_endless_line_takes_no_more_memory() -> None:
    stream = GenerateStream()
    for _ in range(80):
        stream.feed(b"x" * 65536, 0.0)
    assert stream.error == "a line of the answer is endless"
    assert len(stream._rest) < 5 << 20


@pytest.mark.parametrize("junk", [None, -1, True, "7", 1.5, 1 << 70, [], {}])
def test_a_count_that_cannot_be_is_unknown(junk: Any) -> None:
    names = ("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration", "load_duration", "done_reason")
    told = fed(json.dumps({"done": True, **dict.fromkeys(names, junk)}).encode()).told
    assert {value for name, value in told.items() if name != "done_reason"} == {None}


def test_no_two_prompts_begin_alike_and_the_same_numbers_give_the_same_one() -> None:
    texts = [prompt("run", number, 512) for number in range(2000)]
    assert len({tuple(text.split()[:4]) for text in texts}) > 1990
    assert all(len(text.split()) == 512 for text in texts)
    assert texts[7] == prompt("run", 7, 512) != prompt("other", 7, 512)


def test_the_question_says_nothing_that_would_load_the_model_anew_or_keep_it() -> None:
    body = json.loads(question("m", "the of", tokens=9, options={"num_ctx": 1024}))
    assert body.pop("options") == {
        "num_ctx": 1024,
        "num_predict": 9,
        "seed": 42,
        "temperature": 0,
        "repeat_penalty": 1.5,
    }
    assert body == {"model": "m", "prompt": "the of", "raw": True, "stream": True}
