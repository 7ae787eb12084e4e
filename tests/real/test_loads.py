"""Of real servers: `status models` says what the log says, and a plan after a load says what that took."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
from typing import Any

import pytest

from . import zoo
from .box import Box, ask, proc_state, until
from .conftest import NO_GGUF

pytestmark = pytest.mark.real_ollama

KINDS = {
    "llama": "dense",
    "gemma3": "with a sliding window",
    "lfm2": "hybrid",
    "mamba2": "recurrent",
    "bert": "one that embeds",
}
CONTEXT, PARALLEL = 1024, 2
MIB = 1024**2
_RUNNERS = re.compile(r"(model|KV|RS|compute|output) buffer size\s*=\s*([\d.]+) MiB")
_SERVERS = re.compile(r'msg="(model weights|kv cache|compute graph)" device=CPU size="([\d.]+) (KiB|MiB)"')
_NAMES = {"model": "weights", "model weights": "weights", "kv cache": "kv", "compute graph": "compute"}
_NAMES |= {"KV": "kv", "RS": "state", "compute": "compute", "output": "output"}


def logged(text: str) -> dict[str, int]:
    """Return what a log tells of buffers: those of the runner, else what the server worked out before 0.30."""
    lines = [(kind, float(size)) for kind, size in _RUNNERS.findall(text)]
    if not lines:
        lines = [(kind, float(size) / (1024 if unit == "KiB" else 1)) for kind, size, unit in _SERVERS.findall(text)]
    found: dict[str, int] = {}
    for kind, size in lines:
        found[_NAMES[kind]] = found.get(_NAMES[kind], 0) + int(size * MIB)
    return found


def use(box: Box, name: str) -> None:
    options = {"num_ctx": CONTEXT, "num_thread": 1}
    body: dict[str, Any] = {"model": name, "stream": False, "keep_alive": -1, "options": options}
    if name == "bert":
        ask(box.ports["a"], "POST", "/api/embed", {**body, "input": "a b"})
    else:
        ask(box.ports["a"], "POST", "/api/generate", body)


def rows(box: Box) -> dict[str, dict[str, Any]]:
    return {row["name"].removesuffix(":latest"): row for row in box.status("models")["models"]}


def sizes(row: dict[str, Any]) -> dict[str, int]:
    """Return the buffers of a model, all of which are in host memory here."""
    assert not any(each["on_gpu"] for each in row["buffers"])
    assert {each["device"] for each in row["buffers"]} == {"CPU"}
    return {each["kind"]: each["bytes"] for each in row["buffers"]}


@pytest.fixture
def stocked(box: Box) -> Box:
    """Return a box whose server holds one model of each kind, none of them loaded."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip(NO_GGUF)
    box.configure(
        {"a": {}}, context_length=CONTEXT, num_parallel=PARALLEL, max_loaded_models=9, health={"interval": "200ms"}
    )
    box.up()
    for name in KINDS:
        folder = box.root / name
        folder.mkdir()
        box.ok("exec", "a", "--", "ollama", "create", name, "-f", str(zoo.write(folder, name)))
    return box


def test_models_are_shown_as_the_log_tells_and_planned_as_they_were_measured(stocked: Box) -> None:
    box, log, told = stocked, stocked.logs / "a.log", {}
    estimates = {name: plan(box, name) for name in KINDS}
    for name in KINDS:
        before = log.stat().st_size
        use(box, name)
        until(lambda name=name: rows(box).get(name, {}).get("buffers"), f"{name} is shown", shown=box.told)
        told[name] = logged(log.read_bytes()[before:].decode())
    shown = rows(box)
    for name in KINDS:
        assert sizes(shown[name]) == told[name], name
        layers = {None} if box.ollama.has_llama_server else {None, 0}
        assert (shown[name]["layers"] or {"offloaded": None})["offloaded"] in layers, "there is no GPU here"
    if box.ollama.has_llama_server:
        assert "state" in told["lfm2"] and "kv" not in told["mamba2"]
        assert shown["gemma3"]["size_bytes"] < sum(told["gemma3"].values()), "ps counts one of two caches"
    until(lambda: len(measurements(box)) == len(KINDS), "all of it is written down", shown=box.told)
    for name in KINDS:
        found, size = plan(box, name), sum(told[name].values())
        assert found["source"] == "calibrated", (name, found)
        assert (found["measured_total_bytes"], found["total_bytes"]) == (size, size)
        assert found["estimated_total_bytes"] == estimates[name]["total_bytes"]
        assert found["weights_bytes"] == told[name]["weights"]
        assert found["kv_bytes"] == told[name].get("kv", 0) + told[name].get("state", 0)
        assert found["compute_bytes"] == told[name]["compute"] + told[name].get("output", 0)
    assert "Measured" in box.ok("plan", *KINDS, "--config", str(box.config))


def measurements(box: Box) -> list[Any]:
    path = box.state / "measured.json"
    return list(json.loads(path.read_text())["loads"]) if path.exists() else []


def plan(box: Box, name: str) -> dict[str, Any]:
    found = box.ok("plan", name, "--config", str(box.config), "-o", "json")
    row: dict[str, Any] = json.loads(found)["models"][0]
    return row


def kill_supervisor(box: Box) -> None:
    pid = box.status()["supervisor"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: proc_state(pid) is None, "the supervisor is gone")


def test_a_reload_in_another_way_and_a_supervisor_that_was_killed(stocked: Box) -> None:
    box = stocked
    use(box, "llama")
    use(box, "gemma3")
    until(lambda: len(rows(box)) == 2 and all(row["buffers"] for row in rows(box).values()), "both", shown=box.told)
    first = sizes(rows(box)["llama"])["kv"]
    options = {"num_ctx": 2 * CONTEXT, "num_thread": 1}
    ask(box.ports["a"], "POST", "/api/generate", {"model": "llama", "stream": False, "options": options})

    def is_told() -> bool:
        row = rows(box).get("llama", {})
        return bool(row.get("buffers")) and sizes(row)["kv"] == 2 * first

    until(is_told, "the later load is told", shown=box.told)
    before = {name: row["buffers"] for name, row in rows(box).items()}

    kill_supervisor(box)
    box.up()

    def known() -> bool:
        found = {name: row["buffers"] for name, row in rows(box).items()}
        return found == before and box.instance("a")["adopted"]

    until(known, "it is known again", shown=box.told)
    kill_supervisor(box)
    os.truncate(box.logs / "a.log", 0)
    box.up()
    until(lambda: len(rows(box)) == 2, "they are seen again", shown=box.told)
    assert {row["buffers"] for row in rows(box).values()} == {None}, "the lines are gone: nothing is guessed"
