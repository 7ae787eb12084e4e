"""Judge from a server's log whether it computes on the devices it was planned for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ollamux.domain.spec import Pinning
from ollamux.ollama.device import Device, normal_pci
from ollamux.ollama.events import DeviceLine, DiscoveryEnded, LogEvent
from ollamux.ollama.version import Era


class Proof(Enum):
    """What is known about the devices of an instance. "planned" means: nothing yet."""

    PROVEN = "proven"
    WRONG = "wrong"
    CPU = "cpu"
    PLANNED = "planned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judgement, the reason in one plain sentence, and the line of the log that it rests on."""

    proof: Proof
    reason: str
    line: str | None = None


def judge_devices(
    lines: Iterable[LogEvent],
    planned: Sequence[Device],
    *,
    pinning: Pinning,
    era: Era | None,
    served: bool = False,
) -> Verdict:
    """Compare the devices that a log names with the plan.

    `lines` is what the log of one run has said so far, in order. An instance that is not pinned is never "wrong"; give
    its visible cards as `planned` to have a fall to the CPU noticed, or none where there are none. `served` says that
    HTTP answers, so that no more devices will come: before 0.15.5 the log itself does not tell.
    """
    if era is Era.IN_PROCESS:
        return _not_known("ollama before 0.12.4 does not name its devices reliably, so they are unknown")
    seen = list(lines)
    devices = [event for event in seen if isinstance(event, DeviceLine)]
    if not devices:
        return _not_known("the server has not named its devices yet")
    if all(device.is_cpu for device in devices):
        return _judge_cpu(devices[0], planned, pinning)
    gpus = [device for device in devices if not device.is_cpu]
    if pinning is Pinning.CPU:
        return _wrong(f"it should use the CPU alone but uses {_name(gpus[0])}", gpus[0])
    if pinning is Pinning.ANY:
        return Verdict(proof=Proof.PROVEN, reason=f"not pinned; uses {_names(gpus)}", line=gpus[0].line)
    ended = served or any(isinstance(event, DiscoveryEnded) for event in seen)
    return _judge_gpus(gpus, planned, ended=ended)


def _judge_cpu(device: DeviceLine, planned: Sequence[Device], pinning: Pinning) -> Verdict:
    if pinning is Pinning.CPU:
        return Verdict(proof=Proof.PROVEN, reason="computes on the CPU, as configured", line=device.line)
    if pinning is Pinning.ANY and not planned:
        return Verdict(proof=Proof.PROVEN, reason="not pinned; there is no GPU, so it uses the CPU", line=device.line)
    wanted = " and ".join(_planned_name(gpu) for gpu in planned) or "a GPU"
    return Verdict(
        proof=Proof.CPU, reason=f"ollama found no GPU and fell back to the CPU instead of {wanted}", line=device.line
    )


def _judge_gpus(devices: list[DeviceLine], planned: Sequence[Device], *, ended: bool) -> Verdict:
    left = list(planned)
    unknown: DeviceLine | None = None
    for device in devices:
        match, doubt = _find(device, left)
        if doubt:
            return _wrong(doubt, device)
        if match is not None:
            left.remove(match)
        elif _identified(device) or len(devices) > len(planned):
            wanted = " and ".join(_planned_name(gpu) for gpu in planned) or "no GPU"
            return _wrong(f"it uses {_name(device)}, but the plan is {wanted}", device)
        else:
            unknown = device
    if unknown is not None:
        return _not_known(f"the log does not tell which card {_name(unknown)} is", unknown.line)
    if left:
        missing = " and ".join(_planned_name(gpu) for gpu in left)
        if not ended:
            return _not_known(f"{missing} has not been named yet", devices[-1].line)
        return _wrong(f"ollama does not use {missing}", devices[-1])
    return Verdict(proof=Proof.PROVEN, reason=f"the log names {_names(devices)}, as planned", line=devices[0].line)


def _find(device: DeviceLine, planned: Sequence[Device]) -> tuple[Device | None, str | None]:
    """Find the planned device that a line names, by token and PCI address; both must agree where both are there."""
    by_token = next((gpu for gpu in planned if _token_names(device, gpu)), None)
    if by_token is None:
        return next(
            (gpu for gpu in planned if device.pci_id and normal_pci(gpu.pci or "") == device.pci_id), None
        ), None
    if device.pci_id and by_token.pci and normal_pci(by_token.pci) != device.pci_id:
        return by_token, f"it was given {_planned_name(by_token)} but runs on the card at {device.pci_id}"
    return by_token, None


def _token_names(device: DeviceLine, gpu: Device) -> bool:
    """Say whether id or filter_id is this device's UUID.

    Ollama 0.13 to 0.24 print the UUID of a MIG slice with the prefix of a whole card, so prefixes are left out.
    """
    wanted = _bare(gpu.uuid)
    if gpu.vendor == "amd" and device.filter_id.isdigit() and not gpu.uuid.startswith("GPU-"):
        return device.library == "ROCm" and device.filter_id == str(gpu.index)
    return wanted in (_bare(device.filter_id), _bare(device.id))


def _bare(uuid: str) -> str:
    lowered = uuid.lower()
    return lowered.removeprefix("gpu-").removeprefix("mig-")


def _identified(device: DeviceLine) -> bool:
    """Say whether a line tells which card it means; an ordinal alone does not."""
    return bool(device.pci_id) or any("-" in token for token in (device.id, device.filter_id))


def _planned_name(gpu: Device) -> str:
    """Name a card as nvidia-smi does; a slice, or a card without a number, by its UUID."""
    if gpu.index is None or gpu.uuid.startswith("MIG-"):
        return f"{gpu.name or 'the GPU'} ({gpu.uuid})"
    return f"GPU {gpu.index} ({gpu.name or gpu.uuid})"


def _name(device: DeviceLine) -> str:
    where = device.pci_id or device.filter_id or device.id
    return f"{device.name or device.library} ({device.library} {where})"


def _names(devices: list[DeviceLine]) -> str:
    return " and ".join(_name(device) for device in devices)


def _wrong(reason: str, device: DeviceLine) -> Verdict:
    return Verdict(proof=Proof.WRONG, reason=reason, line=device.line)


def _not_known(reason: str, line: str | None = None) -> Verdict:
    return Verdict(proof=Proof.PLANNED, reason=reason, line=line)
