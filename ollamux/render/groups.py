"""Which instances are drawn under which card: every instance once in full, and by name under its other cards.

No text is made here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ollamux.domain.snapshot import GpuView, InstanceView, ModelView, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An instance under a card. `first` is the card under which it is drawn in full, None where this is that card."""

    instance: InstanceView
    first: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A card with its instances; or, without a card, those on the CPU, on any card, or on a card nobody has seen."""

    mark: str
    name: str
    gpu: GpuView | None
    members: tuple[Member, ...]


def short_uuid(uuid: str) -> str:
    """Return as much of a UUID as tells the cards of one box apart: "GPU-8f3c2a90"."""
    return uuid[:12]


def card_mark(gpu: GpuView) -> str:
    """Return what stands in the column GPU for a card."""
    if gpu.index is not None:
        return str(gpu.index)
    return "MIG" if gpu.uuid.startswith("MIG-") else "?"


def group(status: Status) -> list[Group]:
    """Return the cards in their order, then what is on no card."""
    drawn: dict[str, str] = {}
    groups = [_card(gpu, status, drawn) for gpu in status.gpus]
    seen = {gpu.uuid for gpu in status.gpus}
    unseen: dict[str, list[Member]] = {}
    loose: dict[str, list[Member]] = {"CPU": [], "any": []}
    for instance in status.instances:
        for uuid in dict.fromkeys(instance.gpus):
            if uuid not in seen:
                unseen.setdefault(uuid, []).append(_member(instance, "?", drawn))
        if instance.name not in drawn:
            where = "CPU" if instance.pinning == "cpu" else "any"
            loose[where].append(_member(instance, where, drawn))
    groups += [Group(mark="?", name=short_uuid(uuid), gpu=None, members=tuple(found)) for uuid, found in unseen.items()]
    for mark, name in (("any", "any GPU, not pinned"), ("CPU", "no GPU")):
        if loose[mark]:
            groups.append(Group(mark=mark, name=name, gpu=None, members=tuple(loose[mark])))
    return groups


def _card(gpu: GpuView, status: Status, drawn: dict[str, str]) -> Group:
    mark = card_mark(gpu)
    members = tuple(_member(found, mark, drawn) for found in status.instances if gpu.uuid in found.gpus)
    return Group(mark=mark, name=gpu.name, gpu=gpu, members=members)


def _member(instance: InstanceView, mark: str, drawn: dict[str, str]) -> Member:
    first = drawn.get(instance.name)
    drawn.setdefault(instance.name, mark)
    return Member(instance=instance, first=first)


def loaded_models(status: Status) -> tuple[ModelView, ...]:
    """Return the loaded models; where the list was left out, those the instances tell of."""
    if status.models:
        return status.models
    return tuple(
        ModelView(
            instance=instance.name,
            name=model.name,
            digest=None,
            size_bytes=model.size_bytes,
            size_vram_bytes=model.size_vram_bytes,
            context_length=model.context_length,
            expires_at=model.expires_at,
            layers=None,
        )
        for instance in status.instances
        for model in instance.models
    )


def gpu_marks(status: Status) -> dict[str, str]:
    """Return what each card is called for short."""
    return {gpu.uuid: card_mark(gpu) for gpu in status.gpus}


def cards_of(instance: InstanceView, marks: dict[str, str]) -> str:
    """Return the cards of an instance for short: "0", "0,1", "CPU", "any"."""
    if not instance.gpus:
        return "CPU" if instance.pinning == "cpu" else "any"
    return ",".join(marks.get(uuid, short_uuid(uuid)) for uuid in instance.gpus)
