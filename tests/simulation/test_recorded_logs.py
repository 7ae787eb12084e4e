"""The simulation prints what real servers were recorded to print, times, pids, ports and digests apart."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest
from simulation_rig import NEW, OLD, RECORDINGS, VERSIONS, Rig, until

from ollamux.simulation.environment import listen_host

_PATTERNS = (
    (r"^\S*time=\S+ ", ""),
    (r"elapsed=\S+", "elapsed="),
    (r"models=\d+", "models="),
    (r"wait=\S+", "wait="),
    (r"sha256-[0-9a-f]{64}", "sha256-D"),
    (r"\?ts=\d+", "?ts="),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:P"),
    (r"--port \d+", "--port P"),
    (r"started in [\d.]+ seconds", "started in S seconds"),
    (r'free="[^"]*"|available="[^"]*"', "free"),
    (r"reserve took [\d.]+ ms", "reserve took T"),
    (r"/\S*/a box/|/usr/local/", ""),
    (r"/\S*/\.ollama/models", "MODELS"),
    (r"graph: nodes = \d+", "graph: nodes"),
    (r"graph nodes  = \d+", "graph nodes"),
    (r"(token_type|merges|tokens) +arr.*", r"\1"),
    (r"CPU\.0\.\S+ compiler=\S+", "CPU"),
    (r"breakdown_print: \|   - Host .*", "breakdown"),
    (r"will leave \d+", "will leave"),
)
# Lines that race with others in the real server, and have no place of their own.
_RACING = re.compile(r"model_show_cache|model_recommendations|hydration complete")


def normal(text: str) -> list[str]:
    lines = []
    for line in text.splitlines():
        if line.startswith("# ") or not line:
            continue
        for pattern, plain in _PATTERNS:
            line = re.sub(pattern, plain, line)
        lines.append(line)
    return lines


def quiet(text: str) -> list[str]:
    return [line for line in normal(text) if not _RACING.search(line)]


def recording(version: str, name: str) -> str:
    return (RECORDINGS / f"v{version}" / name).read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_first_start(rig: Rig, version: str) -> None:
    served = rig.cpu(version, OLLAMA_NO_CLOUD="-")
    real = recording(version, "serve-start.log")
    assert quiet(served.stderr) == quiet(real)
    racing = {line for line in normal(real) if _RACING.search(line)}
    until(lambda: racing <= set(normal(served.stderr)), "the lines about the cloud")
    key = (rig.home / ".ollama" / "id_ed25519").stat()
    assert key.st_mode & 0o777 == 0o600
    ours, theirs = served.stdout.splitlines(), recording(version, "serve-start.stdout.log").splitlines()
    assert [line[:14] for line in ours[:4]] == [line[:14] for line in theirs[:4]]
    access = r'\[GIN\] [\d/]{10} - [\d:]{8} \| 200 \| +[\d.]+(µs|ms) \|       127\.0\.0\.1 \| GET      "/api/version"'
    until(lambda: re.fullmatch(access, served.stdout.splitlines()[-1]), "the access line, which follows the answer")


@pytest.mark.parametrize("version", VERSIONS)
def test_load_on_the_cpu(rig: Rig, version: str) -> None:
    served = rig.cpu(version)
    before = len(served.stderr)
    served.generate("tiny")
    real, ours = normal(recording(version, "load.log")), normal(served.stderr[before:])
    if version == OLD:
        asked = re.compile(
            r"Parallel:1 BatchSize:512 FlashAttention:Auto KvSize:2048 KvCacheType: NumThreads:2 GPULayers"
        )
        assert [len(asked.findall("".join(lines))) for lines in (ours, real)] == [1, 1]
        # The real file has one pair less in its head, and pairs in another order.
        dropped = re.compile(
            r"llama_model_loader: (- kv|loaded meta)|msg=\"?(starting go|load |Server|system)|msg=(load|system) "
        )
        kept = {"compute buffer size", "graph splits", "Flash Attention was auto"}
        real = [line for line in real if not dropped.search(line)]
        ours = [line for line in ours if not dropped.search(line)]
        moved = re.compile("|".join([*kept, "compute buffer", "graph nodes", "waiting for|available"]))
        real = [line for line in real if not moved.search(line)]
        ours = [line for line in ours if not moved.search(line)]
    assert ours == real


@pytest.mark.parametrize("version", VERSIONS)
def test_cpu_fallback_looks_like_the_recorded_one(rig: Rig, version: str) -> None:
    nobody = "GPU-11111111-2222-3333-4444-555555555555"
    served = rig.start(version, CUDA_VISIBLE_DEVICES=nobody, OLLAMA_VULKAN="0", OLLAMA_NOPRUNE="1")
    served.generate("tiny")
    real = quiet(recording(version, "serve-cpu-fallback.log"))
    start = real[: real.index("level=INFO source=" + _context(version)) + 1]
    ours = quiet(served.stderr)
    assert [line.partition(" env=")[0] for line in ours[: len(start)]] == [line.partition(" env=")[0] for line in start]
    assert "offloaded" not in served.stderr
    assert "gpu memory" not in served.stderr
    assert served.ps()[0]["size_vram"] == 0


def _context(version: str) -> str:
    line = "routes.go:2058" if version == NEW else "routes.go:1914"
    return f'{line} msg="vram-based default context" total_vram="0 B" default_num_ctx=4096'


def test_the_whole_environment_is_shown_as_recorded(rig: Rig) -> None:
    served = rig.cpu(
        LLAMA_ARG_FIT_TARGET="2048",
        OLLAMA_CONTEXT_LENGTH="8192",
        OLLAMA_FLASH_ATTENTION="1",
        OLLAMA_GPU_OVERHEAD="1073741824",
        OLLAMA_KEEP_ALIVE="-1",
        OLLAMA_NUM_PARALLEL="2",
        OLLAMA_VULKAN="0",
    )
    served.generate("tiny2")
    real, ours = quiet(recording(NEW, "serve-config-tuned.log")), quiet(served.stderr)
    assert ours[0] == real[0]
    commands = [next(line for line in lines if "starting llama-server" in line) for lines in (real, ours)]
    assert commands[0] == commands[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_starts_that_fail_at_once(rig: Rig, version: str) -> None:
    cases: list[tuple[tuple[str, ...], dict[str, str], int, str]] = [
        (("serve",), {"HOME": "-", "OLLAMA_MODELS": str(rig.store)}, 1, "Error: $HOME is not defined\n"),
        (("serve",), {"HOME": "-"}, 2, "panic: $HOME is not defined\n"),
        (("--version",), {"HOME": "-"}, 2, "panic: $HOME is not defined\n"),
        (("serve", "foo"), {}, 1, "Error: accepts 0 arg(s), received 1\n"),
        (("serve", "--port", "1"), {}, 1, "Error: unknown flag: --port\n"),
        (("srv",), {}, 1, 'Error: unknown command "srv" for "ollama"\n'),
        (("serve",), {"OLLAMA_HOST": "11500"}, 1, "Error: listen tcp: lookup 11500: no such host\n"),
        (
            ("serve",),
            {"OLLAMA_HOST": "10.1.2.3:11500"},
            1,
            "Error: listen tcp 10.1.2.3:11500: bind: cannot assign requested address\n",
        ),
    ]
    real = recording(version, "start-failures.txt")
    for words, env, code, text in cases:
        done = rig.run(*words, version=version, **env)
        assert (done.returncode, done.stderr[: len(text)]) == (code, text)
        assert text.strip() in real
    done = rig.run("--version", version=version, OLLAMA_HOST="127.0.0.1:9")
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, f"Warning: client version is {version}")
    file = rig.root / "file"
    file.touch()
    done = rig.run("serve", version=version, OLLAMA_HOST="127.0.0.1:0", OLLAMA_MODELS=str(file))
    assert done.returncode == 1
    assert f"Error: mkdir {file}: not a directory: ensure path elements are traversable" in done.stderr


def test_a_bad_port_falls_back_and_says_so() -> None:
    def host(text: str) -> tuple[str, int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OLLAMA_HOST", text)
            read = listen_host()
        return read.host, read.port

    assert host("127.0.0.1:99999") == ("127.0.0.1", 11434)
    assert host("") == ("127.0.0.1", 11434)
    assert host("0.0.0.0:11435") == ("0.0.0.0", 11435)
    assert host(":11435") == ("", 11435)
    assert host("http://10.0.0.5") == ("10.0.0.5", 80)
    assert host("[::1]:11435") == ("::1", 11435)
    assert host("::1") == ("::1", 11434)
    assert host("11435") == ("11435", 11434)
    assert host("\"'127.0.0.1:1'\"") == ("127.0.0.1", 1)
    assert host("localhost:7/path") == ("localhost", 7)


def test_a_taken_port_ends_the_start(rig: Rig) -> None:
    first = rig.cpu()
    for host in (first.address, f"0.0.0.0:{first.port}", f":{first.port}"):
        done = rig.run("serve", OLLAMA_HOST=host)
        assert done.stderr == f"Error: listen tcp {host}: bind: address already in use\n"
        assert done.returncode == 1
    assert first.answers()
    other = rig.cpu(port=first.port, OLLAMA_HOST=f"[::1]:{first.port}", ready=False)
    until(lambda: f"Listening on [::1]:{first.port}" in other.stderr, "the other family has a port of its own")


def test_a_port_is_free_again_at_once_after_a_kill(rig: Rig) -> None:
    first = rig.cpu()
    with socket.create_connection(("127.0.0.1", first.port)):
        first.end(9)
        assert rig.cpu(port=first.port).answers()


def test_llama_server_missing(rig: Rig) -> None:
    (rig.box / "lib/ollama/llama-server").rename(rig.root / "away")
    served = rig.start()
    answer = served.generate("tiny")
    assert answer.status == 500
    assert answer.json["error"].startswith("error starting llama-server: llama-server binary not found (checked: ")
    assert "library=cpu" in served.stderr
    (rig.root / "away").rename(rig.box / "lib/ollama/llama-server")
    assert served.generate("tiny").status == 200


def test_a_cache_type_that_does_not_fit_fails_the_load(rig: Rig) -> None:
    served = rig.cpu(OLLAMA_KV_CACHE_TYPE="q8_0")
    answer = served.generate("tiny2")
    real = json.loads(recording(NEW, "load-failed-response.json"))
    assert (answer.status, answer.body.decode()) == (real["status"], real["body"])
    assert 'msg="llama-server terminated" error="exit status 1" exit=1' in served.stderr


def test_an_old_unused_blob_and_an_empty_folder_are_pruned_but_not_with_noprune(rig: Rig) -> None:
    blob = rig.store / "blobs" / f"sha256-{'e' * 64}"
    empty = rig.store / "manifests/registry.ollama.ai/library/empty"
    for env, stays in (({"OLLAMA_NOPRUNE": "no"}, True), ({}, False)):
        blob.touch()
        os.utime(blob, (1, 1))
        empty.mkdir(parents=True, exist_ok=True)
        served = rig.cpu(**env)
        assert (blob.exists(), empty.exists()) == (stays, stays)
        assert ('msg="total unused blobs removed: 1"' in served.stderr) is not stays
    assert Path(rig.store, "manifests/registry.ollama.ai/library/tiny/latest").exists()
