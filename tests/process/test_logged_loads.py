"""The log is the judge of where a model is, whatever /api/ps says; and what a load took is measured for later plans."""

from __future__ import annotations

import json
import os
from typing import Any

from pinned_rig import DEVICE, SAMPLES, TEXT, UUID, Pinned
from process_box import wait_for

BLOB = "sha256-" + "0" * 64
PORT = 4711
MIB, GIB = 1024**2, 1024**3
LOAD = """\
time=2026-01-01T00:00:01.000Z level=INFO source=llama_server.go:433 msg="starting llama-server" cmd="llama-server \
--model /blobs/{blob} --port {port} -c 8192 -np 2 -ub 512{words}"
llama_model_load_from_file_impl: using device CUDA0 (NVIDIA GeForce RTX 3090) (0000:17:00.0) - 23000 MiB free
load_tensors: offloaded {layers}/37 layers to GPU
load_tensors:   CPU_Mapped model buffer size =   300.00 MiB
load_tensors:        CUDA0 model buffer size =  4000.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    64.00 MiB
sched_reserve:      CUDA0 compute buffer size =   300.00 MiB
"""
ON_THE_CPU = """\
time=2026-01-01T00:00:01.000Z level=INFO source=llama_server.go:433 msg="starting llama-server" cmd="llama-server \
--model /blobs/{blob} --port {port} -c 8192 -np 2 -ub 512"
load_tensors:          CPU model buffer size =  4300.00 MiB
llama_kv_cache:        CPU KV buffer size =   576.00 MiB
sched_reserve:        CPU compute buffer size =   300.00 MiB
"""
END = """\
time=2026-01-01T00:00:02.000Z level=INFO source=llama_server.go:1362 msg="llama-server started in 0.25 seconds"
time=2026-01-01T00:00:02.000Z level=INFO source=sched.go:728 msg="loaded runners" count=1"""


def has(pinned: Pinned, *, size: int, vram: int) -> None:
    """Let the server say that it has a model, and put its manifest into the store."""
    path = pinned.box.root / "models/manifests/registry.ollama.ai/library/m/latest"
    path.parent.mkdir(parents=True, exist_ok=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": BLOB.replace("-", ":"), "size": 1}
    path.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    model = {"name": "m:latest", "size": size, "size_vram": vram, "digest": "d" * 64, "context_length": 4096}
    pinned.box.set("a", "ps", json.dumps({"models": [model | {"expires_at": "2099-01-01T00:00:00Z"}]}))


def up(pinned: Pinned, *, layers: int = 37, words: str = "", load: str = LOAD, size: int = 9, vram: int = 9) -> None:
    """Start a server whose log tells a load, and whose /api/ps says so much of it."""
    has(pinned, size=size, vram=vram)
    pinned.box.set("a", "runners", 1)
    pinned.box.set("a", "runner-words", f"--port {PORT}{words}")
    told = load.format(blob=BLOB, port=PORT, layers=layers, words=words)
    pinned.up(line=f"{DEVICE}\n{told}{END}")
    wait_for(lambda: pinned.box.status()["models"], "it is seen")


def model(pinned: Pinned) -> dict[str, Any]:
    found: dict[str, Any] = pinned.box.status()["models"][0]
    return found


def stays_well(pinned: Pinned) -> None:
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 30)
    assert pinned.box.instance("a")["health"] == "ok", pinned.box.instance("a")["reason"]


def test_a_spill_is_told_though_ps_says_that_all_of_it_is_on_the_card(pinned: Pinned) -> None:
    up(pinned, layers=20)
    pinned.degraded("m:latest: 20 of 37 layers are on the GPU")
    found = model(pinned)
    assert (found["layers"], found["layers_asked"]) == ({"offloaded": 20, "total": 37}, None)
    assert {"device": "CUDA0", "kind": "kv", "bytes": 576 * MIB, "on_gpu": True} in found["buffers"]
    assert {"device": "CPU", "kind": "weights", "bytes": 300 * MIB, "on_gpu": False} in found["buffers"]
    table = pinned.box.ollamux("status", "models").stdout
    assert "! 20/37" in table and "CUDA0: weights 3.9 GiB, cache 576 MiB, compute 300 MiB" in table


