"""Valid fleets and TOML documents drawn at random, and the settings that make such tests repeatable."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ollamux.domain.spec import (
    CanarySpec,
    FaultPolicy,
    FleetSpec,
    GpuRef,
    GpuRefKind,
    HealthSpec,
    InstanceSpec,
    LoadOptions,
    OnDeath,
    OnFault,
    Pinning,
    PinSpec,
    Pull,
    RestartPolicy,
    RestartSpec,
    SupervisorSpec,
)

REPEATABLE = settings(
    max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)

milliseconds = st.integers(1, 90_000_000).map(lambda each: each / 1000)
seconds = st.one_of(st.integers(1, 100_000).map(float), milliseconds)
maybe_zero = st.one_of(st.just(0.0), seconds)
sizes = st.integers(1024**2, 1 << 45)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
hexadecimal = st.text("0123456789abcdef", min_size=1, max_size=8)
references = st.one_of(
    st.integers(0, 1023).map(lambda each: GpuRef(kind=GpuRefKind.INDEX, value=str(each))),
    hexadecimal.map(lambda each: GpuRef(kind=GpuRefKind.UUID, value=f"GPU-{each}")),
    st.integers(0, 255).map(lambda each: GpuRef(kind=GpuRefKind.PCI, value=f"0000:{each:02x}:00.0")),
    st.integers(0, 7).map(lambda each: GpuRef(kind=GpuRefKind.AMD, value=str(each))),
    st.uuids().map(lambda each: GpuRef(kind=GpuRefKind.MIG, value=f"MIG-{each}")),
)
environments = st.dictionaries(
    st.text(string.ascii_uppercase, min_size=1, max_size=8).map(lambda each: f"X_{each}"), text, max_size=3
).map(lambda each: tuple(sorted(each.items())))


PINS = (
    PinSpec(name="hf.co/a/b-GGUF:Q4_K_M", num_ctx=4096, keep_alive_s=90.0),
    PinSpec(name="x", options=LoadOptions(num_gpu=0, use_mmap=False)),
)


@st.composite
def restarts(draw: st.DrawFn) -> RestartSpec:
    """Draw a restart policy whose cap is not below its base."""
    base, cap = sorted((draw(seconds), draw(seconds)))
    return RestartSpec(
        policy=draw(st.sampled_from(RestartPolicy)),
        first_s=draw(maybe_zero),
        base_s=base,
        factor=draw(st.floats(1, 100)),
        cap_s=cap,
        failure_limit=draw(st.integers(0, 1000)),
        stable_for_s=draw(maybe_zero),
        stop_timeout_s=draw(maybe_zero),
        retry_failed_s=draw(seconds),
    )


@st.composite
def instances(draw: st.DrawFn, number: int) -> InstanceSpec:
    """Draw an instance with a port of its own, sharing whatever GPU it has."""
    pinning = draw(st.sampled_from(Pinning))
    gpus = draw(st.lists(references, min_size=1, max_size=3, unique=True)) if pinning is Pinning.GPUS else []
    return InstanceSpec(
        name=f"{draw(st.sampled_from(['gpu', 'a-b_', '0']))}{number}",
        port=11435 + number,
        pinning=pinning,
        gpus=tuple(gpus),
        share_gpu=True,
        enabled=draw(st.booleans()),
        allow_lan=draw(st.booleans()),
        preload=draw(st.sampled_from([(), (PinSpec(name="qwen3:8b"),), PINS])),
        pull=draw(st.sampled_from(Pull)),
        ollama=draw(st.sampled_from(["ollama", "/opt/ollama/bin/ollama", "~/bin/ollama"])),
        host=draw(st.sampled_from(["127.0.0.1", "::1", "0.0.0.0", "192.168.1.4"])),
        store=draw(st.one_of(st.none(), text.map(lambda each: f"/srv/{each}"))),
        context_length=draw(st.integers(256, 1 << 20)),
        num_parallel=draw(st.one_of(st.none(), st.integers(1, 256))),
        max_loaded_models=draw(st.one_of(st.none(), st.integers(1, 256))),
        keep_alive_s=draw(st.one_of(st.none(), st.just(-1.0), maybe_zero)),
        kv_cache_type=draw(st.sampled_from([None, "f16"])),
        flash_attention=draw(st.sampled_from([None, True, False])),
        headroom_bytes=draw(st.one_of(st.none(), st.just(0), sizes)),
        cache_ram_bytes=draw(st.one_of(st.just(0), sizes)),
        env=draw(environments),
        health=HealthSpec(
            interval_s=draw(seconds),
            timeout_s=draw(seconds),
            failures=draw(st.integers(1, 100)),
            unhealthy_timeout_s=draw(maybe_zero),
            start_timeout_s=draw(seconds),
        ),
        restart=draw(restarts()),
        on=OnFault(
            cpu_fallback=draw(st.sampled_from(FaultPolicy)),
            wrong_gpu=draw(st.sampled_from(FaultPolicy)),
            spill=draw(st.sampled_from(FaultPolicy)),
            gpu_lost=draw(st.sampled_from(FaultPolicy)),
            slowed=draw(st.sampled_from(FaultPolicy)),
            crowded=draw(st.sampled_from(FaultPolicy)),
        ),
        canary=CanarySpec(
            models=draw(st.sampled_from([(), ("qwen3:8b",), ("hf.co/a/b-GGUF:Q4_K_M", "x")])),
            interval_s=draw(seconds),
            timeout_s=draw(seconds),
            failures=draw(st.integers(1, 100)),
            per_hour=draw(st.integers(1, 3600)),
        ),
    )


@st.composite
def fleets(draw: st.DrawFn) -> FleetSpec:
    """Draw a fleet that a valid file could ask for."""
    return FleetSpec(
        supervisor=SupervisorSpec(
            max_parallel_starts=draw(st.integers(0, 256)),
            on_death=draw(st.sampled_from(OnDeath)),
            log_max_bytes=draw(sizes),
            log_keep=draw(st.integers(0, 100)),
            log_total_max_bytes=draw(sizes),
            notify=draw(st.sampled_from([(), ("/bin/true",), ("/bin/sh", "-c", 'echo "ü"\t')])),
        ),
        instances=tuple(draw(instances(number)) for number in range(draw(st.integers(1, 3)))),
    )


scalars = st.one_of(
    text, st.integers(-(2**62), 2**62), st.booleans(), st.floats(allow_nan=False), st.datetimes(), st.dates()
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=12,
)
documents = st.dictionaries(text, values, max_size=6)
