"""What `ollamux plan` says of weights, caches, states and compute buffers, against what real servers log.

On the CPU, whose buffers follow the same rules. A server logs MiB with two decimals, so nothing finer can be seen here.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from ollamux.ollama.compute import compute_bytes
from ollamux.ollama.estimate import OLDER_PERCENT
from ollamux.ollama.memory import CPU, Wish, batch_of, is_engine, layers_bytes, weights_bytes
from ollamux.ollama.needs import Model, read_model
from ollamux.ollama.version import Era
from tests.ports import free_port

from . import zoo
from .box import Ollama, answers, ask, end, serve, until
from .conftest import NO_GGUF

pytestmark = [pytest.mark.real_ollama, pytest.mark.timeout(600)]

_LINE = re.compile(r"(model|KV|RS|compute) buffer size\s*=\s*([\d.]+) MiB")
_EXACT = re.compile(
    r"msg=memory success=true required\.InputWeights=(\d+) required\.CPU\.Weights=\"\[([\d ]+)\]\""
    r"(?: required\.CPU\.Cache=\"\[([\d ]+)\]\")? required\.CPU\.Graph=(\d+)"
)
_MIB = 1024**2
_FINEST = 0.005 * _MIB + 1


class Setting(NamedTuple):
    """How the server is started."""

    flash: bool
    cache_type: str
    parallel: int

    def __str__(self) -> str:
        return f"{'flash' if self.flash else 'plain'}-{self.cache_type}-{self.parallel}"


SETTINGS = (
    Setting(True, "f16", 1),
    Setting(True, "f16", 4),
    Setting(False, "f16", 1),
    Setting(False, "f16", 4),
    Setting(True, "q8_0", 1),
    Setting(True, "q4_0", 4),
)
CONTEXT = 2048


@pytest.fixture(scope="session")
def stored_zoo(ollama: Ollama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a store with one small model of each architecture, made by the real `ollama create`."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip(NO_GGUF)
    root = tmp_path_factory.mktemp("zoo")
    store, port = root / "store", free_port()
    env = _env(root, store, port)
    server = serve(ollama, env)
    try:
        until(lambda: answers(port), "the server that makes the models answers")
        for name in zoo.ZOO:
            folder = root / name
            folder.mkdir()
            words = [str(ollama.path), "create", name, "-f", str(zoo.write(folder, name))]
            made = subprocess.run(
                words, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
            )
            assert made.returncode == 0, (name, made.stderr.decode())
            shutil.rmtree(folder)
    finally:
        end(server)
    yield store
    shutil.rmtree(root)


def _env(root: Path, store: Path, port: int) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(root),
        "OLLAMA_MODELS": str(store),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_LLM_LIBRARY": "cpu",
        "OLLAMA_DEBUG": "1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
    }


def _load(port: int, name: str) -> None:
    options = {"num_ctx": CONTEXT, "num_thread": 1}
    if "bert" in name:
        ask(port, "POST", "/api/embed", {"model": name, "input": "a b", "options": options})
    else:
        body = {"model": name, "prompt": "a", "stream": False, "raw": True, "options": {**options, "num_predict": 1}}
        ask(port, "POST", "/api/generate", body)


def logged(text: str) -> dict[str, tuple[float, int]]:
    """Return what a log tells of buffers: bytes, and how many lines they were added from.

    Ollama's own engine, before 0.30, tells bytes to the last one, with states among the caches.
    """
    exact = _EXACT.findall(text)
    if exact:
        outside, weights, caches, graph = exact[-1]
        added = {"model": f"{outside} {weights}", "KV": caches, "compute": graph}
        return {part: (float(sum(map(int, sizes.split()))), 0) for part, sizes in added.items()}
    found: dict[str, tuple[float, int]] = {}
    for kind, size in _LINE.findall(text):
        before, count = found.get(kind, (0.0, 0))
        found[kind] = (before + float(size) * _MIB, count + 1)
    return found


def planned(model: Model, wish: Wish) -> dict[str, int]:
    """Return what the plan says of the same buffers on the CPU, whose batch does not hang on flash attention."""
    wish = replace(wish, batch=batch_of(model.shape, replace(wish, flash=True)))
    layers = layers_bytes(model.shape, wish, CPU)
    tensors = [
        *model.shape.input,
        *model.shape.output,
        *(t for one in model.shape.layers for t in one.tensors.values()),
    ]
    has_output = any(one.name == "output.weight" for one in model.shape.output)
    if (is_engine(model.shape, wish) and not has_output) or model.shape.architecture in zoo.TWICE:
        # The own engine copies the token embedding for the output on the CPU too.
        tensors += [one for one in model.shape.input if one.name == "token_embd.weight"]
    if is_engine(model.shape, wish):
        # And a small tensor of all layers for each of them.
        tensors += [one for one in model.shape.input if one.name == "rope_freqs.weight"] * (len(model.shape.layers) - 1)
    states = sum(layer.state for layer in layers)
    caches = sum(layer.cache for layer in layers)
    return {
        "model": weights_bytes(tensors, CPU),
        "KV": caches + (states if is_engine(model.shape, wish) else 0),
        "RS": 0 if is_engine(model.shape, wish) else states,
        "compute": compute_bytes(model.shape, wish),
    }


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_plan_is_what_the_server_takes(
    ollama: Ollama, stored_zoo: Path, tmp_path: Path, setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    env = _env(tmp_path, stored_zoo, port) | {
        "OLLAMA_FLASH_ATTENTION": str(int(setting.flash)),
        "OLLAMA_KV_CACHE_TYPE": setting.cache_type,
        "OLLAMA_NUM_PARALLEL": str(setting.parallel),
    }
    server = serve(ollama, env)
    log = tmp_path / "serve.log"
    rows: list[tuple[str, dict[str, tuple[float, int]]]] = []
    try:
        until(lambda: answers(port), "the server answers")
        for name in zoo.ZOO if ollama.has_llama_server else zoo.ZOO.keys() - zoo.NEWER:
            start = log.stat().st_size
            _load(port, name)
            with log.open() as file:
                file.seek(start)
                rows.append((name, logged(file.read())))
    finally:
        end(server)
    era = Era.LLAMA_SERVER if ollama.has_llama_server else Era.RUNNER
    wish = Wish(context=CONTEXT, parallel=setting.parallel, cache_type=setting.cache_type, flash=setting.flash, era=era)
    wrong = []
    with capsys.disabled():
        print(f"\n{ollama.version} {setting}")
        for name, seen in rows:
            wrong += _compared(name, seen, planned(read_model(stored_zoo, name), wish), wish)
    assert not wrong, wrong


def _compared(name: str, seen: dict[str, tuple[float, int]], ours: dict[str, int], wish: Wish) -> list[str]:
    wrong, shown = [], []
    for part in ("model", "KV", "RS"):
        size, lines = seen.get(part, (0.0, 0))
        off = ours[part] - size
        shown.append(f"{part} {size / _MIB:.2f} ({off / _MIB:+.2f})")
        if abs(off) > _FINEST * lines:
            wrong.append(f"{name}: {part} {ours[part]} planned, {size:.0f} logged")
    size, _ = seen.get("compute", (0.0, 0))
    off = (ours["compute"] - size) / size if size else 1.0
    shown.append(f"compute {size / _MIB:.2f} ({off:+.1%})")
    # Of runners before 0.30 only a bound is told.
    bound = ours["compute"] * OLDER_PERCENT // 100 >= size
    close = abs(off) <= (0.1 if wish.flash else 0.2)
    if not (close if wish.era is Era.LLAMA_SERVER else bound):
        wrong.append(f"{name}: compute {ours['compute']} planned, {size:.0f} logged")
    print(f"  {name:14}", ", ".join(shown))
    return wrong
