"""The log of a server, on recordings of real ones.

No recording holds a line about a GPU. The GPU lines below are put together from ollama's source (discover/types.go,
llm/llama_server.go at v0.32.15 and v0.24.0) and from its documentation; they are unverified on hardware.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.ollama import events as ev
from ollamux.ollama.log import LONGEST_LINE, LogReader, human_size, parse_line, slog_fields

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
VERSIONS = ["v0.24.0", "v0.32.15"]
BLOBS = "/home/user/.ollama/models/blobs"


def read(version: str, name: str, piece: int = 1 << 20) -> list[ev.LogEvent]:
    data = (RECORDINGS / version / name).read_bytes()
    reader, found = LogReader(), []
    for start in range(0, len(data), piece):
        found += reader.feed(data[start : start + piece])
    return found + reader.close()


def of(found, *kinds):
    return [event for event in found if isinstance(event, kinds)]


def kinds(found):
    return [type(event) for event in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_start_without_a_gpu(version) -> None:
    found = read(version, "serve-start.log")
    assert kinds(found) == [ev.Listening, ev.DiscoveryStarted, ev.DeviceLine, ev.DiscoveryEnded]
    listening, _, device, ended = found
    assert f"v{listening.version}" == version
    assert listening.address.startswith("127.0.0.1:")
    assert device.is_cpu
    assert (device.id, device.filter_id, device.pci_id) == ("cpu", "", "")
    assert device.total_bytes == int(23.5 * 1024**3)
    assert (ended.total_vram_bytes, ended.default_context) == (0, 4096)
    assert "inference compute" in device.line


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fall_to_the_cpu_and_a_load(version) -> None:
    found = read(version, "serve-cpu-fallback.log")
    assert of(found, ev.DeviceLine)[0].is_cpu
    [starting] = of(found, ev.RunnerStarting)
    assert starting.blob.startswith(f"{BLOBS}/sha256-")
    assert starting.port is not None
    assert not of(found, ev.LayersOffloaded, ev.OutOfMemory, ev.Fatal, ev.LoadFailed)
    buffers = of(found, ev.BufferSize)
    assert {buffer.kind for buffer in buffers} >= {"model", "KV", "compute"}
    assert {buffer.device for buffer in buffers} == {"CPU"}
    assert not any(buffer.on_gpu for buffer in buffers)
    assert {buffer.blob for buffer in buffers} == {starting.blob}
    assert {event.blob for event in of(found, ev.RunnerStarted)} == {starting.blob}


@pytest.mark.parametrize("version", VERSIONS)
def test_discovery_that_hangs(version) -> None:
    found = read(version, "serve-discovery-hang.log")
    failures = of(found, ev.DiscoveryFailed)
    assert failures
    assert any("timeout" in failure.reason or "deadline" in failure.reason for failure in failures)
    assert of(found, ev.DeviceLine)[0].is_cpu


def test_a_missing_llama_server() -> None:
    found = read("v0.32.15", "llama-server-missing.log")
    assert "not found" in of(found, ev.DiscoveryFailed)[0].reason
    assert "not found" in of(found, ev.LoadFailed)[0].reason


def test_a_failed_load() -> None:
    found = read("v0.32.15", "load-failed.log")
    assert of(found, ev.RunnerEnded)[0].reason == "exit status 1"
    assert "does not divide" in of(found, ev.LoadFailed)[0].reason
    assert not of(found, ev.OutOfMemory)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_killed_runner_and_its_successor(version) -> None:
    found = read(version, "runner-killed.log")
    assert [event.reason for event in of(found, ev.RunnerEnded)] == ["signal: killed"] * 2
    assert of(found, ev.RunnerStarting)


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_say_only_that_they_are_done(version) -> None:
    path = RECORDINGS / version / "request.log"
    if path.exists():
        assert read(version, "request.log") == []
    done = read(version, "access.log")
    assert set(kinds(done)) == {ev.RequestDone}
    assert {"/api/generate", "/api/chat", "/v1/chat/completions"} <= {event.path for event in done}
    assert not [event for event in done if "| 200 |" not in event.line or "POST" not in event.line]


ACCESS = '[GIN] 2026/11/23 - 01:25:23 | {} |     785.131µs |       127.0.0.1 | {:8} "{}"'


@pytest.mark.parametrize(
    ("status", "method", "target", "counts"),
    [
        (200, "POST", "/api/generate", True),
        (200, "POST", "/v1/messages?beta=true", True),
        (500, "POST", "/api/generate", False),
        (200, "GET", "/api/ps", False),
        (200, "POST", "/api/show", False),
        (200, "POST", "/api/generate?ollamux=canary", False),
        (200, "POST", "/api/generate/ours", False),
    ],
)
def test_which_requests_prove_that_others_are_served(status, method, target, counts) -> None:
    found = parse_line(ACCESS.format(status, method, target))
    assert kinds(found) == ([ev.RequestDone] if counts else [])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_pieces_cut_anywhere_say_the_same(version, piece) -> None:
    assert read(version, "load.log", piece) == read(version, "load.log")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_recorded_log_can_be_read(version) -> None:
    for path in sorted((RECORDINGS / version).glob("*.log")):
        for event in read(version, path.name):
            assert event.line


ERA_C = (
    'time=2026-08-04T14:36:26.467Z level=INFO source=types.go:50 msg="inference compute" id=0 '
    "filter_id=GPU-8f3c2a90-1111-2222-3333-444455556666 library=CUDA compute=8.6 name=CUDA0 "
    'description="NVIDIA GeForce RTX 3090" libdirs=ollama,cuda_v13 driver=13.0 pci_id=0000:65:00.0 type=discrete '
    'total="23.6 GiB" available="23.3 GiB"'
)
ERA_A = (
    'time=2025-08-04T14:36:26.467Z level=INFO source=types.go:130 msg="inference compute" '
    "id=GPU-8f3c2a90-1111-2222-3333-444455556666 library=cuda variant=v12 compute=7.5 driver=12.8 "
    'name="NVIDIA GeForce RTX 2080 Ti" total="10.6 GiB" available="10.4 GiB"'
)


def test_device_lines_of_source() -> None:
    [new] = parse_line(ERA_C)
    assert isinstance(new, ev.DeviceLine)
    assert (new.library, new.id, new.pci_id) == ("CUDA", "0", "0000:65:00.0")
    assert new.filter_id == "GPU-8f3c2a90-1111-2222-3333-444455556666"
    assert (new.name, new.total_bytes, new.is_cpu) == ("NVIDIA GeForce RTX 3090", int(23.6 * 1024**3), False)
    [old] = parse_line(ERA_A)
    assert isinstance(old, ev.DeviceLine)
    assert (old.id, old.filter_id, old.pci_id, old.name) == (
        "GPU-8f3c2a90-1111-2222-3333-444455556666",
        "",
        "",
        "NVIDIA GeForce RTX 2080 Ti",
    )


@pytest.mark.parametrize("before", ["", ".......", "srv  update_slots: all slots are idle", "a\x1b[0m "])
def test_a_line_of_the_server_may_begin_anywhere(before) -> None:
    [device] = parse_line(before + ERA_C)
    assert isinstance(device, ev.DeviceLine)


def test_gpu_lines_of_a_load() -> None:
    reader = LogReader()
    text = "\n".join(
        [
            'time=2026-08-04T14:36:26.467Z level=INFO source=x.go:1 msg="starting llama-server" '
            'cmd="/lib/llama-server --model /m/blobs/sha256-aa --port 4711 --host 127.0.0.1"',
            "llama_model_load: using device CUDA0 (NVIDIA GeForce RTX 4060 Ti (x)) (0000:01:00.0) - 15221 MiB free",
            "load_tensors: offloading 32 repeating layers to GPU",
            "load_tensors: offloaded 31/33 layers to GPU",
            "load_tensors:   CPU_Mapped model buffer size =   308.23 MiB",
            "load_tensors:        CUDA0 model buffer size =   852.50 MiB",
            "llama_kv_cache:      CUDA0 KV buffer size =  1920.00 MiB",
            "sched_reserve:  CUDA_Host compute buffer size =   268.05 MiB",
            "",
        ]
    )
    found = reader.feed(text.encode())
    starting, device, layers, mapped, weights, cache, host = found
    assert (starting.blob, starting.port) == ("/m/blobs/sha256-aa", 4711)
    assert (device.device, device.pci_id, device.free_bytes) == ("CUDA0", "0000:01:00.0", 15221 * 1024**2)
    assert (layers.offloaded, layers.total, layers.blob) == (31, 33, "/m/blobs/sha256-aa")
    assert (mapped.device, mapped.on_gpu) == ("CPU", False)
    assert (weights.device, weights.on_gpu, weights.size_bytes) == ("CUDA0", True, int(852.5 * 1024**2))
    assert (cache.kind, cache.on_gpu) == ("KV", True)
    assert (host.device, host.on_gpu) == ("CUDA_Host", False)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (
            "alloc_buffer: allocating 99.00 MiB on device 0: cudaMalloc failed: out of memory",
            ev.OutOfMemory,
        ),
        ("CUDA error: out of memory", ev.OutOfMemory),
        (
            'time=2026-08-04T14:36:26Z level=WARN source=x.go:1 msg="unable to refresh free memory, using old values"',
            ev.StaleVram,
        ),
        (
            'time=2026-08-04T14:36:26Z level=WARN source=x.go:1 msg="runtime OOM detected; expiring loaded models"',
            ev.OutOfMemory,
        ),
        (
            'time=2026-08-04T14:36:26Z level=INFO source=x.go:1 msg="no compatible GPUs were discovered"',
            ev.DiscoveryFailed,
        ),
        (
            'time=2026-08-04T14:36:26Z level=WARN source=x.go:1 msg="NVIDIA driver too old" required=570',
            ev.DiscoveryFailed,
        ),
        ("Error: listen tcp 127.0.0.1:11434: bind: address already in use", ev.Fatal),
        ("panic: $HOME is not defined", ev.Fatal),
        ("fatal error: unexpected signal during runtime execution", ev.Fatal),
    ],
)
def test_single_lines_of_source(line, kind) -> None:
    assert kinds(parse_line(line)) == [kind]


def test_a_load_that_failed_for_memory_says_both() -> None:
    line = 'time=2026-08-04T14:36:26Z level=INFO msg="Load failed" model=/m error="cudaMalloc failed: out of memory"'
    assert kinds(parse_line(line)) == [ev.LoadFailed, ev.OutOfMemory]


def test_era_b_buffers_of_its_own_engine() -> None:
    found = parse_line(
        'time=2026-08-04T14:36:26Z level=INFO source=device.go:240 msg="model weights" device=CUDA0 size="4.5 GiB"'
    )
    [buffer] = of(found, ev.BufferSize)
    assert (buffer.component, buffer.device, buffer.kind, buffer.on_gpu) == ("ollama", "CUDA0", "model", True)
    assert buffer.size_bytes == int(4.5 * 1024**3)


def test_the_runner_that_looks_for_devices_is_no_model() -> None:
    command = "/bin/ollama runner --ollama-engine --port 1"
    line = f'time=2026-08-04T14:36:26Z level=INFO source=s.go:1 msg="starting runner" cmd="{command}"'
    assert parse_line(line) == []


def test_bytes_that_are_no_text_and_lines_without_end() -> None:
    reader = LogReader()
    assert reader.feed(b"\xff\xfe\x00 junk\r\n") == []
    for _ in range(20):
        assert reader.feed(b"." * LONGEST_LINE) == []
    assert len(reader._partial) <= LONGEST_LINE
    assert reader.feed(b"\n") == []
    assert kinds(reader.feed(b"Error: it broke\r\n")) == [ev.Fatal]


def test_what_is_cited_is_safe_to_show() -> None:
    [fatal] = parse_line("Error: \x1b[31mred\u202e" + "x" * 2000)
    assert "\x1b" not in fatal.line
    assert len(fatal.line) <= 400


@given(st.binary(max_size=400), st.integers(1, 50))
def test_anything_can_be_fed(data, piece) -> None:
    whole, parts = LogReader(), LogReader()
    found = []
    for start in range(0, len(data), piece):
        found += parts.feed(data[start : start + piece])
    assert found + parts.close() == whole.feed(data) + whole.close()


@given(st.text(max_size=300))
def test_fields_of_anything(text) -> None:
    assert isinstance(slog_fields(text), dict)
    parse_line("time=2026-08-04T14:36:26Z msg=" + text)


def test_fields() -> None:
    fields = slog_fields(r'time=1 msg="a \"b\" c" "model layers"=3 empty="" bad="\q" hex="\x1b"')
    assert fields == {
        "time": "1", "msg": 'a "b" c', "model layers": "3", "empty": "", "bad": r"\q", "hex": "\x1b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size"), [("0 B", 0), ("512.0 KiB", 524288), ("1.5 GiB", 1610612736), ("lots", None), ("", None)]
)
def test_sizes(text, size) -> None:
    assert human_size(text) == size
