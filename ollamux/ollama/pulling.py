"""Read the stream of `POST /api/pull`, and say in plain words why a pull failed. Pure; bounded on whatever comes."""

from __future__ import annotations

import json

from ollamux.domain.text import safe_text

PULL = "/api/pull"
_LONGEST_LINE = 64 * 1024
_MOST_LAYERS = 4096
_LARGEST = 1 << 60
_NO_NETWORK = (
    "no such host",
    "network is unreachable",
    "connection refused",
    "i/o timeout",
    "no route to host",
    "temporary failure in name resolution",
    "tls handshake timeout",
    "server misbehaving",
    "proxyconnect",
)
_NOT_THERE = ("file does not exist", "manifest unknown", "pull model manifest: 404")


def request(name: str) -> bytes:
    """Return the body that asks for a model."""
    return json.dumps({"model": name, "stream": True}).encode()


class PullStream:
    """What the lines have told so far. Layers are told one after the other; the sums are of those that were."""

    def __init__(self) -> None:
        self.status = ""
        self.error: str | None = None
        self.succeeded = False
        self._layers: dict[str, tuple[int, int]] = {}
        self._rest = b""

    @property
    def completed_bytes(self) -> int | None:
        """Return what has come, None as long as nothing is known of it."""
        return sum(done for done, _ in self._layers.values()) if self._layers else None

    @property
    def total_bytes(self) -> int | None:
        """Return what is to come in all, as far as it is known."""
        return sum(total for _, total in self._layers.values()) if self._layers else None

    def feed(self, data: bytes) -> None:
        """Take in a piece of the stream; what is no line of it is passed over."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self._rest = b""
        for line in lines:
            self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(row, dict):
            return
        if isinstance(row.get("error"), str):
            self.error = safe_text(row["error"], limit=300)
        if isinstance(row.get("status"), str):
            self.status = safe_text(row["status"], limit=80)
            self.succeeded = self.succeeded or self.status == "success"
        digest, total = row.get("digest"), _count(row.get("total"))
        if isinstance(digest, str) and total is not None and len(self._layers) < _MOST_LAYERS:
            self._layers[digest[:100]] = (min(_count(row.get("completed")) or 0, total), total)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _LARGEST else None


def in_plain_words(name: str, error: str) -> tuple[str, str | None]:
    """Return what an error of a pull means, and the way out where there is one."""
    low, shown = error.lower(), safe_text(name)
    if any(part in low for part in _NOT_THERE):
        return f"there is no model {shown} to be fetched", "https://ollama.com/search lists names and tags"
    if any(part in low for part in _NO_NETWORK):
        return (
            f"the registry cannot be reached: {error}",
            "is there a network, or a proxy to name in env (HTTPS_PROXY)?",
        )
    if "no space left" in low or "disk quota" in low:
        return f"no space is left for it: {error}", "make room, then pull again: what has come so far is kept"
    if "permission denied" in low or "read-only file system" in low:
        return f"the server may not write to its store: {error}", "ollamux doctor tells whose the store is"
    if "digest mismatch" in low:
        return f"it came damaged: {error}", "pull it again"
    if "invalid model name" in low:
        return f"{shown} is not the name of a model", 'as "qwen3:8b" or "hf.co/user/model-GGUF:Q4_K_M"'
    return error, None
