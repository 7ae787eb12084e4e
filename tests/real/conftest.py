"""Finds the real ollama, or says how to give one; makes the models once a session, and a box for each test."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollamux.ollama.binary import version_text
from tests.ports import free_port

from . import tiny_model
from .box import Box, Ollama, answers, end, serve, until

MODELS = ("tiny", "other")
HOW = "put a real one first: PATH=/path/to/ollama/bin:$PATH python -m pytest -m real_ollama"
NO_GGUF = "the model of this test is written with the PyPI package gguf, which is not installed: pip install gguf"


def _find() -> Ollama | str:
    """Return the real program, or the reason why there is none."""
    path = shutil.which("ollama")
    if path is None:
        return f"no ollama on PATH; {HOW}"
    with open(path, "rb") as file:
        if file.read(2) == b"#!":
            return f"the ollama on PATH, {path}, is a script; {HOW}"
    version = version_text(path)
    if version is None:
        return f"the ollama on PATH, {path}, does not tell its version; {HOW}"
    return Ollama(Path(path).absolute(), version)


@pytest.fixture(scope="session")
def ollama() -> Ollama:
    found = _find()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def stored_model(ollama: Ollama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that holds the models of these tests, made by the real `ollama create`."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip(NO_GGUF)
    root = tmp_path_factory.mktemp("model")
    store, port = root / "store", free_port()
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(root),
        "OLLAMA_MODELS": str(store),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
    }
    server = serve(ollama, env)
    try:
        until(lambda: answers(port), "the server that makes the models answers")
        for seed, name in enumerate(MODELS, start=1):
            folder = root / name
            folder.mkdir()
            words = [str(ollama.path), "create", name, "-f", str(tiny_model.write(folder, seed=seed))]
            made = subprocess.run(
                words, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
            )
            assert made.returncode == 0, made.stderr.decode() + (root / "serve.log").read_text()
    finally:
        end(server)
    return store


@pytest.fixture(autouse=True)
def box(ollama: Ollama, tmp_path: Path) -> Iterator[Box]:
    """Give each test a box of its own, and let nothing of it outlive the test."""
    made = Box(tmp_path, ollama)
    yield made
    left = made.close()
    assert not left, "left behind, ended now: " + "; ".join(left)


@pytest.fixture
def model(box: Box, stored_model: Path) -> str:
    """Put the models into the store of the box; return the name of the first, which is what most tests use."""
    shutil.copytree(stored_model, box.store)
    return MODELS[0]
