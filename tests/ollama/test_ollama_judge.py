"""Whether a server computes where it should, from the lines of its log.

The lines about GPUs come from ollama's source (discover/types.go at v0.32.15 and v0.24.0), not from hardware; those
without a GPU are recorded.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ollamux.domain.spec import Pinning
from ollamux.gpu.model import Gpu
from ollamux.ollama.judge import Proof, judge_devices
from ollamux.ollama.log import LogReader
from ollamux.ollama.version import Era, era_of, parse_version

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
BODY = "8f3c2a90-1111-2222-3333-444455556666"
A = Gpu(uuid=f"GPU-{BODY}", index=0, name="RTX 3090", pci="0000:65:00.0")
B = Gpu(uuid="GPU-0a0b0c0d-1111-2222-3333-444455556666", index=1, name="RTX A2000", pci="0000:17:00.0")
MIG = Gpu(
    uuid="MIG-77777777-1111-2222-3333-444455556666", index=0, name="A100 MIG", pci="0000:65:00.0", mig_parent=A.uuid
)
AMD = Gpu(uuid="GPU-deadbeefdeadbeef", index=0, vendor="amd", name="RX 6800", pci="0000:03:00.0")
BARE_AMD = Gpu(uuid="AMD-0000:03:00.0", index=1, vendor="amd", name="APU", pci=None)
STAMP = "time=2026-08-04T14:36:26Z level=INFO source=t.go:1"
END = f'{STAMP} msg="vram-based default context" total_vram="23.6 GiB" default_num_ctx=4096'
CPU_LINE = (
    f'{STAMP} msg="inference compute" id=cpu library=cpu compute="" name=cpu '
    'description=cpu libdirs=ollama driver="" pci_id="" type="" total="23.5 GiB" available="23.1 GiB"'
)


def device(*, number="0", filter_id="", pci="", library="CUDA", name="NVIDIA GeForce RTX 3090"):
    return (
        f'{STAMP} msg="inference compute" id={number} filter_id="{filter_id}" '
        f'library={library} compute=8.6 name={library}0 description="{name}" libdirs=ollama,cuda_v13 driver=13.0 '
        f'pci_id="{pci}" type=discrete total="23.6 GiB" available="23.3 GiB"'
    )


def judge(lines, planned, *, pinning=Pinning.GPUS, era=Era.LLAMA_SERVER):
    events = LogReader().feed("".join(f"{line}\n" for line in lines).encode())
    return judge_devices(events, planned, pinning=pinning, era=era)


BY_TOKEN, BY_PCI = device(filter_id=A.uuid), device(pci=A.pci)
CASES = [
    ("token and address", [device(filter_id=A.uuid, pci=A.pci), END], (A,), Proof.PROVEN),
    ("token alone: the address may be empty", [BY_TOKEN, END], (A,), Proof.PROVEN),
    ("token in capitals", [device(filter_id=A.uuid.upper()), END], (A,), Proof.PROVEN),
    ("address alone", [BY_PCI, END], (A,), Proof.PROVEN),
    ("before the end of discovery", [BY_TOKEN], (A,), Proof.PROVEN),
    ("two cards in another order", [device(filter_id=B.uuid), BY_TOKEN, END], (A, B), Proof.PROVEN),
    ("era B: the UUID is the id", [device(number=A.uuid, pci=A.pci), END], (A,), Proof.PROVEN),
    ("a MIG slice", [device(filter_id=MIG.uuid, pci=A.pci), END], (MIG,), Proof.PROVEN),
    ("era B: a MIG slice, GPU- before it", [device(number=MIG.uuid.replace("MIG", "GPU")), END], (MIG,), Proof.PROVEN),
    ("AMD", [device(filter_id=AMD.uuid, library="ROCm", pci=AMD.pci), END], (AMD,), Proof.PROVEN),
    ("AMD by number", [device(filter_id="1", library="ROCm"), END], (BARE_AMD,), Proof.PROVEN),
    ("another card by address", [device(pci=B.pci), END], (A,), Proof.WRONG),
    ("another card by token", [device(filter_id=B.uuid), END], (A,), Proof.WRONG),
    ("token and address differ", [device(filter_id=A.uuid, pci=B.pci), END], (A,), Proof.WRONG),
    ("one card more, through Vulkan", [BY_TOKEN, device(library="Vulkan", pci=B.pci), END], (A,), Proof.WRONG),
    ("one card more, nameless", [BY_TOKEN, device(number="1", library="Vulkan"), END], (A,), Proof.WRONG),
    ("one card more, nameless, first", [device(number="1", library="Vulkan"), BY_TOKEN, END], (A,), Proof.WRONG),
    ("one card fewer", [BY_TOKEN, END], (A, B), Proof.WRONG),
    ("one card fewer, so far", [BY_TOKEN], (A, B), Proof.PLANNED),
    ("an ordinal says nothing", [device(), END], (A,), Proof.PLANNED),
    ("CPU", [CPU_LINE, END], (A,), Proof.CPU),
    ("nothing yet", [], (A,), Proof.PLANNED),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "planned", "proof"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_pinned(lines, planned, proof) -> None:
    verdict = judge(lines, planned)
    assert verdict.proof is proof, verdict
    assert verdict.reason
    if proof in (Proof.PROVEN, Proof.WRONG, Proof.CPU):
        assert verdict.line in lines


def test_once_http_answers_no_more_devices_will_come() -> None:
    events = LogReader().feed(f"{BY_TOKEN}\n".encode())
    verdict = judge_devices(events, (A, B), pinning=Pinning.GPUS, era=Era.RUNNER, served=True)
    assert verdict.proof is Proof.WRONG
    assert f"GPU {B.index} ({B.name})" in verdict.reason


def test_the_reason_names_both_cards() -> None:
    verdict = judge([device(pci=B.pci, name="RTX A2000"), END], (A,))
    assert "RTX A2000" in verdict.reason
    assert f"GPU {A.index} ({A.name})" in verdict.reason


def test_not_pinned_is_never_wrong() -> None:
    assert judge([device(pci=B.pci), END], (A,), pinning=Pinning.ANY).proof is Proof.PROVEN
    assert judge([CPU_LINE, END], (), pinning=Pinning.ANY).proof is Proof.PROVEN
    assert judge([CPU_LINE, END], (A,), pinning=Pinning.ANY).proof is Proof.CPU


def test_cpu_only() -> None:
    assert judge([CPU_LINE, END], (), pinning=Pinning.CPU).proof is Proof.PROVEN
    assert judge([BY_TOKEN, END], (), pinning=Pinning.CPU).proof is Proof.WRONG


def test_before_0_12_4_nothing_is_known() -> None:
    verdict = judge([device(number=A.uuid)], (A,), era=Era.IN_PROCESS)
    assert verdict.proof is Proof.PLANNED
    assert "unknown" in verdict.reason


def test_an_unknown_version_is_judged_by_its_lines() -> None:
    assert judge([BY_TOKEN, END], (A,), era=None).proof is Proof.PROVEN


@pytest.mark.parametrize("version", ["v0.24.0", "v0.32.15"])
@pytest.mark.parametrize("name", ["serve-cpu-fallback.log", "serve-discovery-hang.log"])
def test_recorded_falls_to_the_cpu(version, name) -> None:
    events = LogReader().feed((RECORDINGS / version / name).read_bytes())
    verdict = judge_devices(events, (A,), pinning=Pinning.GPUS, era=era_of(parse_version(version)))
    assert verdict.proof is Proof.CPU
    assert "library=cpu" in (verdict.line or "")


@pytest.mark.parametrize(
    ("text", "numbers", "era"),
    [
        ("0.32.15", (0, 32, 15), Era.LLAMA_SERVER),
        ("0.33.0-rc2", (0, 33, 0), Era.LLAMA_SERVER),
        ("v0.30.0", (0, 30, 0), Era.LLAMA_SERVER),
        ("0.24.0", (0, 24, 0), Era.RUNNER),
        ("0.12.4", (0, 12, 4), Era.RUNNER),
        ("0.12.3", (0, 12, 3), Era.IN_PROCESS),
        ("0.0.0", None, None),
        ("", None, None),
        ("1.2", None, None),
        ("nonsense", None, None),
    ],
)
def test_versions(text, numbers, era) -> None:
    assert parse_version(text) == numbers
    assert era_of(numbers) is era
