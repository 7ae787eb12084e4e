"""What a server takes a model to need: the size of its file and an f16 cache, as 0.32.15 computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ollamux.ollama.memory import Wish
from ollamux.ollama.needs import need_of, read_model
from ollamux.ollama.predict import cache_per_token
from ollamux.ollama.version import Era
from ollamux.simulation.catalogue import CATALOGUE, gguf_of
from ollamux.simulation.memory import prediction_bytes
from ollamux.simulation.store import install, weights_of


@pytest.mark.parametrize("name", ["qwen3:8b", "llama3.2:3b", "gemma3:4b", "gpt-oss:20b", "nomic-embed-text:latest"])
def test_it_is_what_the_simulated_server_decides_by(tmp_path: Path, name: str) -> None:
    spec = CATALOGUE[name]
    install(tmp_path, spec)
    model = read_model(tmp_path, name)
    need = need_of(model, Wish(context=2048, parallel=1))
    assert need.predicted_bytes == prediction_bytes(gguf_of(spec), weights_of(spec).size, 2048)
    quantised = need_of(model, Wish(context=2048, cache_type="q8_0"))
    assert quantised.predicted_bytes == need.predicted_bytes, "it counts f16 whatever the cache is"
    assert need_of(model, Wish(context=2048, era=Era.RUNNER)).predicted_bytes == 0
    assert need_of(model, Wish(context=2048, layers=1)).predicted_bytes == 0


HEADS = {"block_count": 2, "embedding_length": 64}


@pytest.mark.parametrize(
    ("keys", "bytes_"),
    [
        (HEADS | {"attention.head_count": 4, "attention.head_count_kv": 2}, 256),
        (HEADS | {"attention.head_count": [4, 8], "attention.head_count_kv": [0, 2, 4]}, 64),
        (HEADS, 512),
        ({}, 0),
        ({"block_count": "x", "attention.head_count": True, "embedding_length": None}, 0),
    ],
)
def test_of_odd_heads(keys: dict[str, Any], bytes_: int) -> None:
    head = {"general.architecture": "a", **{f"a.{key}": value for key, value in keys.items()}}
    assert cache_per_token(head) == bytes_
