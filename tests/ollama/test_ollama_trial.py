"""What the log and the answers of a trial mean: whether a value works, and why not."""

from __future__ import annotations

import json

import pytest

from ollamux.domain.spec import LoadOptions
from ollamux.domain.tune import Asked, Outcome
from ollamux.ollama import trial
from ollamux.ollama.loading import kept_for, options_told

_HEAD = "time=2026-01-31T12:00:00.000Z level=INFO source=x.go:1"
START = f'{_HEAD} msg="starting llama-server" cmd="llama-server --model /m --port 1"\n'
STARTED = f'{_HEAD} msg="llama-server started in 1.25 seconds"\n'
LOADED = """load_tensors: offloaded 30/37 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   100.00 MiB
load_tensors:        CUDA0 model buffer size =   900.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    32.00 MiB
sched_reserve:      CUDA0 compute buffer size =    10.00 MiB
sched_reserve:      CUDA0 compute buffer size =    12.00 MiB
"""
MIB = 1024**2


def test_the_servers_account_of_what_it_has_loaded() -> None:
    found = trial.account_of((START + LOADED + STARTED).encode())

    assert (found.attempts, found.load_s, found.offloaded, found.total) == (1, 1.25, 30, 37)
    assert found.card_bytes == (900 + 64 + 32 + 12) * MIB, "two caches, and the last of what is said twice"
    assert found.host_bytes == 100 * MIB and not found.cache_in_host
    assert trial.account_of(b"").attempts == 0
    broken = trial.account_of((START + LOADED).encode())
    assert broken.offloaded == 30 and broken.card_bytes is None, "what was not loaded takes nothing"


def test_what_a_load_shows() -> None:
    account = trial.account_of((START + LOADED + STARTED).encode())

    assert trial.judge_load(account, cards=True, layers=None)[0] is Outcome.SPILLED
    assert trial.judge_load(account, cards=True, layers=30)[0] is Outcome.WORKS
    assert trial.judge_load(account, cards=True, layers=31) == (
        Outcome.SPILLED,
        "only 30 of 37 layers are on the card",
    )
    assert trial.judge_load(account, cards=False, layers=None)[0] is Outcome.WORKS
    twice = trial.account_of((START + LOADED + START + LOADED + STARTED).encode())
    assert trial.judge_load(twice, cards=True, layers=30)[0] is Outcome.NO_MEMORY
    silent = trial.account_of((START + STARTED).encode())
    assert trial.judge_load(silent, cards=True, layers=None) == (Outcome.SPILLED, "no layer is on a card")
    assert trial.judge_load(silent, cards=True, layers=0)[0] is Outcome.WORKS
    whole = (START + LOADED + STARTED).replace("30/37", "37/37").replace("CUDA0 KV", "CPU KV")
    assert trial.judge_load(trial.account_of(whole.encode()), cards=True, layers=None)[0] is Outcome.SPILLED


@pytest.mark.parametrize(
    ("log", "said", "outcome"),
    (
        ("cudaMalloc failed: out of memory\n", "exit status 1", Outcome.NO_MEMORY),
        ("libgomp: Thread creation failed: Resource temporarily unavailable\n", "exit status 1", Outcome.NO_MEMORY),
        ("", "llama-server process has terminated: signal: killed", Outcome.NO_MEMORY),
        ("", "memory layout cannot be allocated with num_gpu = 99", Outcome.NO_MEMORY),
        ("", "unknown model architecture", Outcome.FAILED),
    ),
)
def test_what_a_failure_means(log: str, said: str, outcome: Outcome) -> None:
    body = json.dumps({"error": said}).encode()
    found, reason = trial.judge_failure(trial.account_of((START + log).encode()), 500, body)
    assert found is outcome and reason == (log.strip() or said)


def test_a_context_must_have_been_filled_and_something_generated() -> None:
    full = Asked(prompt_tokens=8100, prompt_s=1.0, tokens=24, generation_s=1.0)
    short = Asked(prompt_tokens=4000, prompt_s=1.0, tokens=24, generation_s=1.0)
    silent = Asked(prompt_tokens=8100, prompt_s=1.0, tokens=0, generation_s=None)
    assert trial.judge_answers([full, full], 8192)[0] is Outcome.WORKS
    assert trial.judge_answers([full, short], 8192)[0] is Outcome.FAILED
    assert trial.judge_answers([silent], 8192)[0] is Outcome.FAILED


def test_a_prompt_is_made_to_fill_a_context_whatever_a_word_is_in_tokens() -> None:
    for each, base in ((1, 10), (2, 3), (0.5, 5), (6, 1)):
        short, long = (base + each * words for words in (24, 72))
        found = trial.filling(round(short), round(long))
        assert found is not None
        for context in (256, 4096, 131072):
            tokens = base + each * found.words(context)
            assert context * 0.8 <= tokens <= context - trial.GENERATED, (each, base, context)
    assert trial.filling(10, 10) is None
    assert trial.prompt_of(3, 7) == "000000007 water water water "


@pytest.mark.parametrize("body", (b"", b"[]", b"{", b'{"error":"x"}', b"[" * 100_000))
def test_answers_that_make_no_sense_are_borne(body: bytes) -> None:
    asked = trial.asked_of(body)
    assert asked is None or asked.prompt_tokens == 0


def test_headroom_is_what_is_left_free() -> None:
    assert trial.judge_memory(1 * MIB, 2 * MIB)[0] is Outcome.TOO_FULL
    assert trial.judge_memory(2 * MIB, 2 * MIB)[0] is Outcome.WORKS
    assert trial.judge_memory(None, 2 * MIB)[0] is Outcome.WORKS


def test_how_a_model_was_loaded_is_told_by_its_runner_and_its_time() -> None:
    words = ["llama-server", "--model", "/m", "-c", "4096", "-np", "2", "-b", "512", "-ngl", "12", "-t", "3"]
    assert options_told(words) == LoadOptions(num_gpu=12, num_thread=3)
    assert options_told([*words[:-6], "-b", "64"]) == LoadOptions(num_batch=64)
    assert options_told(["ollama", "runner", "--model", "/m", "--port", "1"]) == LoadOptions()
    assert kept_for(None, None) == -1.0 and kept_for(None, -1.0) is None
    assert kept_for(200.0, None) is None and kept_for(7000.0, None) == 7000.0
    assert kept_for(7000.0, -1.0) is None
