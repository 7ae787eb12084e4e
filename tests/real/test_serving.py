"""Instances on one store serve every usual client, and what ollamux shows of them is what they say themselves."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import ollama as ollama_client
import openai
import pytest

from ollamux.ollama.binary import binary_version, find_ollama, version_text
from ollamux.ollama.version import era_of, parse_version

from .box import QUICK, Box, ask, generate, proc_env, proc_state, until

pytestmark = pytest.mark.real_ollama

SENTENCE = [{"role": "user", "content": "hello"}]


@pytest.fixture
def pair(box: Box, model: str) -> Box:
    """Two instances on one store, with a model to load."""
    box.configure({"a": {}, "b": {}}, context_length=1024, keep_alive="10m", health=QUICK)
    return box


def test_two_instances_on_one_store_get_ready(pair: Box) -> None:
    pair.up()
    status = pair.status()
    assert not status["simulated"] and status["supervisor"]["state"] == "running"
    assert [one["name"] for one in status["instances"]] == ["a", "b"]
    for one in status["instances"]:
        assert (one["phase"], one["health"], one["wanted"]) == ("READY", "ok", "up")
        assert (one["pinning"], one["gpus"]) == ("cpu", [])
        assert one["ollama_version"] == pair.ollama.version
        assert (one["restarts"], one["generation"], one["adopted"]) == (0, 1, False)
        assert proc_env(one["pid"])["OLLAMUX_INSTANCE"] == one["name"]
        assert one["rss_bytes"] > 10 * 1024**2
    assert pair.run("status").returncode == 0
    for name in ("a", "b"):
        assert pair.steps(name)[-2:] == ["STARTING", "READY"]
        assert f"http://127.0.0.1:{pair.ports[name]}" in pair.reasons(name)[-1]


def test_ollamas_own_commands_through_exec(pair: Box) -> None:
    pair.up()
    assert pair.ok("exec", "a", "--", "ollama", "run", "tiny", "hello").strip()
    assert "tiny:latest" in pair.ok("exec", "a", "--", "ollama", "ps")
    assert "tiny:latest" not in pair.ok("exec", "b", "--", "ollama", "ps")
    for name in ("a", "b"):
        assert "tiny:latest" in pair.ok("exec", name, "--", "ollama", "list")
    wrong = pair.run("exec", "a", "--", "ollama", "run", "no-such-model-anywhere", "hello")
    assert wrong.returncode != 0


@pytest.fixture(params=["a", "b"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def quiet_http() -> Iterator[httpx.Client]:
    """A client that asks the machine's proxy nothing."""
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client


def test_the_python_client_of_ollama(pair: Box, name: str) -> None:
    pair.up()
    client = ollama_client.Client(host=f"http://127.0.0.1:{pair.ports[name]}", trust_env=False, timeout=60)
    try:
        said = client.chat(model="tiny", messages=SENTENCE)
        assert said.message.role == "assistant" and said.message.content and said.done
        assert said.eval_count == 32
        written = client.generate(model="tiny", prompt="hello", options={"num_predict": 8})
        assert written.response and written.eval_count == 8 and written.done_reason == "length"
        parts = list(client.chat(model="tiny", messages=SENTENCE, stream=True))
        assert len(parts) > 2 and parts[-1].done and not parts[0].done
        assert "".join(part.message.content or "" for part in parts)
        pieces = list(client.generate(model="tiny", prompt="hello", stream=True))
        assert pieces[-1].done and "".join(piece.response for piece in pieces)
        assert {found.model for found in client.list().models} == {"tiny:latest", "other:latest"}
        assert [found.model for found in client.ps().models] == ["tiny:latest"]
        assert client.show("tiny").details.family == "llama"
        with pytest.raises(ollama_client.ResponseError) as missing:
            client.chat(model="no-such-model", messages=SENTENCE)
        assert missing.value.status_code == 404
    finally:
        client.close()


def test_the_python_client_of_openai(pair: Box, name: str, quiet_http: httpx.Client) -> None:
    pair.up()
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{pair.ports[name]}/v1", api_key="none", http_client=quiet_http, max_retries=0
    ) as client:
        said = client.chat.completions.create(model="tiny", messages=SENTENCE, max_tokens=16)
        assert said.choices[0].message.content and said.choices[0].finish_reason == "length"
        assert said.usage is not None and said.usage.completion_tokens == 16
        with client.chat.completions.create(model="tiny", messages=SENTENCE, stream=True) as stream:
            parts = list(stream)
        assert len(parts) > 2
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert client.completions.create(model="tiny", prompt="hello", max_tokens=4).choices[0].text
        assert {found.id for found in client.models.list()} == {"tiny:latest", "other:latest"}
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="no-such-model", messages=SENTENCE)


