"""Cards, masks, placement and memory: what each server sees, and what the driver tells of it."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from simulation_rig import NEW, OLD, VERSIONS, Rig, state_of, until

from ollamux.domain.spec import GpuRef, GpuRefKind
from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import Usage, read_inventory, visible_cards, write_usage
from ollamux.ollama.account import account_of
from ollamux.simulation.box import cards_for, create_box, default_cards
from ollamux.simulation.catalogue import CATALOGUE
from ollamux.simulation.memory import CONTEXT_BYTES
from ollamux.simulation.store import install, seed_store

CARDS = default_cards(4)
ONE, TWO = CARDS[1].uuid, CARDS[2].uuid
MIB = 1024**2


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        (None, [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        ("1,9,0", [1]),
        ("-1", []),
        ("0,-1,1", [0]),
        (TWO, [2]),
        (TWO[:12], [2]),
        (f"{TWO},{ONE}", [2, 1]),
        ("GPU-", []),
        (f"0,GPU-00000000,{ONE}", [0]),
        ("nonsense,0", []),
        ("1,1", [1]),
    ],
)
def test_a_mask_leaves_what_cuda_leaves(mask: str | None, seen: list[int]) -> None:
    assert [card.index for card in visible_cards(CARDS, mask)] == seen


def test_one_mig_slice_at_most_and_no_card_without_its_slices() -> None:
    refs = [GpuRef(kind=GpuRefKind.MIG, value=f"MIG-{n}f3c2a90-0000-4000-8000-00000000000{n}") for n in (1, 2)]
    cards = cards_for(refs, 2)
    slices = [card for card in cards if card.mig_parent]
    assert [card.uuid for card in slices] == [ref.value for ref in refs]
    parent = next(card for card in cards if card.uuid == slices[0].mig_parent)
    assert cards.index(slices[0]) == cards.index(parent) + 1
    assert visible_cards(cards, ",".join(ref.value for ref in refs)) == (slices[0],)
    assert parent not in visible_cards(cards, None)
    assert slices[0].index == parent.index


@pytest.mark.parametrize(
    "refs",
    [
        ["index 0", "index 5"],
        ["uuid GPU-8f3c2a90"],
        ["uuid GPU-8f3c2a90", "uuid GPU-8f3c2a90-1111-4222-8333-444444444444", "index 1"],
        ["uuid GPU-aaaa1111", "uuid GPU-bbbb2222", "index 0", "index 1", "index 2"],
        [f"uuid {ONE}", "uuid GPU-8f3c2a90"],
        ["pci 0000:65:00.0", "pci 0000:17:00.0", "index 0"],
        ["amd 0", "amd 1", "index 0"],
        ["mig MIG-8f3c2a90-1111-4222-8333-444444444444", "index 0"],
        [],
    ],
)
def test_every_reference_of_a_configuration_has_a_card(refs: list[str]) -> None:
    parsed = [GpuRef(kind=GpuRefKind(kind), value=value) for kind, value in (ref.split() for ref in refs)]
    cards = cards_for(parsed, 2)
    assert len(cards) >= 2
    assert len({card.uuid for card in cards}) == len(cards)
    for ref in parsed:
        assert len(named_by(ref, cards)) == 1, (ref, cards)
    whole = [card for card in cards if card.mig_parent is None and card.vendor == "nvidia"]
    assert [card.index for card in whole] == list(range(len(whole)))
    assert [card.pci for card in whole] == sorted(str(card.pci) for card in whole)
    assert len({card.pci for card in whole}) == len(whole)


def named_by(ref: GpuRef, cards: tuple[Gpu, ...]) -> list[Gpu]:
    whole = [card for card in cards if card.mig_parent is None]
    if ref.kind is GpuRefKind.INDEX:
        return [card for card in whole if card.vendor == "nvidia" and card.index == int(ref.value)]
    if ref.kind is GpuRefKind.AMD:
        return [card for card in whole if card.vendor == "amd" and card.index == int(ref.value)]
    if ref.kind is GpuRefKind.PCI:
        return [card for card in whole if card.pci == ref.value]
    return [card for card in cards if card.uuid.startswith(ref.value)]


def test_cards_are_the_same_every_time_and_usage_of_the_dead_does_not_count(tmp_path: Path) -> None:
    assert default_cards(8) == default_cards(8)
    assert default_cards(8)[:3] == default_cards(3)
    create_box(tmp_path, CARDS)
    write_usage(tmp_path, Usage(pid=os.getpid(), name="me", memory={ONE: 5 * MIB}, busy=True))
    dead = {"pid": 4194303, "name": "x", "memory": {ONE: 7}, "start": 1}
    (tmp_path / "usage/4194303.json").write_text(json.dumps(dead))
    inventory = read_inventory(tmp_path)
    assert (inventory.source, inventory.error) == ("simulated", None)
    card = inventory.gpus[1]
    assert card.memory_used_bytes == 5 * MIB
    assert [process.pid for process in card.processes] == [os.getpid()]
    assert card.utilization_percent is not None and card.utilization_percent > 80
    assert inventory.gpus[0].utilization_percent == 0
    assert replace(inventory.gpus[0], memory_used_bytes=None) != inventory.gpus[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pinned_server_tells_its_card_and_loads_onto_it(rig: Rig, version: str) -> None:
    install(rig.store, CATALOGUE["qwen3:8b"])
    served = rig.start(version, CUDA_VISIBLE_DEVICES=ONE, OLLAMA_VULKAN="0", OLLAMA_CONTEXT_LENGTH="4096")
    (line,) = re.findall(r'msg="inference compute".*', served.stderr)
    identity = f"id=0 filter_id={ONE}" if version == NEW else f"id={ONE} filter_id={ONE}"
    assert identity in line
    assert 'library=CUDA compute=8.6 name=CUDA0 description="NVIDIA RTX A2000 12GB"' in line
    assert f"pci_id={CARDS[1].pci} type=discrete" in line
    assert 'msg="vram-based default context" total_vram="11.8 GiB" default_num_ctx=4096' in served.stderr
    assert served.generate("qwen3:8b").status == 200
    (model,) = served.ps()
    assert model["size_vram"] == model["size"] > 5e9
    assert "offloaded 37/37 layers to GPU" in served.stderr
    (pid,) = served.runners()
    used = [card.memory_used_bytes for card in rig.cards()]
    assert (used[0], used[2]) == (0, 0)
    assert [(process.pid, process.memory_bytes) for process in rig.cards()[1].processes] == [(pid, used[1])]
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"CUDA_VISIBLE_DEVICES={ONE}".encode() in environ
    assert b"OLLAMUX_INSTANCE=gpu0" in environ


def test_memory_of_two_servers_on_one_card_adds_up_and_comes_back_when_a_runner_dies(rig: Rig) -> None:
    install(rig.store, CATALOGUE["llama3.2:3b"])
    pins = {"CUDA_VISIBLE_DEVICES": "0", "OLLAMA_VULKAN": "0"}
    servers = [rig.start(name=f"gpu{n}", OLLAMA_CONTEXT_LENGTH=str(2048 * (n + 1)), **pins) for n in range(2)]
    for served in servers:
        served.generate("llama3.2:3b")
    sizes = [served.ps()[0]["size_vram"] for served in servers]
    used = rig.cards()[0].memory_used_bytes
    assert used == pytest.approx(sum(sizes) + 2 * CONTEXT_BYTES, abs=MIB)
    assert sizes[1] > sizes[0]
    (orphan,) = servers[0].runners()
    servers[0].end(signal.SIGKILL)
    assert state_of(orphan)
    assert rig.cards()[0].memory_used_bytes == used
    os.kill(orphan, signal.SIGTERM)
    until(lambda: rig.cards()[0].memory_used_bytes == pytest.approx(sizes[1] + CONTEXT_BYTES, abs=MIB), "memory back")
    servers[1].end()
    assert rig.cards()[0].memory_used_bytes == 0


def test_what_does_not_fit_spills_and_the_sizes_say_so(rig: Rig) -> None:
    install(rig.store, CATALOGUE["qwen3:32b"])
    served = rig.start(CUDA_VISIBLE_DEVICES="1", OLLAMA_VULKAN="0", OLLAMA_CONTEXT_LENGTH="4096")
    served.generate("qwen3:32b")
    (model,) = served.ps()
    assert 0 < model["size_vram"] < model["size"]
    offloaded, total = map(int, re.findall(r"offloaded (\d+)/(\d+) layers to GPU", served.stderr)[0])
    assert 0 < offloaded < total == 65
    assert "CUDA0 model buffer size =" in served.stderr
    assert (rig.cards()[1].memory_used_bytes or 0) < (rig.cards()[1].memory_total_bytes or 0)
    done = rig.run("ps", OLLAMA_HOST=served.address)
    assert re.search(r"\d+%/\d+% CPU/GPU", done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("asked", [None, 2, 0])
def test_a_load_is_read_from_the_simulated_log_as_from_a_real_one(rig: Rig, version: str, asked: int | None) -> None:
    served = rig.start(version, CUDA_VISIBLE_DEVICES="0", OLLAMA_VULKAN="0", OLLAMA_NUM_PARALLEL="2")
    options = {"num_ctx": 1024} | ({} if asked is None else {"num_gpu": asked})
    assert served.generate("tiny2", options=options).status == 200
    lines = served.stderr.splitlines()
    found = account_of(lines[next(at for at, line in enumerate(lines) if 'msg="starting ' in line) :])
    assert found is not None
    assert (found.context, found.parallel, found.batch, found.asked) == (1024, 2, 512, asked)
    assert found.shortfall is None and found.is_as_asked is (asked is not None)
    kinds = {buffer.kind for buffer in found.buffers}
    assert kinds == {"weights", "kv", "compute", "output"}
    if asked == 0:
        assert found.offloaded is None and not found.devices
    else:
        assert (found.offloaded, found.total) == (5 if asked is None else asked, 5)
        assert dict(found.devices) == {"CUDA0": rig.cards()[0].pci}
        held = found.size("weights", "kv", "compute", on_gpu=True) + CONTEXT_BYTES
        assert rig.cards()[0].memory_used_bytes == pytest.approx(held, abs=64 * 1024)


def test_more_layers_than_fit_are_out_of_memory(rig: Rig) -> None:
    install(rig.store, CATALOGUE["qwen3:32b"])
    served = rig.start(CUDA_VISIBLE_DEVICES="1", OLLAMA_VULKAN="0", OLLAMA_CONTEXT_LENGTH="4096")
    answer = served.generate("qwen3:32b", options={"num_gpu": 99})
    assert answer.status == 500
    assert "out of memory" in answer.json["error"]
    assert served.ps() == []


def test_vulkan_shows_the_cards_that_the_mask_hides(rig: Rig) -> None:
    lines = rig.start(CUDA_VISIBLE_DEVICES=ONE).stderr
    assert len(re.findall(r"inference compute.*library=Vulkan", lines)) == 2
    assert "library=Vulkan" not in rig.start(OLD, CUDA_VISIBLE_DEVICES=ONE).stderr
    hidden = rig.start(CUDA_VISIBLE_DEVICES=ONE, GGML_VK_VISIBLE_DEVICES="-1").stderr
    assert "library=Vulkan" not in hidden
    assert "library=cpu" in rig.start(OLLAMA_LLM_LIBRARY="cpu").stderr
    assert "library=Vulkan" in rig.start(CUDA_VISIBLE_DEVICES="-1").stderr


def test_several_cards_share_a_model_that_fits_on_none(rig: Rig) -> None:
    install(rig.store, CATALOGUE["qwen3:32b"])
    served = rig.start(CUDA_VISIBLE_DEVICES="0,1", OLLAMA_VULKAN="0", OLLAMA_CONTEXT_LENGTH="8192")
    served.generate("qwen3:32b")
    assert all(card.memory_used_bytes for card in rig.cards()[:2])
    assert served.ps()[0]["size_vram"] == served.ps()[0]["size"]
    small = served.generate("tiny2")
    assert small.status == 200


def test_a_seeded_store_is_ready_to_use(rig: Rig, tmp_path: Path) -> None:
    store = tmp_path / "seeded"
    seed_store(store)
    served = rig.start(OLLAMA_MODELS=str(store))
    names = {model["name"] for model in served.ask("GET", "/api/tags").json["models"]}
    assert names == {"qwen3:8b", "llama3.2:3b", "nomic-embed-text:latest"}
    assert sum(path.stat().st_size for path in store.rglob("*")) > 5e9
    assert sum(path.stat().st_blocks * 512 for path in store.rglob("*")) < 10 * MIB
