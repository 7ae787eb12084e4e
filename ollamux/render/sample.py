"""A made-up but believable box, for pictures and tests. Nothing of it is measured."""

from __future__ import annotations

from dataclasses import replace

from ollamux.domain.snapshot import (
    GpuView,
    HostView,
    InstanceModelView,
    InstanceView,
    ModelView,
    ProcessView,
    Status,
    SupervisorView,
)

_GIB = 1024**3
_TIME = "2026-01-31T12:00:00.000Z"
# Name, GiB, used GiB, utilization, temperature, power, limit, PCIe generation and width.
_CARDS = (
    ("NVIDIA GeForce RTX 3090", 24.0, 20.6, 87, 64, 318.4, 350.0, 4, 16),
    ("NVIDIA GeForce RTX 3090", 24.0, 9.1, 12, 48, 112.0, 350.0, 4, 8),
    ("NVIDIA RTX A4000", 16.0, 12.9, 54, 71, 121.7, 140.0, 4, 8),
    ("NVIDIA RTX A2000 12GB", 12.0, 0.4, 0, 41, 12.3, 70.0, 3, 4),
)
# Name, GiB, context, minutes to stay (None is for ever), layers.
_MODELS = (
    ("qwen3:30b-a3b", 19.8, 16384, None, 49),
    ("qwen3:8b", 8.2, 8192, 24, 37),
    ("gemma3:12b", 11.9, 8192, 4, 49),
    ("bge-m3:latest", 1.2, 8192, 30, 25),
)


def sample_status(n_gpus: int = 4, trouble: bool = True) -> Status:
    """Return a box with so many cards, one instance on each; with trouble, two of them are not well."""
    gpus = tuple(_gpu(index) for index in range(n_gpus))
    instances = [_instance(index) for index in range(n_gpus)]
    if trouble and n_gpus > 2:
        instances[2] = _spilled(instances[2])
    if trouble and n_gpus:
        instances[-1] = _crashed(instances[-1])
    return _with_models(
        Status(
            version="0.1.0",
            time=_TIME,
            simulated=False,
            supervisor=SupervisorView(
                pid=4242,
                state="running",
                started_at="2026-01-28T07:41:12.000Z",
                config="/home/ada/.config/ollamux/config.toml",
                config_changed=False,
                uptime_s=274728.0,
                version="0.1.0",
            ),
            host=HostView(name="tower", driver="580.95.05", cuda="13.0", gpus_source="nvml", gpus_error=None),
            gpus=gpus,
            instances=tuple(instances),
        )
    )


def uuid_of(index: int) -> str:
    """Return the UUID of a card of the sample."""
    return f"GPU-8f3c2a9{index % 10}-51d7-4c3e-9b06-{index:012x}"


def _gpu(index: int) -> GpuView:
    name, total, used, utilization, temperature, power, limit, gen, lanes = _CARDS[index % len(_CARDS)]
    return GpuView(
        index=index,
        uuid=uuid_of(index),
        vendor="nvidia",
        name=name,
        pci=f"0000:{0x17 + 0x2A * index & 0xFF:02x}:00.0",
        state="ok",
        memory_total_bytes=int(total * _GIB),
        memory_used_bytes=int(used * _GIB),
        utilization_percent=utilization,
        temperature_c=temperature,
        power_w=power,
        power_limit_w=limit,
        pcie_gen=gen,
        pcie_width=lanes,
        instances=(f"gpu{index}",),
        age_s=0.6,
    )


def _instance(index: int) -> InstanceView:
    name, size, context, stay_min, _ = _MODELS[index % len(_MODELS)]
    model = InstanceModelView(
        name=name,
        size_bytes=int(size * _GIB),
        size_vram_bytes=int(size * _GIB),
        context_length=context,
        expires_at=None if stay_min is None else f"2026-01-31T12:{stay_min:02}:30Z",
    )
    return InstanceView(
        name=f"gpu{index}",
        wanted="up",
        phase="READY",
        health="ok",
        reason=None,
        next_action=None,
        next_at=None,
        since="2026-01-28T07:41:19.000Z",
        pid=4300 + 11 * index,
        generation=1,
        restarts=0,
        adopted=False,
        exit=None,
        host="127.0.0.1",
        port=11435 + index,
        url=f"http://127.0.0.1:{11435 + index}",
        ollama_version="0.32.15",
        gpus=(uuid_of(index),),
        pinning="proven",
        rss_bytes=int((0.6 + 0.2 * index) * _GIB),
        models=(model,),
    )


def _spilled(instance: InstanceView) -> InstanceView:
    model = instance.models[0]
    model = replace(model, size_vram_bytes=model.size_bytes * 62 // 100 + 1)
    reason = f"spilled: 4.5 GiB of {model.name} are in host memory"
    return replace(instance, health="degraded", reason=reason, models=(model,), since="2026-01-31T11:46:30.000Z")


def _crashed(instance: InstanceView) -> InstanceView:
    return replace(
        instance,
        phase="WAITING",
        health="unknown",
        reason="exited with code 1: “CUDA error: out of memory”",
        next_action="restart 4",
        next_at="2026-01-31T12:00:07.000Z",
        since="2026-01-31T11:59:57.000Z",
        pid=None,
        generation=4,
        restarts=3,
        exit={"code": 1, "at": "2026-01-31T11:59:57.000Z"},
        pinning="planned",
        rss_bytes=None,
        models=(),
    )


def _with_models(status: Status) -> Status:
    """Add the lists of models and processes that belong to the instances."""
    models: list[ModelView] = []
    processes: list[ProcessView] = []
    for index, instance in enumerate(status.instances):
        if instance.pid is not None:
            processes.append(_process(None, instance.pid, "serve", instance.name, "ollama", None))
        for model in instance.models:
            total = _MODELS[index % len(_MODELS)][4]
            on_card = total * model.size_vram_bytes // model.size_bytes
            models.append(
                ModelView(
                    instance=instance.name,
                    name=model.name,
                    digest=f"sha256:{0x500A1F067A9F + index:012x}" + "0" * 52,
                    size_bytes=model.size_bytes,
                    size_vram_bytes=model.size_vram_bytes,
                    context_length=model.context_length,
                    expires_at=model.expires_at,
                    layers={"offloaded": on_card, "total": total},
                )
            )
            runner = 5120 + 7 * index
            processes.append(
                _process(instance.gpus[0], runner, "runner", instance.name, "llama-server", model.size_vram_bytes)
            )
    if status.gpus:
        processes.append(_process(status.gpus[0].uuid, 2071, "foreign", None, "Xorg", 160 * 1024**2))
    return replace(status, models=tuple(models), processes=tuple(processes))


def _process(
    gpu: str | None, pid: int, kind: str, instance: str | None, name: str, memory_bytes: int | None
) -> ProcessView:
    user = "root" if kind == "foreign" else "ada"
    return ProcessView(gpu=gpu, pid=pid, kind=kind, instance=instance, name=name, memory_bytes=memory_bytes, user=user)
