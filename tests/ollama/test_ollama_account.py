"""What a log says of one load, on recordings of real servers; lines about GPUs are after llama.cpp's format strings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollamux.ollama.account import Account, Buffer, account_of
from ollamux.ollama.account_log import find_account

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
BLOB = "sha256-" + "a" * 64
MIB = 1024**2


def started(port: int, *, words: str = "-c 2048 -np 2 -b 512 -ub 512", blob: str = BLOB) -> str:
    command = f"/usr/lib/ollama/llama-server --model /m/blobs/{blob} --port {port} --host 127.0.0.1 {words} --keep 4"
    return f'time=2026-11-30T02:05:21.288Z level=INFO source=s.go:433 msg="starting llama-server" cmd="{command}"'


CPU = """\
load_tensors:          CPU model buffer size =    11.40 MiB
llama_context:        CPU  output buffer size =     0.03 MiB
llama_kv_cache:        CPU KV buffer size =     1.00 MiB
llama_kv_cache:        CPU KV buffer size =     5.00 MiB
llama_memory_recurrent:        CPU RS buffer size =     0.50 MiB
sched_reserve:        CPU compute buffer size =     7.77 MiB
sched_reserve:        CPU compute buffer size =     8.00 MiB
"""
GPU = """\
common_params_fit_impl:   - CUDA0 (RTX 3090): 49 layers ({over:2d} overflowing),  10000 MiB used,   1100 MiB free
llama_model_load_from_file_impl: using device CUDA0 (NVIDIA GeForce RTX 3090) (0000:65:00.0) - 23000 MiB free
load_tensors: offloaded {layers}/37 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   333.84 MiB
load_tensors:        CUDA0 model buffer size =  4455.34 MiB
llama_context:  CUDA_Host  output buffer size =     1.17 MiB
llama_kv_cache:      CUDA0 KV buffer size =  1152.00 MiB
{more}sched_reserve:      CUDA0 compute buffer size =   304.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    20.00 MiB
"""
END = """\
time=2026-11-30T02:05:21.543Z level=INFO source=llama_server.go:1362 msg="llama-server started in 0.25 seconds"
time=2026-11-30T02:05:21.545Z level=INFO source=sched.go:728 msg="loaded runners" count=1
"""
OLD_ENGINE = """\
time=2026-11-30T02:05:23.998Z level=INFO source=server.go:433 msg="starting runner" cmd="/usr/bin/ollama runner \
--ollama-engine --model /m/blobs/{blob} --port 39635"
time=2026-11-30T02:05:23.999Z level=INFO source=server.go:792 msg="loading model" "model layers"=7 requested={asked}
time=2026-11-30T02:05:24.025Z level=INFO source=runner.go:1297 msg=load request="{{Operation:fit LoraPath:[] \
Parallel:2 BatchSize:512 FlashAttention:Enabled KvSize:2048 KvCacheType: NumThreads:1 GPULayers:[] \
MultiUserCache:false ProjectorPath: MainGPU:0 UseMmap:false}}"
time=2026-11-30T02:05:24.133Z level=INFO source=device.go:245 msg="model weights" device=CUDA0 size="9.0 MiB"
time=2026-11-30T02:05:24.133Z level=INFO source=device.go:245 msg="model weights" device=CUDA0 size="13.4 MiB"
time=2026-11-30T02:05:24.133Z level=INFO source=device.go:256 msg="kv cache" device=CUDA0 size="5.5 MiB"
time=2026-11-30T02:05:24.133Z level=INFO source=device.go:267 msg="compute graph" device=CUDA0 size="7.2 MiB"
time=2026-11-30T02:05:24.133Z level=INFO source=sched.go:561 msg="loaded runners" count=1
time=2026-11-30T02:05:24.132Z level=INFO source=ggml.go:502 msg="offloaded {done}/7 layers to GPU"
time=2026-11-30T02:05:24.390Z level=INFO source=server.go:1432 msg="llama runner started in 0.39 seconds"
"""


def read(text: str) -> Account:
    found = account_of(text.splitlines())
    assert found is not None
    return found


def on_card(layers: int, *, words: str = "-c 2048 -np 1 -ub 512", over: int = 0, more: str = "") -> Account:
    return read(f"{started(4711, words=words)}\n{GPU.format(layers=layers, over=over, more=more)}{END}")


@pytest.mark.parametrize(("version", "port", "compute"), [("v0.24.0", 37081, 6.51), ("v0.32.15", 41399, 3.45)])
def test_recorded_loads(version: str, port: int, compute: float) -> None:
    [path] = [RECORDINGS / version / "load.log"]
    blob = next(word for word in path.read_text().split() if "blobs/sha256-" in word).rpartition("/")[2]
    found, begins = find_account(str(path), port=port, blob=blob)
    assert found is not None and begins
    assert (found.context, found.parallel, found.batch, found.asked) == (2048, 1, 512, None)
    assert {(each.kind, each.size_bytes) for each in found.buffers} == {
        ("weights", int(0.29 * MIB)),
        ("kv", MIB // 2),
        ("output", 0),
        ("compute", int(compute * MIB)),
    }
    assert found.has_fallen and found.offloaded is None
    assert find_account(str(path), port=port + 1, blob=blob) == (None, False)
    assert find_account(str(path), port=port, blob=BLOB) == (None, False)


def test_two_caches_are_added_and_of_what_is_reserved_anew_the_last_holds() -> None:
    found = read(f"{started(4711)}\n{CPU}{END}")
    assert (found.port, found.context, found.parallel) == (4711, 1024, 2)
    assert {each.kind: each.size_bytes for each in found.buffers} == {
        "weights": int(11.40 * MIB),
        "output": int(0.03 * MIB),
        "kv": 6 * MIB,
        "state": MIB // 2,
        "compute": 8 * MIB,
    }


def test_buffers_of_each_device_and_the_card_they_are_on() -> None:
    found = on_card(37)
    assert (found.offloaded, found.total, found.asked) == (37, 37, None)
    assert found.devices == (("CUDA0", "0000:65:00.0"),)
    assert Buffer(device="CUDA0", kind="kv", size_bytes=1152 * MIB, on_gpu=True) in found.buffers
    assert Buffer(device="CPU", kind="weights", size_bytes=int(333.84 * MIB), on_gpu=False) in found.buffers
    assert Buffer(device="CUDA_Host", kind="compute", size_bytes=20 * MIB, on_gpu=False) in found.buffers
    assert found.size("weights", "kv", on_gpu=True) == int(4455.34 * MIB) + 1152 * MIB
    assert found.shortfall is None and not found.has_fallen and not found.is_as_asked


@pytest.mark.parametrize(
    ("layers", "words", "over", "more", "shortfall", "as_asked"),
    [
        (20, "-c 2048 -np 1", 0, "", "20 of 37 layers are on the GPU", False),
        (20, "-c 2048 -np 1 -ngl 20", 0, "", None, True),
        (20, "-c 2048 -np 1 -ngl 30", 0, "", "20 of 30 layers are on the GPU", False),
        (20, "-c 2048 -np 1 -ngl 999", 0, "", "20 of 37 layers are on the GPU", False),
        (37, "-c 2048 -np 1 -ngl 999", 0, "", None, False),
        (37, "-c 2048 -np 1", 34, "", "parts of 34 layers are in host memory", False),
        (
            37,
            "-c 2048 -np 1",
            0,
            "llama_kv_cache:  CPU KV buffer size = 64.00 MiB\n",
            "64.0 MiB of its cache are",
            False,
        ),
        (0, "-c 2048 -np 1 -ngl 0", 0, "", None, True),
    ],
)
def test_what_is_not_on_the_card(
    layers: int, words: str, over: int, more: str, shortfall: str | None, as_asked: bool
) -> None:
    found = on_card(layers, words=words, over=over, more=more)
    assert (found.shortfall or "").startswith(shortfall or "") and (found.shortfall is None) == (shortfall is None)
    assert found.is_as_asked is as_asked


@pytest.mark.parametrize(("asked", "done", "as_asked"), [(-1, 7, False), (4, 4, True), (-1, 0, False), (0, 0, True)])
def test_the_own_engine_before_0_30(asked: int, done: int, as_asked: bool) -> None:
    found = read(OLD_ENGINE.format(blob=BLOB, asked=asked, done=done))
    assert (found.context, found.parallel, found.batch) == (1024, 2, 512)
    assert (found.offloaded, found.total, found.is_as_asked) == (done, 7, as_asked)
    assert {each.kind: each.size_bytes for each in found.buffers} == {
        "weights": int(13.4 * MIB),
        "kv": int(5.5 * MIB),
        "compute": int(7.2 * MIB),
    }


def test_a_load_whose_end_or_whose_beginning_is_not_there_is_no_account() -> None:
    whole = f"{started(4711)}\n{CPU}{END}".splitlines()
    for end in range(len(whole) - 1):
        assert account_of(whole[:end]) is None
    assert account_of([started(4711), *END.splitlines()]) is None, "a runner that told no buffer"
    assert account_of([*whole[:3], started(4712), *whole[3:]]) is None, "another load began first"


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_load_is_found_across_the_rotation_of_its_log(tmp_path: Path, cut: int) -> None:
    log = tmp_path / "a.log"
    before = f"{started(4711, blob='sha256-' + 'b' * 64)}\n{CPU}{END}" * 3
    lines = f"{started(4711)}\n{CPU}{END}".splitlines(keepends=True)
    (tmp_path / "a.log.2").write_text(before)
    (tmp_path / "a.log.1").write_text("x" * 200_000 + "\n" + "".join(lines[:cut]))
    log.write_text("".join(lines[cut:]) + f"{started(47110)}\n" + "[GIN] …\n" * 9)
    found, _ = find_account(str(log), port=4711, blob=BLOB)
    assert found is not None
    assert {each.kind: each.size_bytes for each in found.buffers}["kv"] == 6 * MIB


def test_the_last_load_of_a_port_counts_however_far_back(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    first, second = (f"{started(4711, words=f'-c {context} -np 1')}\n{CPU}{END}" for context in (1024, 4096))
    log.write_text(first + second + "y" * 63 + "\n" + "z" * (3 << 20) + "\n")
    found, _ = find_account(str(log), port=4711, blob=BLOB)
    assert found is not None and found.context == 4096
    log.write_text("y" * (2 << 20))
    assert find_account(str(log), port=4711, blob=BLOB) == (None, False)
    log.write_text(first.replace("loaded runners", "still loading"))
    assert find_account(str(log), port=4711, blob=BLOB) == (None, True)
    assert find_account(str(tmp_path / "none"), port=4711, blob=BLOB) == (None, False)
