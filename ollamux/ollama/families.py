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

    Before 0.30: `is_engine`, ollama computes it with an engine of its own, not with llama.cpp; `remembers`, of a window
    so many places are kept there at least; `has_flash`, it can be computed with flash attention there.
    """

    is_known: bool = True
    pattern: int | None = None
    window: int | None = None
    recurrent: Literal["", "all", "headless", "interval"] = ""
    is_both: bool = False
    is_embedding: bool = False
    single: bool = False
    is_engine: bool = False
    remembers: int = 0
    has_flash: bool = True
    has_value_norm: bool = False


UNKNOWN = Family(is_known=False)
_PLAIN = Family()
_ENGINE = Family(is_engine=True)
_BERT = Family(is_embedding=True, is_engine=True, has_flash=False)

FAMILIES: dict[str, Family] = {
    "llama": _PLAIN,
    "qwen2": _PLAIN,
    "granite": _PLAIN,
    "gemma": _PLAIN,
    "glm4": _PLAIN,
    "mistral3": _ENGINE,
    "qwen3": _ENGINE,
    "qwen3moe": _ENGINE,
    # Its window is switched off there, so every layer keeps the whole context.
    "phi3": _PLAIN,
    "deepseek2": Family(has_flash=False),
    "gemma2": Family(pattern=2, window=4096, has_flash=False),
    "gemma3": Family(pattern=6, is_engine=True),
    "gemma4": Family(pattern=1, is_engine=True, remembers=4096, has_value_norm=True),
    "gpt-oss": Family(pattern=2, is_engine=True, remembers=4096),
    "mamba": Family(recurrent="all"),
    "mamba2": Family(recurrent="all"),
    "jamba": Family(recurrent="headless"),
    "granitehybrid": Family(recurrent="headless"),
    "lfm2": Family(recurrent="headless", single=True, is_engine=True),
    "qwen3next": Family(recurrent="interval", single=True, is_engine=True),
    "qwen35": Family(recurrent="interval", single=True, is_engine=True),
    "qwen35moe": Family(recurrent="interval", single=True, is_engine=True),
    "bert": _BERT,
    "nomic-bert": _BERT,
}

ALIASES = {"gptoss": "gpt-oss"}
"""Names that files of ollama's own have for the same kind."""
