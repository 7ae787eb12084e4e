"""The official Python clients and the command line work unchanged against a simulated server."""

from __future__ import annotations

import ollama
import openai
import pytest
from simulation_rig import NEW, RECORDINGS, VERSIONS, Rig

from ollamux.simulation.catalogue import CATALOGUE
from ollamux.simulation.store import install


@pytest.mark.parametrize("version", VERSIONS)
def test_the_ollama_client(rig: Rig, version: str) -> None:
    install(rig.store, CATALOGUE["nomic-embed-text:latest"])
    served = rig.start(version, CUDA_VISIBLE_DEVICES="0", OLLAMA_VULKAN="0")
    with ollama.Client(host=f"http://{served.address}") as client:
        _use(client)


def _use(client: ollama.Client) -> None:
    assert {model.model for model in client.list().models} == {
        "tiny:latest",
        "tiny2:latest",
        "nomic-embed-text:latest",
    }
    progress = list(client.pull("qwen3:0.6b", stream=True))
    assert [progress[0].status, progress[-1].status] == ["pulling manifest", "success"]
    assert any(part.completed and part.total and part.completed < part.total for part in progress)
    assert client.show("qwen3:0.6b").details.family == "qwen3"
    answer = client.generate("qwen3:0.6b", "why is the sky blue?", options={"num_predict": 5})
    assert (len(answer.response.split()), answer.done_reason, answer.eval_count) == (5, "length", 5)
    again = client.generate("qwen3:0.6b", "why is the sky blue?", options={"num_predict": 5})
    assert again.response == answer.response
    parts = list(client.chat("qwen3:0.6b", [{"role": "user", "content": "hello"}], stream=True))
    assert len(parts) > 5
    assert parts[-1].done
    vectors = client.embed("nomic-embed-text", ["a", "b"]).embeddings
    assert [len(vector) for vector in vectors] == [768, 768]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1)
    loaded = client.ps().models
    assert {model.model for model in loaded} == {"qwen3:0.6b", "nomic-embed-text:latest"}
    assert all(model.size_vram for model in loaded)
    client.create("small", from_="qwen3:0.6b", parameters={"num_ctx": 1024})
    client.copy("small", "smaller")
    client.delete("smaller")
    client.delete("qwen3:0.6b")
    assert client.generate("small", "hi").response
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.generate("qwen3:0.6b", "hi")
    with pytest.raises(ollama.ResponseError, match="does not support generate"):
        client.generate("nomic-embed-text", "hi")
    with pytest.raises(ollama.ResponseError, match="no such host"):
        client.pull("nobody-knows-this")


def test_the_openai_client(rig: Rig) -> None:
    install(rig.store, CATALOGUE["nomic-embed-text:latest"])
    served = rig.cpu()
    with openai.OpenAI(base_url=f"http://{served.address}/v1", api_key="unused", max_retries=0) as client:
        assert "tiny:latest" in {model.id for model in client.models.list()}
        assert client.models.retrieve("tiny").id == "tiny:latest"
        messages = [{"role": "user", "content": "hello there"}]
        whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6)
        text = whole.choices[0].message.content
        assert text is not None and len(text.split()) == 6
        assert whole.usage is not None and whole.usage.completion_tokens == 6
        with client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, stream=True) as stream:
            parts = [part.choices[0] for part in stream if part.choices]
        assert "".join(part.delta.content or "" for part in parts) == text
        assert parts[-1].finish_reason == "length"
        assert client.completions.create(model="tiny", prompt="x", max_tokens=3).choices[0].text
        for encoding in ("base64", "float"):
            made = client.embeddings.create(model="nomic-embed-text", input=["a"], encoding_format=encoding)
            assert len(made.data[0].embedding) in (768, 4096)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nope", messages=messages)


def test_the_command_line(rig: Rig) -> None:
    served = rig.cpu()
    env = {"OLLAMA_HOST": served.address}
    real = (RECORDINGS / f"v{NEW}" / "cli.txt").read_text()
    listed = rig.run("list", **env).stdout.splitlines()
    assert listed[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert {line.split()[0] for line in listed[1:]} == {"tiny:latest", "tiny2:latest"}
    assert rig.run("ps", **env).stdout.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert rig.run("run", "tiny", "--keepalive", "10m", **env).returncode == 0
    assert "4.4 MB    100% CPU     2048       9 minutes from now    " in rig.run("ps", **env).stdout
    assert rig.run("run", "tiny", "the", "people", **env).stdout.strip()
    shown = rig.run("show", "tiny", **env).stdout
    assert shown.split() == real.partition("$ ollama show tiny\n")[2].partition("[exit")[0].split()
    assert rig.run("stop", "tiny", **env).returncode == 0
    assert rig.run("pull", "qwen3:0.6b", **env).returncode == 0
    assert rig.run("rm", "qwen3:0.6b", **env).stdout == "deleted 'qwen3:0.6b'\n"
    assert rig.run("--version", **env).stdout == f"ollama version is {NEW}\n"
    for words in (("stop", "nope"), ("show", "nope"), ("rm", "nope"), ("pull", "nope"), ("run", "nope")):
        done = rig.run(*words, **env)
        expected = real.partition(f"$ ollama {' '.join(words)}\n")[2].partition("\n[exit")[0]
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            1,
            expected.splitlines()[-1].removeprefix("[stderr] "),
        )
    gone = rig.run("list", OLLAMA_HOST="127.0.0.1:9")
    assert gone.returncode == 1
    assert gone.stderr.strip() in real
