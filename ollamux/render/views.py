"""The tables of one thing each: cards, instances, models, processes. The whole-box table uses the one of models, too.

Columns and their order of going only; how they are laid out is the grid's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from ollamux.domain.cards import troubles
from ollamux.domain.snapshot import GpuView, InstanceView, ModelView, ProcessView, Status
from ollamux.render import words
from ollamux.render.cells import Spans
from ollamux.render.grid import Column, flat_table
from ollamux.render.groups import card_mark, cards_of, gpu_marks, loaded_models, short_uuid
from ollamux.render.overview import explain
from ollamux.render.pen import Pen

_Thing = TypeVar("_Thing")
Drawn = tuple[list[str], int]


def _column(
    pen: Pen,
    things: Iterable[_Thing],
    title: str,
    write: Callable[[_Thing], str],
    *,
    right: bool = False,
    rank: int = 0,
) -> Column:
    values = [write(thing) for thing in things]
    return Column(
        title=title,
        right=right,
        rank=rank,
        items=[pen.text(value, "dim" if value == words.DASH else "") for value in values],
    )


def draw_gpus(pen: Pen, status: Status, *, wide: bool, now: float | None) -> Drawn:
    """Draw the cards with everything known of them."""
    gpus = status.gpus

    def column(title: str, write: Callable[[GpuView], str], *, right: bool = False, rank: int = 0) -> Column:
        return _column(pen, gpus, title, write, right=right, rank=rank)

    def seen(gpu: GpuView) -> str:
        age = words.age(gpu, status, now)
        return words.DASH if age is None else f"{words.fine(age)} ago"

    columns = [
        column("GPU", card_mark, right=True),
        Column(title="Name", name=True, items=[pen.name(words.gpu_name(g.name), "strong") for g in gpus]),
        Column(title="State", rank=1, items=[_gpu_state(pen, gpu, status, now) for gpu in gpus]),
        column("Temp", words.temperature, right=True, rank=3),
        column("Power", words.power, right=True, rank=4),
        column("Util", words.utilization, right=True, rank=2),
        Column(title="", rank=7, items=[_gpu_bar(pen, gpu) for gpu in gpus]),
        column("Memory", words.memory, right=True),
        column("Instances", lambda gpu: ", ".join(gpu.instances) or words.DASH, rank=5),
        column("Sample", seen, right=True, rank=9),
        column("PCI", lambda gpu: words.pci(gpu.pci), rank=6),
        column("PCIe", words.pcie, rank=8),
    ]
    if wide:
        columns.append(column("UUID", lambda gpu: gpu.uuid, rank=10))
        more = (
            ("Clocks", words.clocks, 11),
            ("Held down by", words.throttle, 12),
            ("Capability", lambda gpu: gpu.compute_capability or words.DASH, 13),
            ("ECC", words.ecc, 14),
            ("Persistence", lambda gpu: words.on_off(gpu.persistence), 15),
            ("Mode", lambda gpu: gpu.compute_mode or words.DASH, 16),
        )
        for title, write, rank in more:
            if any(write(gpu) != words.DASH for gpu in gpus):  # a column of dashes takes room and says nothing
                columns.append(column(title, write, rank=rank))
    return flat_table(pen, columns, details=[_gpu_troubles(pen, gpu) for gpu in gpus])


def _gpu_troubles(pen: Pen, gpu: GpuView) -> list[str]:
    lines = []
    for trouble in troubles(gpu):
        said = pen.text(trouble.words, "bad" if trouble.broken else "wait")
        fix = pen.text(f"; {trouble.fix}") if trouble.fix else ()
        lines += pen.hanging((*said, *fix), indent=1, width=min(pen.width, 100), lead="└ ")
    return lines


def _gpu_state(pen: Pen, gpu: GpuView, status: Status, now: float | None) -> Spans:
    if gpu.state == "ok":
        age = words.age(gpu, status, now)
        if age is not None and age > words.STALE_AFTER_S:
            return pen.text(f"{words.coarse(age)} old", "wait")
        return pen.text("ok", "good")
    return pen.text(gpu.state, "bad" if gpu.state == "lost" else "dim")


def _gpu_bar(pen: Pen, gpu: GpuView) -> Spans:
    if not gpu.memory_total_bytes or gpu.memory_used_bytes is None or gpu.state == "lost":
        return ()
    return pen.bar(gpu.memory_used_bytes / gpu.memory_total_bytes, 12)


def draw_instances(pen: Pen, status: Status, *, wide: bool, now: float | None) -> Drawn:
    """Draw the instances with their processes and proofs, and what is the matter with them."""
    instances = status.instances
    marks = gpu_marks(status)

    def column(title: str, write: Callable[[InstanceView], str], *, right: bool = False, rank: int = 0) -> Column:
        return _column(pen, instances, title, write, right=right, rank=rank)

    def loaded(instance: InstanceView) -> str:
        return ", ".join(words.short_model(model.name) for model in instance.models[:3]) or words.DASH

    port = column("Port", lambda i: str(i.port), right=True, rank=1)
    columns = [
        Column(title="Instance", name=True, items=[pen.name(i.name, "strong") for i in instances]),
        column("GPU", lambda i: cards_of(i, marks), right=True, rank=2),
        column("URL", lambda i: i.url, rank=4) if wide else port,
        Column(title="State", items=[pen.text(*words.state(i)) for i in instances]),
        column("Since", lambda i: words.since(i, now), right=True, rank=3),
        column("Restarts", lambda i: str(i.restarts), right=True, rank=5),
        column("PID", lambda i: words.number(i.pid), right=True, rank=4),
        column("RSS", lambda i: words.size(i.rss_bytes), right=True, rank=7),
        column("Pinning", lambda i: i.pinning, rank=6),
        column("Last exit", words.exit_of, rank=9),
        column("Gen", lambda i: str(i.generation), right=True, rank=10),
        column("Ollama", lambda i: i.ollama_version or words.DASH, rank=8),
    ]
    if wide:
        columns.append(column("Auto/asked", words.restarts_for_life, right=True, rank=11))
        columns.append(column("Adopted", lambda i: "yes" if i.adopted else "no", rank=12))
        columns.append(column("Models", loaded, rank=13))
        if any(instance.canary for instance in instances):
            columns.append(column("Canary", lambda i: words.canary(i, now), rank=11))
    details = [
        [
            line
            for said in explain(pen, instance, now)
            for line in pen.hanging(said, indent=1, width=min(pen.width, 100), lead="└ ")
        ]
        for instance in instances
    ]
    return flat_table(pen, columns, details=details)


def draw_models(pen: Pen, status: Status, *, full: bool, now: float | None) -> Drawn:
    """Draw the loaded models: where they are, how large, how much of each is on the card, and until when."""
    models = loaded_models(status)
    on_cpu = {instance.name for instance in status.instances if instance.pinning == "cpu" and not instance.gpus}

    def column(title: str, write: Callable[[ModelView], str], *, right: bool = False, rank: int = 0) -> Column:
        return _column(pen, models, title, write, right=right, rank=rank)

    def on_gpu(model: ModelView) -> Spans:
        percent = words.percent_on_gpu(model)
        if model.instance in on_cpu:
            return pen.text("CPU")
        if percent is None:
            return pen.text(words.DASH, "dim")
        return pen.text(f"{percent} %") if percent == 100 else pen.text(f"! {percent} %", "wait")

    columns = [
        Column(title="Model", name=True, items=[pen.name(m.name, "strong") for m in models]),
        Column(title="On", name=True, enough=12, items=[pen.name(m.instance) for m in models]),
        column("Memory", lambda m: words.gib(m.size_bytes), right=True, rank=1),
        Column(title="on GPU", right=True, items=[on_gpu(m) for m in models]),
        Column(title="Layers", right=True, rank=2, items=[_layers(pen, m, on_cpu) for m in models]),
        column("Context", lambda m: words.number(m.context_length), right=True, rank=4),
        column("Until", lambda m: words.until(m.expires_at, now), rank=3),
    ]
    if any(words.is_stale(model, status, now) for model in models):
        ages = [words.age(model, status, now) for model in models]
        told = [pen.text(words.DASH if age is None else f"{words.coarse(age)} ago", "wait") for age in ages]
        columns.append(Column(title="Told", right=True, items=told))
    if full:
        columns[4:4] = [column("VRAM", lambda m: words.gib(m.size_vram_bytes), right=True, rank=5)]
        columns.append(column("Digest", lambda m: (m.digest or words.DASH).removeprefix("sha256:")[:12], rank=6))
    return flat_table(pen, columns, details=[_buffers(pen, model) for model in models] if full else ())


def _layers(pen: Pen, model: ModelView, on_cpu: Collection[str]) -> Spans:
    said = words.layers(model)
    if model.instance not in on_cpu and words.is_short_of_layers(model):
        return pen.text(f"! {said}", "wait")
    return pen.text(said, "dim" if said == words.DASH else "")


def _buffers(pen: Pen, model: ModelView) -> list[str]:
    width = min(pen.width, 120)
    return [
        line
        for said in words.buffers(model)
        for line in pen.hanging(pen.text(said, "dim"), indent=1, width=width, lead="└ ")
    ]


def draw_processes(pen: Pen, status: Status) -> Drawn:
    """Draw the processes: ours, and whatever else is on the cards."""
    processes: Sequence[ProcessView] = status.processes
    marks = gpu_marks(status)

    def gpu(process: ProcessView) -> str:
        return words.DASH if process.gpu is None else marks.get(process.gpu, short_uuid(process.gpu))

    columns = [
        _column(pen, processes, "GPU", gpu, right=True),
        _column(pen, processes, "PID", lambda p: str(p.pid), right=True),
        Column(title="Kind", items=[pen.text(p.kind, "wait" if p.kind == "foreign" else "") for p in processes]),
        Column(title="Instance", name=True, enough=12, items=[pen.name(p.instance or words.DASH) for p in processes]),
        _column(pen, processes, "Memory", lambda p: words.gib(p.memory_bytes), right=True, rank=1),
        Column(title="User", rank=2, items=[pen.name(p.user or words.DASH) for p in processes]),
        Column(title="Process", name=True, items=[pen.name(p.name or words.DASH) for p in processes]),
    ]
    return flat_table(pen, columns)