def test_a_model_wholly_on_the_cpu_is_told_though_ps_says_otherwise(pinned: Pinned) -> None:
    up(pinned, load=ON_THE_CPU)
    pinned.box.wait_started("a", 2)
    pinned.degraded("m:latest was loaded wholly into host memory")


def test_so_many_layers_as_were_asked_for_are_no_fault(pinned: Pinned) -> None:
    up(pinned, layers=20, words=" -ngl 20", size=9, vram=5)
    wait_for(lambda: model(pinned)["layers"], "the log was read")
    stays_well(pinned)
    assert (model(pinned)["layers"], model(pinned)["layers_asked"]) == ({"offloaded": 20, "total": 37}, 20)
    assert "20/37 asked" in pinned.box.ollamux("status", "models").stdout


def test_a_host_buffer_that_ps_counts_is_no_spill_where_all_layers_are_on_the_card(pinned: Pinned) -> None:
    up(pinned, size=9, vram=8)
    wait_for(lambda: model(pinned)["layers"], "the log was read")
    stays_well(pinned)


def test_a_load_whose_lines_are_gone_is_not_guessed_and_ps_is_believed(pinned: Pinned) -> None:
    up(pinned, load="", size=9 * GIB, vram=5 * GIB)
    pinned.degraded("m:latest: 4.0 GiB of 9.0 GiB is in host memory")
    found = model(pinned)
    assert (found["layers"], found["layers_asked"], found["buffers"]) == (None, None, None)


def test_a_load_that_had_not_the_room_that_it_needs_is_no_measure_of_it(pinned: Pinned) -> None:
    over = "common_params_fit_impl:   - CUDA0 (RTX 3090): 37 layers ( 9 overflowing),  10000 MiB used,   90 MiB free\n"
    up(pinned, load=LOAD.replace("load_tensors: offloaded", f"{over}load_tensors: offloaded"))
    pinned.degraded("m:latest: parts of 9 layers are in host memory")
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 60)
    assert not (pinned.box.state / "measured.json").exists()


def test_what_the_driver_says_that_the_process_holds_is_measured_and_its_peak_kept(pinned: Pinned) -> None:
    def written() -> dict[str, Any]:
        path = pinned.box.state / "measured.json"
        rows = json.loads(path.read_text())["loads"] if path.exists() else []
        assert len(rows) <= 1, "one record for each load"
        return dict(rows[0]) if rows else {}

    def held(size: int) -> None:
        pid = wait_for(lambda: pinned.box.runners("a"))[0]
        pinned.driver.says(f"0 processes {pid}:{size}\n{TEXT}")

    up(pinned, size=9, vram=9)
    found = wait_for(written, "it is written down")
    [share] = found["shares"]
    assert (found["digest"], found["version"], found["context_length"], found["parallel"]) == (
        "d" * 64,
        "0.32.15",
        4096,
        2,
    )
    assert (found["batch"], found["offloaded"], found["kv_type"], found["ps_bytes"]) == (512, 37, "f16", 9)
    assert (share["uuid"], share["name"], share["kv_bytes"]) == (UUID, "NVIDIA GeForce RTX 3090", 576 * MIB)
    assert (share["weights_bytes"], share["compute_bytes"]) == (4000 * MIB, 300 * MIB)

    pinned.box.ask("restart", names=["a"])
    held(5300 * MIB)
    wait_for(lambda: written()["shares"][0]["process_bytes"] == 5300 * MIB, "what the driver tells is taken in")
    held(5600 * MIB)
    wait_for(lambda: written()["shares"][0]["process_bytes"] == 5600 * MIB, "it computes, and holds more")
    held(5000 * MIB)
    samples = len(SAMPLES) * 30
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + samples)
    assert written()["shares"][0]["process_bytes"] == 5600 * MIB


def test_what_was_read_outlives_an_upgrade_and_the_log(pinned: Pinned) -> None:
    up(pinned, layers=20)
    pinned.degraded("20 of 37 layers")
    before = {key: model(pinned)[key] for key in ("layers", "layers_asked", "buffers")}
    os.truncate(pinned.box.log("a"), 0)

    done = pinned.box.ollamux("upgrade")

    assert done.returncode == 0, done.stderr
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 30)
    assert {key: model(pinned)[key] for key in before} == before
    assert "20 of 37 layers" in pinned.box.instance("a")["reason"]
