"""What `init` writes is valid on every machine, and a person can change it by taking a # away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ollamux.config import write
from ollamux.config.load import parse, warnings
from ollamux.config.write import find_store, initial_config
from ollamux.domain.spec import FleetSpec, InstanceSpec, Pinning
from ollamux.gpu.model import NO_GPUS, Gpu, Inventory

GIB = 1024**3


def card(number: int, **more: object) -> Gpu:
    """Return an NVIDIA card."""
    values = {
        "uuid": f"GPU-8f3c2a9{number}-1111-2222-3333-444455556666",
        "index": number,
        "name": "NVIDIA GeForce RTX 3090",
        "pci": f"0000:{number + 1:02x}:00.0",
        "memory_total_bytes": 24 * GIB,
        **more,
    }
    return Gpu(**values)  # type: ignore[arg-type]


def mig(parent: Gpu, number: int) -> Gpu:
    """Return a slice of a card."""
    uuid = f"MIG-63feeb45-94c6-5cb9-8ecd-5aef5f9a4e3{number}"
    return Gpu(uuid=uuid, index=parent.index, name="MIG 1g.5gb", mig_parent=parent.uuid, memory_total_bytes=5 * GIB)


AMD = Gpu(
    uuid="AMD-0000:03:00.0", index=0, vendor="amd", name="RX 7900", pci="0000:03:00.0", memory_total_bytes=20 * GIB
)
MACHINES = {
    "none": NO_GPUS,
    "no driver": Inventory(error="the NVIDIA driver does not answer:\x1b[31m\nmismatch"),
    "one": Inventory(gpus=(card(0),)),
    "two": Inventory(gpus=(card(0), card(1, name="RTX A2000\x1b[0m \u202e12GB", memory_total_bytes=None))),
    "eight": Inventory(gpus=tuple(card(number) for number in range(8))),
    "mig": Inventory(gpus=(card(0), mig(card(0), 0), mig(card(0), 1), card(1))),
    "amd": Inventory(gpus=(AMD,)),
    "mixed": Inventory(gpus=(card(0), AMD)),
    "lost": Inventory(gpus=(card(0), card(1, index=None, state="lost"), Gpu(uuid="lost-2", index=2, state="lost"))),
}


def written(inventory: Inventory, *taken: int, store: str | None = "~/.ollama/models") -> str:
    """Return what init writes where these ports are taken."""
    return initial_config(
        inventory, store=store, store_reason="found\nthere", ports_in_use=lambda port: port in taken, now="2026-01-31"
    )


def fleet(text: str) -> FleetSpec:
    """Parse what has to be valid."""
    return parse(text.encode(), "ollamux.toml", open_port=1024)


@pytest.mark.parametrize("machine", MACHINES)
def test_it_is_valid_and_safe_to_show(machine: str) -> None:
    text = written(MACHINES[machine])
    assert warnings(fleet(text)) == ()
    assert all(line.isprintable() and len(line) <= 120 for line in text.splitlines())
    assert text.startswith("# ollamux") and "on 2026-01-31" in text


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("none", [("cpu", [], 11434)]),
        ("no driver", [("cpu", [], 11434)]),
        ("one", [("gpu0", ["GPU-8f3c2a90-1111-2222-3333-444455556666"], 11434)]),
        (
            "mig",
            [
                ("gpu0-0", ["MIG-63feeb45-94c6-5cb9-8ecd-5aef5f9a4e30"], 11435),
                ("gpu0-1", ["MIG-63feeb45-94c6-5cb9-8ecd-5aef5f9a4e31"], 11436),
                ("gpu1", ["GPU-8f3c2a91-1111-2222-3333-444455556666"], 11437),
            ],
        ),
        ("amd", [("amd0", ["amd:0"], 11434)]),
        ("mixed", [("gpu0", ["GPU-8f3c2a90-1111-2222-3333-444455556666"], 11435), ("amd0", ["amd:0"], 11436)]),
    ],
)
def test_one_instance_for_each_gpu(machine: str, expected: list[tuple[str, list[str], int]]) -> None:
    found = fleet(written(MACHINES[machine])).instances
    assert [(spec.name, [str(ref) for ref in spec.gpus], spec.port) for spec in found] == expected


def test_ports_in_use_are_skipped() -> None:
    assert [spec.port for spec in fleet(written(MACHINES["one"], 11434)).instances] == [11435]
    assert [spec.port for spec in fleet(written(MACHINES["none"], 11434, 11435)).instances] == [11436]
    ports = [spec.port for spec in fleet(written(MACHINES["eight"], 11436, 11438)).instances]
    assert ports == [11435, 11437, 11439, 11440, 11441, 11442, 11443, 11444]


def test_what_is_left_in_comments_is_the_default() -> None:
    text = written(MACHINES["one"], store=None)
    plain = fleet(text)
    spec = plain.instances[0]
    assert spec == InstanceSpec(name="gpu0", port=11434, pinning=Pinning.GPUS, gpus=spec.gpus)
    lines = [re.sub(r"^# (?=[a-z_]+ = )", "", line) for line in text.splitlines()]
    unset = [line for line in lines if "(unset)" in line]
    kept = [line for line in lines if "(unset)" not in line]
    assert len(lines) - text.splitlines().count("") > 40
    assert fleet("\n".join(kept)) == plain  # every default, written out, changes nothing
    assert len(unset) == 11
    everything = fleet("\n".join(lines))  # every example is valid, too
    assert everything.instances[0].kv_cache_type == "q8_0"
    assert everything.supervisor.notify


def test_the_first_line_that_matters_is_short_to_reach() -> None:
    lines = written(MACHINES["two"]).splitlines()
    assert lines.index("version = 1") < 12
    assert lines.index("[supervisor]") > lines.index("port = 11436")


def test_a_store_that_holds_models_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "packaged"
    monkeypatch.setattr(write, "PACKAGED_STORE", packaged)
    assert find_store(tmp_path) == ("~/.ollama/models", "ollama's usual place; no store with models was found")
    (packaged / "manifests" / "registry.ollama.ai").mkdir(parents=True)
    assert find_store(tmp_path)[0] == str(packaged)
    assert "packaged service" in find_store(tmp_path)[1]
    (tmp_path / ".ollama/models/manifests").mkdir(parents=True)
    assert find_store(tmp_path)[0] == str(packaged)  # an empty store is no reason to leave the full one
    (tmp_path / ".ollama/models/manifests/registry.ollama.ai").mkdir()
    assert find_store(tmp_path)[0] == "~/.ollama/models"
