"""What is peculiar to each architecture that was compared with a real server. A table and nothing else.

Source: https://github.com/ggml-org/llama.cpp/tree/master/src/models and `src/llama-model.cpp` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How an architecture departs from a plain transformer.

    `pattern` P: of P layers in a row the last sees all, the others a window; the head may say otherwise. `window`: how
    wide it is where the head does not say. `recurrent`: which layers keep a state instead of a cache: "all", those
    without KV heads ("headless"), or all but each n-th ("interval"). `is_both`: a layer has both. `single`: ollama runs
    it with one sequence at a time, whatever is asked for.
    """

    is_known: bool = True
    pattern: int | None = None
    window: int | None = None
    recurrent: Literal["", "all", "headless", "interval"] = ""
    is_both: bool = False
    is_embedding: bool = False
    single: bool = False


UNKNOWN = Family(is_known=False)
_PLAIN = Family()
_BERT = Family(is_embedding=True)

FAMILIES: dict[str, Family] = {
    "llama": _PLAIN,
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "qwen3moe": _PLAIN,
    # Its window is switched off there, so every layer keeps the whole context.
    "phi3": _PLAIN,
    "deepseek2": _PLAIN,
    "gemma2": Family(pattern=2, window=4096),
    "gemma3": Family(pattern=6),
    "gpt-oss": Family(pattern=2),
    "mamba": Family(recurrent="all"),
    "mamba2": Family(recurrent="all"),
    "jamba": Family(recurrent="headless"),
    "granitehybrid": Family(recurrent="headless"),
    "lfm2": Family(recurrent="headless", single=True),
    "qwen3next": Family(recurrent="interval", single=True),
    "bert": _BERT,
    "nomic-bert": _BERT,
}

ALIASES = {"gptoss": "gpt-oss"}
"""Names that models of ollama's own have for the same."""