def test_loaded_models_are_shown_as_the_server_tells_them(pair: Box) -> None:
    pair.up()
    generate(pair.ports["a"])
    generate(pair.ports["b"], options={"num_ctx": 512})
    until(lambda: len(pair.status()["models"]) == 2, "both models are shown", shown=pair.told)
    shown = pair.status("models")
    assert "instances" not in shown
    for row, name, context in zip(shown["models"], ("a", "b"), (1024, 512), strict=True):
        (said,) = pair.ps(name)
        assert (row["instance"], row["name"]) == (name, "tiny:latest")
        assert row["context_length"] == said["context_length"] == context
        assert (row["size_bytes"], row["size_vram_bytes"]) == (said["size"], said["size_vram"])
        assert row["digest"] == said["digest"]
        assert row["expires_at"][:10] == said["expires_at"][:10]
        assert [one["name"] for one in pair.instance(name)["models"]] == ["tiny:latest"]
    processes = pair.status("processes")["processes"]
    for name in ("a", "b"):
        kinds = {row["kind"]: row["pid"] for row in processes if row["instance"] == name}
        assert kinds == {"serve": pair.instance(name)["pid"], "runner": pair.await_runner(name)}
    table = pair.ok("status", "models")
    assert table.count("tiny") == 2 and "1024" in table and "512" in table


def test_an_unloaded_model_is_no_longer_shown(pair: Box) -> None:
    pair.up()
    generate(pair.ports["a"])
    until(lambda: pair.status()["models"], "the model is shown", shown=pair.told)
    runner = pair.await_runner("a")
    pair.ok("exec", "a", "--", "ollama", "stop", "tiny")
    until(lambda: not pair.status()["models"], "the model is no longer shown", shown=pair.told)
    until(lambda: proc_state(runner) is None, "its runner is gone")
    assert not any("gone" in reason for reason in pair.reasons("a"))


def test_logs_and_events_tell_of_it(pair: Box) -> None:
    pair.up()
    generate(pair.ports["a"])
    text = pair.ok("logs", "-n", "5000")
    assert f"Listening on 127.0.0.1:{pair.ports['a']} (version {pair.ollama.version})" in text
    assert f"Listening on 127.0.0.1:{pair.ports['b']} (version {pair.ollama.version})" in text
    assert '"/api/generate"' in pair.ok("logs", "a", "--grep", "GIN")
    assert '"/api/generate"' not in pair.ok("logs", "b", "-n", "5000")
    assert {line.split()[0] for line in text.splitlines()} == {"a", "b"}
    shown = pair.ok("events", "a")
    assert "STARTING" in shown and "READY" in shown
    assert pair.run("logs", "c").returncode == 5


def test_our_own_probes_are_hidden_from_the_logs(box: Box) -> None:
    box.configure({"a": {}}, health=QUICK)
    box.up()
    # A client's request for something else is no probe.
    ask(box.ports["a"], "GET", "/api/tags")
    probes = ('"/api/version"', '"/api/ps"')
    until(lambda: all(box.log("a").count(probe) >= 3 for probe in probes), "the server has logged some probes")
    shown = box.ok("logs", "a", "-n", "5000")
    assert '"/api/tags"' in shown
    assert not any(probe in shown for probe in probes)
    everything = box.ok("logs", "a", "--all", "-n", "5000")
    assert all(everything.count(probe) >= 3 for probe in probes)


def test_the_version_of_the_program(box: Box) -> None:
    path = str(box.ollama.path)
    assert find_ollama("ollama", box.env) == path
    assert version_text(path) == box.ollama.version
    assert binary_version(path) == parse_version(box.ollama.version)
    if binary_version(path) is not None:
        assert era_of(binary_version(path)) is not None
    # A server that runs must not be asked in its place: with one, the program warns and tells both versions.
    box.configure({"a": {}})
    box.up()
    told = box.ok("exec", "a", "--", "ollama", "--version")
    assert box.ollama.version in told
