"""`ollamux tune` on a real server whose memory is limited: the context it finds is the largest that works.

The limit is that of a process (`ulimit -d`), which needs no privileges: a program in front of the real one sets it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ollamux.ollama import trial
from tests.ports import free_port

from . import zoo
from .box import Box, Ollama, answers, ask, end, proc_words, serve, until
from .conftest import NO_GGUF

pytestmark = [pytest.mark.real_ollama, pytest.mark.timeout(900)]

_NEWER, _OLDER = (3072, 80 * 1024), (1024, 20 * 1024)
"""Up to which context is searched, and how many KiB less there are than that needs; older builds compute slowly."""


@pytest.fixture
def hoard(box: Box) -> str:
    """Create the model whose cache takes much, computed by one thread: several wait for each other at every token."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip(NO_GGUF)
    folder = box.root / "hoard"
    folder.mkdir()
    modelfile = zoo.write(folder, zoo.hoarder())
    modelfile.write_text(modelfile.read_text() + "PARAMETER num_thread 1\n")
    with _Server(box, box.ollama) as server:
        env = {**server.env, "OLLAMA_HOST": f"127.0.0.1:{server.port}"}
        words = [str(box.ollama.path), "create", "hoard", "-f", str(modelfile)]
        made = subprocess.run(words, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert made.returncode == 0, made.stderr
    return "hoard"


class _Server:
    """A server outside of ollamux, for as long as it is needed."""

    def __init__(self, box: Box, ollama: Ollama) -> None:
        self.port = free_port()
        self.env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(box.home),
            "OLLAMA_MODELS": str(box.store),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_NO_CLOUD": "1",
            "OLLAMA_NOPRUNE": "1",
            "LLAMA_ARG_CACHE_RAM": "0",
        }
        self._process = serve(ollama, self.env)

    def __enter__(self) -> _Server:
        until(lambda: answers(self.port), "it answers")
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)


def limited(box: Box, limit_kb: int) -> Ollama:
    """Put a program in front of the real one that gets, with all it starts, no more memory than that."""
    path = box.root / "limited" / "ollama"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nulimit -d {limit_kb} || exit 77\nexec {box.ollama.path} "$@"\n')
    path.chmod(0o755)
    return Ollama(path, box.ollama.version)


def data_kb(box: Box, model: str, context: int) -> int:
    """Return what a runner takes that holds a context."""
    with _Server(box, box.ollama) as server:
        ask(server.port, "POST", "/api/generate", {"model": model, "options": {"num_ctx": context}})
        runners = [pid for pid in box.processes() if "--model" in proc_words(pid)]
        sizes = [Path(f"/proc/{pid}/status").read_text().partition("VmData:")[2].split()[0] for pid in runners]
        return max(map(int, sizes))


def works(box: Box, ollama: Ollama, model: str, context: int) -> bool:
    """Try one context without ollamux: whether it loads, and generates after a prompt that fills it."""
    options = {"num_ctx": context}
    with _Server(box, ollama) as server:
        try:
            answer: dict[str, Any] = ask(
                server.port,
                "POST",
                "/api/generate",
                json.loads(trial.prompt_body(model, options, trial.prompt_of(context - 60, 7))),
                timeout=300,
            )
        except AssertionError:
            return False
        # A runner that dies in the middle of it leaves an answer without an end.
        return bool(answer["done"] and answer["prompt_eval_count"] > context * 0.9 and answer["eval_count"])


def test_the_context_that_is_found_is_the_largest_that_the_memory_allows(box: Box, hoard: str) -> None:
    most, missing_kb = _NEWER if box.ollama.has_llama_server else _OLDER
    ollama = limited(box, data_kb(box, hoard, most) - missing_kb)
    box.configure({"a": {}}, ollama=str(ollama.path), context_length=512, cache_ram="0MiB")
    box.up()
    assert box.ok("models", "load", hoard, "--on", "a", "--ctx", "256", "--keep-alive", "1h")
    until(lambda: box.status()["models"], "it is seen")

    found = json.loads(
        box.ok("tune", hoard, "--on", "a", "--ctx", str(most), "--create", "fits", "-o", "json", timeout=600)
    )

    told = json.dumps(found["steps"], indent=1)
    assert found["complete"] and 256 <= found["result"] < most, told
    assert found["loads"] <= 9, told
    # A runner that gets no memory for something small beside its buffers dies without saying why.
    assert {step["outcome"] for step in found["steps"]} <= {"works", "out-of-memory", "failed"}, told
    assert found["created"] == "fits" and found["steps"][-1]["verifies"], told
    assert all(one["prompt_tokens"] > found["result"] * 0.9 for one in found["steps"][-1]["requests"]), told
    assert works(box, ollama, hoard, found["result"]), told
    assert not works(box, ollama, hoard, found["result"] + 256), told
    assert found["restored"] == ["hoard:latest"]
    instance = box.instance("a")
    assert (instance["restarts"], instance["generation"], instance["health"]) == (0, 1, "ok")
    assert [(row["name"], row["context_length"]) for row in box.ps("a")] == [("hoard:latest", 256)]
