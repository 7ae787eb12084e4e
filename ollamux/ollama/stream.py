"""The question of a bench as ollama takes it, and what the stream that answers it tells. Pure, and bounded.

The question carries the options that the model's runner was started with, and no keep_alive, so that what is loaded is
measured as it is (`ollamux.ollama.canary` says more). It is raw: without the template of the model the prompts differ
from their first token on, and no server can answer from what it remembers of the one before.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from ollamux.domain.text import safe_text
from ollamux.ollama.loading import error_of

GENERATE = "/api/generate"
SEED = 42
_PENALTY = 1.5
"""Without it a model that always takes the likeliest word soon says one word for ever: then ollama ends the answer."""
_SAME_AGAIN = 30
"""So often may a word follow itself (tokenRepeat in llm/server.go); nothing says then that the answer is over."""
_LONGEST_LINE = 4 << 20
_LARGEST = 1 << 60
_NANO = 1e-9
_TEXT = (
    "the of and to in is it you that he was for on are with as his they be at one have this from or had by hot word but"
    " what some we can out other were all there when up use your how said an each she which do their time if will way"
    " about many then them would write like so these her long make thing see him two has look more day could go come"
    " did number sound no most people my over know water than call first who may down side been now find"
)
_WORDS = _TEXT.split()


def prompt(run: str, number: int, words: int) -> str:
    """Return a text of so many common words that no other request of any run begins with."""
    choice = random.Random(f"{run}/{number}")  # noqa: S311 no secret: it is to be the same for the same numbers
    return " ".join(choice.choices(_WORDS, k=max(1, words)))


def question(model: str, text: str, *, tokens: int, options: Mapping[str, Any]) -> bytes:
    """Return the body of a request for so many tokens; `options` are those of the runner."""
    fixed = {"seed": SEED, "temperature": 0, "num_predict": tokens, "repeat_penalty": _PENALTY}
    body = {"model": model, "prompt": text, "raw": True, "stream": True, "options": {**options, **fixed}}
    return json.dumps(body).encode()


class GenerateStream:
    """What the lines of one answer have told so far. `first_at` is when the first text came."""

    def __init__(self) -> None:
        self.first_at: float | None = None
        self.error: str | None = None
        self.last: dict[str, Any] | None = None
        self._rest = b""
        self._text = ""
        self._again = 0

    def feed(self, data: bytes, now: float) -> None:
        """Take in a piece of the stream that came now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self.error, self._rest = "a line of the answer is endless", b""
        for line in lines:
            self._read(line, now)

    def end(self, now: float) -> None:
        """Take in that nothing more comes: the last line may lack its end, or the answer be one line alone."""
        rest, self._rest = self._rest, b""
        self._read(rest, now)
        if self.error is None and self.last is None:
            self.error = "the answer broke off before its end" if self.first_at is not None else "the answer was empty"
            if self._again >= _SAME_AGAIN:
                self.error = "the model said one word for ever, and the server ended it"

    def _read(self, line: bytes, now: float) -> None:
        if not line.strip():
            return
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            self.error = self.error or "the answer is not one of ollama"
            return
        if row.get("error") is not None:
            self.error = error_of(200, line)
        text = row.get("response") or row.get("thinking")
        if text:
            self.first_at = now if self.first_at is None else self.first_at
            self._again = self._again + 1 if text == self._text else 0
            self._text = text
        if row.get("done") is True:
            self.last = row

    @property
    def told(self) -> dict[str, Any]:
        """Return counts and seconds as the server told them; what it did not tell, or cannot be, is None."""
        last = self.last or {}
        reason = last.get("done_reason")
        return {
            "prompt_tokens": _count(last.get("prompt_eval_count")),
            "prompt_s": _seconds(last.get("prompt_eval_duration")),
            "tokens": _count(last.get("eval_count")),
            "generation_s": _seconds(last.get("eval_duration")),
            "load_s": _seconds(last.get("load_duration")),
            "done_reason": safe_text(reason, limit=40) if isinstance(reason, str) else None,
        }


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _LARGEST else None


def _seconds(value: object) -> float | None:
    count = _count(value)
    return None if count is None else round(count * _NANO, 9)
