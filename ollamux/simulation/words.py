"""Say something: words, vectors and token counts, always the same for the same question. Pure."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterator

_TEXT = (
    "the a of to and in it is was for on are with they be at one have this from by some what there we can out other"
    " were all your when up use word how each she which do their time if will way about many then them would write like"
    " these her long make thing see him two has look more day could go come did my no most number who over know water"
    " than call first people may down side been now find"
)
_WORDS = _TEXT.split(" ")
# What the chat template puts around one message.
TEMPLATE_TOKENS = 14


def count_tokens(text: str) -> int:
    """Return how many tokens a text has: its words, and a blank at its end."""
    return len(re.findall(r"\S+", text)) + (1 if text[-1:].isspace() else 0)


def _stream(seed: str) -> Iterator[int]:
    block = 0
    while True:
        digest = hashlib.sha256(f"{seed}/{block}".encode()).digest()
        yield from struct.unpack("<16H", digest)
        block += 1


def words(prompt: str, seed: int, limit: int) -> tuple[list[str], str]:
    """Return words that answer a prompt and why they end: "stop" or "length"."""
    numbers = _stream(f"{seed}:{prompt}")
    natural = 24 + next(numbers) % 60
    count = natural if limit < 0 else min(limit, natural)
    said = [" " + _WORDS[next(numbers) % len(_WORDS)] for _ in range(count)]
    return said, "stop" if count == natural else "length"


def token_ids(text: str) -> list[int]:
    """Return a number for each word, as the `context` of an answer holds them."""
    return [int(hashlib.sha256(word.encode()).hexdigest()[:4], 16) % 500 + 5 for word in text.split()]


def vector(text: str, size: int) -> list[float]:
    """Return a vector of length one that stands for a text."""
    numbers = _stream(f"vector:{text}")
    values = [next(numbers) / 32768 - 1 for _ in range(size)]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [float(f"{value / norm:.8g}") for value in values]
