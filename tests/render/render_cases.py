"""The boxes that the golden tables draw: one for each thing that can be different about a box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ollamux.domain.snapshot import (
    BufferView,
    GpuView,
    InstanceModelView,
    InstanceView,
    LinkView,
    ModelView,
    Status,
)
from ollamux.render.sample import sample_status, uuid_of

GIB = 1024**3


def change_instance(status: Status, at: int, **changes: Any) -> Status:
    instances = list(status.instances)
    instances[at] = replace(instances[at], **changes)
    return replace(status, instances=tuple(instances))


def change_gpu(status: Status, at: int, **changes: Any) -> Status:
    gpus = list(status.gpus)
    gpus[at] = replace(gpus[at], **changes)
    return replace(status, gpus=tuple(gpus))


def healthy() -> Status:
    return sample_status(trouble=False)


def troubled() -> Status:
    return sample_status()


def worst() -> Status:
    status = sample_status(6, trouble=False)
    status = change_instance(
        status,
        0,
        phase="FAILED",
        health="unknown",
        pid=None,
        restarts=8,
        models=(),
        reason="8 unstable runs in a row, the last: killed by SIGKILL (out of memory)",
        next_action="slow retry",
        next_at="2026-01-31T12:08:20.000Z",
        exit={"signal": "SIGKILL", "at": "2026-01-31T11:59:01.000Z"},
    )
    status = change_instance(
        status,
        1,
        phase="STUCK",
        health="unknown",
        models=(),
        reason="process 4311 does not end on SIGKILL: it sleeps in the driver (state D)",
        next_action="ollamux waits for it; only a driver reset or a reboot frees the card",
    )
    status = change_instance(
        status,
        2,
        phase="UNHEALTHY",
        health="failing",
        reason="GET /api/version timed out 3 times in a row",
        next_action="restart",
        next_at="2026-01-31T12:00:25.000Z",
    )
    status = change_instance(
        status,
        3,
        health="degraded",
        pinning="wrong",
        reason="CPU fallback: the start-up log names no GPU; restarted once without success",
    )
    status = change_instance(status, 4, phase="STARTING", health="unknown", since="2026-01-31T11:59:58Z", models=())
    status = change_instance(
        status, 5, wanted="down", phase="STOPPED", health="unknown", reason="stopped by the user", models=(), pid=None
    )
    assert status.supervisor
    status = replace(status, supervisor=replace(status.supervisor, config_changed=True))
    return replace(status, models=tuple(model for model in status.models if model.instance in ("gpu2", "gpu3")))


def lost_card() -> Status:
    status = change_gpu(
        sample_status(2, trouble=False),
        1,
        state="lost",
        memory_used_bytes=None,
        utilization_percent=None,
        temperature_c=None,
        power_w=None,
        age_s=200.0,
    )
    status = change_instance(
        status,
        1,
        phase="WAITING",
        health="unknown",
        reason="GPU lost: the driver says it has fallen off the bus (Xid 79)",
        next_action="starts when the card is back",
    )
    return replace(status, models=status.models[:1])


def stale_sample() -> Status:
    status = change_gpu(sample_status(2, trouble=False), 0, age_s=12.4)
    status = change_gpu(status, 1, age_s=754.0)
    error = "NVML has not answered for 12 s; the helper was started again"
    return replace(status, host=replace(status.host, gpus_error=error))


def no_gpu() -> Status:
    status = cpu_only()
    return replace(status, host=replace(status.host, gpus_error="the NVIDIA driver is not loaded (no /dev/nvidiactl)"))


def no_supervisor() -> Status:
    status = sample_status(2, trouble=False)
    for index in range(2):
        status = change_instance(
            status,
            index,
            phase="STOPPED",
            health="unknown",
            pid=None,
            since=None,
            models=(),
            generation=0,
            ollama_version=None,
            pinning="planned",
            rss_bytes=None,
        )
    return replace(status, supervisor=None, models=(), processes=())


def cpu_only() -> Status:
    status = sample_status(1, trouble=False)
    model = replace(status.models[0], size_vram_bytes=0, layers=None, instance="cpu")
    loaded = replace(status.instances[0].models[0], size_vram_bytes=0)
    status = change_instance(status, 0, name="cpu", gpus=(), pinning="cpu", port=11434, models=(loaded,))
    host = replace(status.host, driver=None, cuda=None, gpus_source="none")
    return replace(status, gpus=(), host=host, models=(model,), processes=())


def logged_loads() -> Status:
    """What the log says of loads: whole, spilled, as asked for, without a GPU, and one whose lines are gone."""
    status = sample_status(5, trouble=False)
    host = BufferView(device="CPU", kind="weights", bytes=333 * 1024**2, on_gpu=False)
    card = (
        BufferView(device="CUDA0", kind="weights", bytes=int(4.4 * GIB), on_gpu=True),
        BufferView(device="CUDA0", kind="kv", bytes=int(1.1 * GIB), on_gpu=True),
        BufferView(device="CUDA0", kind="compute", bytes=304 * 1024**2, on_gpu=True),
        BufferView(device="CUDA0", kind="output", bytes=0, on_gpu=True),
    )
    told: tuple[dict[str, Any], ...] = (
        {"layers": {"offloaded": 37, "total": 37}, "buffers": (*card, host)},
        {"layers": {"offloaded": 20, "total": 37}, "buffers": (*card, host)},
        {"layers": {"offloaded": 20, "total": 37}, "layers_asked": 20, "buffers": (*card, host)},
        {"layers": None, "buffers": (host,)},
        {"layers": None, "buffers": None},
    )
    models = tuple(replace(status.models[0], instance=f"gpu{i}", **more) for i, more in enumerate(told))
    return replace(status, models=models)


def eight_cards() -> Status:
    return sample_status(8, trouble=True)


def simulated() -> Status:
    status = replace(sample_status(2), simulated=True)
    return replace(status, host=replace(status.host, gpus_source="simulated"))


def mig() -> Status:
    status = sample_status(2, trouble=False)
    for index in range(2):
        uuid = f"MIG-3f6c2a90-51d7-5c3e-9b06-00000000000{index}"
        name = "NVIDIA A100-SXM4-80GB MIG 3g.40gb"
        status = change_gpu(status, index, index=None, uuid=uuid, name=name, memory_total_bytes=int(39.5 * GIB))
        status = change_gpu(status, index, utilization_percent=None, temperature_c=None, power_w=None)
        status = change_instance(status, index, gpus=(uuid,))
    return status


def several_cards() -> Status:
    """One instance over three cards, one beside it, one not pinned, one on the CPU, one on a card nobody has seen."""
    status = sample_status(3, trouble=False)
    status = change_instance(
        status,
        0,
        name="big",
        gpus=tuple(uuid_of(index) for index in range(3)),
        health="degraded",
        reason="spilled: 3.1 GiB of qwen3:30b-a3b are in host memory",
    )
    status = change_instance(status, 1, warnings=("GPU 1 is shared with big (share_gpu)",))
    status = change_instance(status, 2, name="roaming", gpus=(), pinning="planned")
    extra = replace(status.instances[0], health="ok", reason=None, models=(), port=11440)
    cpu = replace(extra, name="embed", gpus=(), pinning="cpu")
    ghost = replace(
        extra,
        name="ghost",
        gpus=("GPU-deadbeef-0000-4000-8000-000000000000",),
        phase="WAITING",
        reason="its GPU is not in this machine",
        next_action="starts when it is back",
    )
    models = tuple(
        replace(model, instance=name) for model, name in zip(status.models, ("big", "gpu1", "roaming"), strict=True)
    )
    return replace(status, instances=(*status.instances, cpu, ghost), models=models)


def long_names() -> Status:
    status = sample_status(2, trouble=False)
    status = change_gpu(status, 0, name="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition")
    status = change_gpu(status, 0, memory_total_bytes=96 * GIB)
    name = "workstation-under-the-desk-for-the-nightly-batch"
    model = "hf.co/unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:Q4_K_XL"
    loaded = tuple(
        InstanceModelView(
            name=title, size_bytes=19 * GIB, size_vram_bytes=19 * GIB, context_length=262144, expires_at=None
        )
        for title in (model, "qwen3-embedding:0.6b", "llama3.2-vision:11b-instruct-q4_K_M")
    )
    status = change_instance(status, 0, name=name, models=loaded)
    status = change_gpu(status, 0, instances=(name,))
    models = tuple(
        ModelView(
            instance=name,
            name=one.name,
            digest=None,
            size_bytes=one.size_bytes,
            size_vram_bytes=one.size_vram_bytes,
            context_length=one.context_length,
            expires_at=None,
            layers={"offloaded": 49, "total": 49},
        )
        for one in loaded
    )
    return replace(status, models=(*models, *status.models[1:]))


def hostile_names() -> Status:
    status = sample_status(3, trouble=False)
    status = change_gpu(status, 0, name="NVIDIA \x1b[2JGPU\x9b31m")
    names = ("hf.co/x[q4] [/bold]\x1b]0;gone\x07", "\u202egpj.exe\u202c", "通义千问:8b")
    for index, name in enumerate(names):
        loaded = replace(status.instances[index].models[0], name=name)
        status = change_instance(status, index, models=(loaded,))
    status = change_instance(status, 2, phase="FAILED", reason="answered\r\n\x1b[32mREADY\x1b[0m 顾问 “ok”")
    models = tuple(replace(model, name=name) for model, name in zip(status.models, names, strict=True))
    processes = tuple(replace(process, name="x\x00\x1b[31m\u200b") for process in status.processes)
    return replace(status, models=models, processes=processes)


def unmeasured() -> Status:
    """A card of which nothing is known but that it is there."""
    status = sample_status(1, trouble=False)
    card = GpuView(
        index=0,
        uuid=uuid_of(0),
        vendor="amd",
        name="AMD Radeon RX 7900 XTX",
        pci=None,
        state="unknown",
        memory_total_bytes=None,
        memory_used_bytes=None,
        utilization_percent=None,
        temperature_c=None,
        power_w=None,
        power_limit_w=None,
        pcie_gen=None,
        pcie_width=None,
        instances=(),
        age_s=None,
    )
    status = change_instance(status, 0, since=None, pid=None, rss_bytes=None, ollama_version=None)
    return replace(status, gpus=(card,), host=replace(status.host, driver=None, cuda=None))


def empty() -> Status:
    status = sample_status(0, trouble=False)
    return replace(status, host=replace(status.host, driver=None, cuda=None, gpus_source="none"))


def joined(count: int = 8) -> Status:
    """Two sockets, a switch for each two cards, two bridges of NVLink, and one card that nobody tells anything of."""
    status = sample_status(count, trouble=False)
    half, links = count // 2, []
    for a in range(count):
        for b in range(a + 1, count):
            kind = "system" if a < half <= b else "switch" if a // 2 == b // 2 else "host-bridge"
            nvlinks = 4 if (a, b) in ((0, 1), (4, 5)) else 0
            kind = "unknown" if b == count - 1 else "nvlink" if nvlinks else kind
            links.append(LinkView(a=uuid_of(a), b=uuid_of(b), kind=kind, nvlinks=nvlinks))
    return replace(status, links=tuple(links))


CASES: tuple[Callable[[], Status], ...] = (
    healthy,
    troubled,
    worst,
    lost_card,
    stale_sample,
    no_gpu,
    no_supervisor,
    cpu_only,
    logged_loads,
    eight_cards,
    simulated,
    mig,
    several_cards,
    long_names,
    hostile_names,
    unmeasured,
    empty,
)


def instance_named(status: Status, name: str) -> InstanceView:
    return next(instance for instance in status.instances if instance.name == name)
