"""References to devices, allocations, and cards in two instances."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.spec import FleetSpec, GpuRef, GpuRefKind, InstanceSpec, Pinning
from ollamux.gpu.allocation import allocation_note, allowed
from ollamux.gpu.codec import inventory_from_json, inventory_to_json
from ollamux.gpu.model import Gpu, GpuProcess, Inventory
from ollamux.gpu.pci import normal_pci
from ollamux.gpu.resolve import resolve, shared_gpus

A = Gpu(uuid="GPU-8f3c2a90-aaaa", index=0, name="RTX 3090", pci="0000:17:00.0")
B = Gpu(uuid="GPU-8f3c77aa-bbbb", index=1, name="RTX A2000", pci="0000:65:00.0")
C = Gpu(uuid="GPU-0c0c0c0c-cccc", index=2, name="A100", pci="0001:65:00.0")
C1 = Gpu(uuid="MIG-11111111-cccc", index=2, name="A100 MIG 3g", pci=C.pci, mig_parent=C.uuid)
C2 = Gpu(uuid="MIG-22222222-cccc", index=2, name="A100 MIG 3g", pci=C.pci, mig_parent=C.uuid)
R = Gpu(uuid="GPU-deadbeefdeadbeef", index=0, vendor="amd", name="RX 6800", pci="0000:03:00.0")
S = Gpu(uuid="GPU-feedfeedfeedfeed", index=1, vendor="amd", name="RX 7900", pci="0000:04:00.0")
BOX = Inventory(source="nvml", gpus=(A, B, C, C1, C2, R, S))
N, U, M, P, D = GpuRefKind.INDEX, GpuRefKind.UUID, GpuRefKind.MIG, GpuRefKind.PCI, GpuRefKind.AMD


def spec(*refs, name="gpu0", **more):
    gpus = tuple(GpuRef(kind=kind, value=value) for kind, value in refs)
    return InstanceSpec(name=name, port=11435, pinning=Pinning.GPUS, gpus=gpus, **more)


@pytest.mark.parametrize(
    ("ref", "gpu"),
    [
        ((N, "0"), A),
        ((N, "1"), B),
        ((U, A.uuid), A),
        ((U, A.uuid.upper()), A),
        ((U, "gpu-8f3c2"), A),
        ((U, "GPU-dead"), R),
        ((M, C1.uuid), C1),
        ((M, "mig-2"), C2),
        ((P, "0000:65:00.0"), B),
        ((P, "00000000:65:00.0"), B),
        ((P, "65:00.0"), B),
        ((P, "1:65:0.0"), None),
        ((P, "17:00"), A),
        ((D, "0"), R),
        ((D, "1"), S),
    ],
)
def test_C13_a_reference(ref, gpu) -> None:
    resolution = resolve(spec(ref), BOX)
    if gpu is None:
        assert "MIG" in resolution.problem
    else:
        assert (resolution.gpus, resolution.problem) == ((gpu,), None)


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ((N, "7"), ["no GPU 7", A.uuid, "amd:0"]),
        ((U, "GPU-8f3c"), ["ambiguous", A.uuid, B.uuid]),
        ((U, "GPU-ffff"), ["no GPU GPU-ffff", A.uuid]),
        ((U, ""), ["no GPU"]),
        ((M, "MIG-9"), ["no GPU MIG-9"]),
        ((M, "MIG-"), ["ambiguous"]),
        ((P, "0000:99:00.0"), ["no GPU 0000:99:00.0"]),
        ((P, "junk"), ["no GPU junk"]),
        ((D, "5"), ["no GPU amd:5"]),
        ((N, "2"), ["MIG slices", C1.uuid]),
    ],
)
def test_C13_a_reference_that_cannot_be_had(ref, words) -> None:
    problem = resolve(spec(ref), BOX).problem
    for word in words:
        assert word in problem
    assert "\n" not in problem


def test_several_cards_and_one_twice() -> None:
    assert resolve(spec((N, "1"), (N, "0"), (U, A.uuid)), BOX).gpus == (B, A)


def test_two_makers_in_one_instance() -> None:
    assert "NVIDIA and AMD" in resolve(spec((N, "0"), (D, "0")), BOX).problem


def test_lost_and_unknown_cards_say_why() -> None:
    lost = replace(A, state="lost", lost_reason="it fell off")
    resolution = resolve(spec((N, "0")), replace(BOX, gpus=(lost, B)))
    assert resolution.gpus == (lost,)
    assert "is lost: it fell off" in resolution.problem
    unknown = replace(A, state="unknown", lost_reason="driver updated")
    assert "driver updated" in resolve(spec((N, "0")), replace(BOX, gpus=(unknown,))).problem


def test_C14_no_driver_says_what_the_driver_says() -> None:
    assert "install it" in resolve(spec((N, "0")), Inventory(error="no driver; install it")).problem
    assert "no GPU here" in resolve(spec((N, "0")), Inventory()).problem


def test_nothing_to_resolve() -> None:
    for pinning in (Pinning.CPU, Pinning.ANY):
        resolution = resolve(replace(spec(), pinning=pinning), Inventory())
        assert (resolution.gpus, resolution.problem) == ((), None)


def fleet(*specs):
    return FleetSpec(instances=specs)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (spec((N, "0")), spec((U, "GPU-8f3c2"), name="b"), [A]),
        (spec((N, "0")), spec((N, "1"), name="b"), []),
        (spec((N, "0"), share_gpu=True), spec((N, "0"), name="b", share_gpu=True), []),
        (spec((N, "0"), share_gpu=True), spec((N, "0"), name="b"), [A]),
        (spec((N, "0")), spec((N, "0"), name="b", enabled=False), []),
        (spec((N, "0"), (N, "1")), spec((N, "1"), (N, "0"), name="b"), [A, B]),
        (spec((M, "MIG-1")), spec((M, "MIG-2"), name="b"), []),
        (spec((M, "MIG-1")), spec((M, "MIG-1"), name="b"), [C1]),
        (spec((M, "MIG-1")), spec((N, "2"), name="b"), [C1]),
        (spec((N, "2")), spec((M, "MIG-1"), name="b"), [C]),
        (spec((N, "9")), spec((N, "9"), name="b"), []),
    ],
)
def test_C10_shared_cards(one, other, shared) -> None:
    found = shared_gpus(fleet(one, other), BOX)
    assert [item.gpu for item in found] == shared
    for item in found:
        assert item.instances == ("gpu0", "b")
        assert "share_gpu" in str(item)


def uuids(env, box=BOX):
    return [gpu.uuid for gpu in allowed(box, env).gpus]


ALL_AMD, ALL_C = [R.uuid, S.uuid], [C.uuid, C1.uuid, C2.uuid]


@pytest.mark.parametrize(
    ("env", "left"),
    [
        ({}, [A.uuid, B.uuid, *ALL_C, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [B.uuid, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": "1, 0"}, [A.uuid, B.uuid, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": "2"}, [*ALL_C, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": B.uuid}, [B.uuid, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f3c2"}, [A.uuid, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1"}, [C1.uuid, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ALL_AMD),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ALL_AMD),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ALL_AMD),
        ({"CUDA_VISIBLE_DEVICES": "1,9,0"}, [B.uuid, *ALL_AMD]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8f3c"}, ALL_AMD),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, [A.uuid, *ALL_AMD]),
        ({"ROCR_VISIBLE_DEVICES": "1"}, [A.uuid, B.uuid, *ALL_C, S.uuid]),
        ({"ROCR_VISIBLE_DEVICES": R.uuid}, [A.uuid, B.uuid, *ALL_C, R.uuid]),
        ({"ROCR_VISIBLE_DEVICES": ""}, [A.uuid, B.uuid, *ALL_C]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [A.uuid, B.uuid, *ALL_C, S.uuid]),
        ({"HIP_VISIBLE_DEVICES": "-1"}, [A.uuid, B.uuid, *ALL_C]),
        ({"HIP_VISIBLE_DEVICES": ""}, [A.uuid, B.uuid, *ALL_C, *ALL_AMD]),
        ({"GPU_DEVICE_ORDINAL": "-1", "SLURM_JOB_ID": "1"}, [A.uuid, B.uuid, *ALL_C, *ALL_AMD]),
    ],
)
def test_an_allocation(env, left) -> None:
    assert uuids(env) == left


def test_slurm_on_an_nvidia_machine() -> None:
    slurm = {"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1", "GPU_DEVICE_ORDINAL": "1", "SLURM_JOB_ID": "7"}
    assert uuids(slurm, Inventory(gpus=(A, B))) == [B.uuid]


def test_numbers_stay_those_of_the_machine() -> None:
    ours = allowed(BOX, {"CUDA_VISIBLE_DEVICES": "1"})
    assert resolve(spec((N, "1")), ours, machine=BOX).gpus == (B,)
    assert "not in this allocation" in resolve(spec((N, "0")), ours, machine=BOX).problem
    assert "no GPU 9" in resolve(spec((N, "9")), ours, machine=BOX).problem


def test_doubt_about_the_order_is_told() -> None:
    assert "PCI order" in allocation_note({"CUDA_VISIBLE_DEVICES": "1"})
    assert allocation_note({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) is None
    assert allocation_note({"CUDA_VISIBLE_DEVICES": A.uuid}) is None
    assert allocation_note({}) is None


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_mask_leaves_a_part(cuda, rocr) -> None:
    left = uuids({"CUDA_VISIBLE_DEVICES": cuda, "ROCR_VISIBLE_DEVICES": rocr})
    assert set(left) <= {gpu.uuid for gpu in BOX.gpus}


@given(st.sampled_from(list(GpuRefKind)), st.text(max_size=20))
def test_any_reference_gives_a_card_or_a_sentence(kind, value) -> None:
    resolution = resolve(spec((kind, value)), BOX)
    assert resolution.problem or len(resolution.gpus) == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:65:00.0", "0000:65:00.0"),
        ("0000:65:00.0", "0000:65:00.0"),
        ("65:00.0", "0000:65:00.0"),
        ("00010000:C1:00.0", "10000:c1:00.0"),
        ("65:00", "0000:65:00.0"),
        ("", None),
        ("65", None),
        ("x:65:00.0", None),
    ],
)
def test_addresses(text, address) -> None:
    assert normal_pci(text) == address


def test_an_inventory_survives_the_wire() -> None:
    busy = replace(A, power_w=1.5, processes=(GpuProcess(pid=1, memory_bytes=None), GpuProcess(pid=2, memory_bytes=3)))
    inventory = Inventory(source="nvml", driver="580", cuda="13.0", gpus=(busy, C1), error="näh\n")
    text = inventory_to_json(inventory)
    assert "\n" not in text
    assert inventory_from_json(text) == inventory


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "7",
        '{"schema":"other/1","gpus":[]}',
        '{"schema":"ollamux.gpus/1","gpus":[{}]}',
        "[" * 99999,
    ],
)
def test_what_is_no_inventory(text) -> None:
    with pytest.raises(ValueError):
        inventory_from_json(text)


def test_keys_of_a_later_version_are_ignored() -> None:
    text = inventory_to_json(Inventory(gpus=(A,))).replace('"uuid"', '"new":1,"uuid"')
    assert inventory_from_json(text).gpus == (A,)
