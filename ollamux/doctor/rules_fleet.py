"""Rules about the configuration, and what it asks of each card. Pure: facts to findings."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from ollamux.doctor.facts import Facts
from ollamux.doctor.findings import Finding, Severity
from ollamux.doctor.rules_driver import capability
from ollamux.domain.snapshot import GpuView
from ollamux.domain.spec import InstanceSpec
from ollamux.domain.text import format_size
from ollamux.ollama.version import FIRST_LLAMA_SERVER

_FIRST_BF16 = (8, 0)
_FIRST_ATTENTION = (6, 0)
_NO_ATTENTION = (7, 2)
_SLOW_FP16 = ((6, 1), (6, 2))
_FIRST_FP16 = (5, 3)
# What ollama itself keeps free of each card, at the least (ml/device.go, MinimumMemory).
_LEAST_HEADROOM = 457 * 1024**2
_QUANTISED = ("q8_0", "q4_0")


def config_invalid(facts: Facts) -> Iterable[Finding]:
    """Report a file that is not in force: nothing can be started or reloaded with it."""
    if facts.config is None or facts.config.problem is None:
        return
    yield Finding(
        id="config-invalid",
        severity=Severity.BROKEN,
        title="The configuration cannot be used",
        evidence=facts.config.problem,
        fix="ollamux config check" + (f" --config {shlex.quote(facts.config.path)}" if facts.config.path else ""),
    )


def config_missing(facts: Facts) -> Iterable[Finding]:
    """Report that there is no configuration yet, which is no fault."""
    if facts.config is not None and facts.config.missing:
        yield Finding(
            id="config-missing",
            severity=Severity.HINT,
            title="There is no configuration yet",
            evidence="What depends on one, such as ports, stores and cards, was not looked at.",
            fix="ollamux init",
        )


def config_idle(facts: Facts) -> Iterable[Finding]:
    """Report a fleet of which nothing would run."""
    if facts.fleet is not None and not facts.enabled:
        yield Finding(
            id="config-idle",
            severity=Severity.WARNING,
            title="Every instance is switched off",
            evidence=f"Each one in {facts.file} has enabled = false: there is nothing to run.",
            fix=f"take enabled = false out of an instance in {facts.file}; then: ollamux reload",
            is_command=False,
        )


def api_key_set(facts: Facts) -> Iterable[Finding]:
    """Report LLAMA_API_KEY: ollama does not pass it on, and its own runner refuses it (seen on 0.32.15)."""
    for spec in facts.enabled:
        if "LLAMA_API_KEY" in dict(spec.env):
            yield Finding(
                id="api-key-set",
                severity=Severity.BROKEN,
                title=f"{spec.name}: LLAMA_API_KEY makes every request fail",
                evidence="The runner asks for the key, and ollama cannot give it: each request ends with 500.",
                fix=f"take LLAMA_API_KEY out of env in {facts.file}; then: ollamux reload",
                is_command=False,
            )


def kv_cache_attention(facts: Facts) -> Iterable[Finding]:
    """Report a quantised KV cache without flash attention.

    llama.cpp refuses it ("quantized V cache requires flash attention", llama-context.cpp), so from ollama 0.30 on a
    load fails; before, ollama fell back to f16, at twice the memory or more. Where flash attention is off by itself:
    below compute capability 6.0, and at 7.2 (ollama, ml/device.go).
    """
    for spec in facts.enabled:
        if spec.kv_cache_type not in _QUANTISED or spec.flash_attention is True:
            continue
        unable = [gpu for gpu in facts.gpus_of(spec) if _attends(gpu) is False]
        if spec.flash_attention is None and not unable:
            continue
        why = "It is switched off" if spec.flash_attention is False else f"{unable[0].name} has none"
        program = facts.program_of(spec)
        version = None if program is None else program.version
        fails = version is not None and version >= FIRST_LLAMA_SERVER
        yield Finding(
            id="kv-cache-attention",
            severity=Severity.BROKEN if fails else Severity.WARNING,
            title=f"{spec.name}: a {spec.kv_cache_type} KV cache needs flash attention",
            evidence=f"{why}: " + ("models fail to load." if fails else "it becomes f16, at twice the memory or more."),
            fix=f"{'set flash_attention = true' if not unable else 'take kv_cache_type out'} in {facts.file}; "
            "then: ollamux reload",
            is_command=False,
        )


def flash_attention(facts: Facts) -> Iterable[Finding]:
    """Report flash attention that is forced on a card where ollama leaves it off (ml/device.go)."""
    for spec in facts.enabled:
        unable = [gpu for gpu in facts.gpus_of(spec) if _attends(gpu) is False]
        if spec.flash_attention is True and unable:
            yield Finding(
                id="flash-attention",
                severity=Severity.WARNING,
                title=f"{spec.name}: {unable[0].name} has no fast flash attention",
                evidence=f"Its compute capability is {unable[0].compute_capability}; ollama leaves it off there, and "
                "flash_attention = true forces it. Models fail to load, or run slower.",
                fix=f"take flash_attention out of {facts.file}; then: ollamux reload",
                is_command=False,
            )


def bf16_model(facts: Facts) -> Iterable[Finding]:
    """Report BF16 models on cards that compute it only by detours: NVIDIA has it from compute capability 8.0 on.

    Source: CUDA C++ Programming Guide, "Features and Technical Specifications".
    """
    yield from _slow_models(facts, "bf16-model", "bf16", lambda at: at < _FIRST_BF16, "from 8.0 on")


def fp16_model(facts: Facts) -> Iterable[Finding]:
    """Report FP16 models on cards where FP16 is slow: absent before 5.3, a 64th of the rate at 6.1.

    Source: CUDA C++ Programming Guide, "Arithmetic Instructions": throughput of half precision.
    """
    yield from _slow_models(
        facts, "fp16-model", "fp16", lambda at: at < _FIRST_FP16 or at in _SLOW_FP16, "fast elsewhere"
    )


def _slow_models(
    facts: Facts, name: str, kind: str, is_slow: Callable[[tuple[int, int]], bool], where: str
) -> Iterable[Finding]:
    for spec in facts.enabled:
        asked = dict.fromkeys(
            model
            for model in (*(pin.name for pin in spec.preload), *spec.canary.models)
            if model.lower().endswith(kind)
        )
        slow = [gpu for gpu in facts.gpus_of(spec) if (at := capability(gpu)) is not None and is_slow(at)]
        for model in asked if slow else ():
            yield Finding(
                id=name,
                severity=Severity.HINT,
                title=f"{spec.name}: {slow[0].name} is slow with {model}",
                evidence=f"Its compute capability is {slow[0].compute_capability}; {kind.upper()} is {where}. "
                "A q8_0 of the same model is about as good, half as large, and faster here.",
                fix=f"name a q8_0 in the place of {model} in {facts.file}; then: ollamux reload",
                is_command=False,
            )


def headroom_small(facts: Facts) -> Iterable[Finding]:
    """Report a headroom below what ollama itself keeps free: CUDA's own needs are not in its sums."""
    for spec in facts.enabled:
        size = spec.headroom_bytes
        if size is not None and size < _LEAST_HEADROOM and facts.gpus_of(spec):
            yield Finding(
                id="headroom-small",
                severity=Severity.WARNING,
                title=f"{spec.name}: headroom of {format_size(size)} is too small",
                evidence="CUDA itself takes some hundred MiB of each card beside the model, and ollama keeps at least "
                "457 MiB free. With less a long prompt ends in “out of memory”.",
                fix=f'set headroom = "1GiB" in {facts.file}; then: ollamux reload',
                is_command=False,
            )


def preload_crowded(facts: Facts) -> Iterable[Finding]:
    """Report more models to keep than may be loaded: from that number on even a pinned one is evicted."""
    for spec in facts.enabled:
        most, count = spec.max_loaded_models, len(spec.preload)
        if most and count > most:
            yield Finding(
                id="preload-crowded",
                severity=Severity.WARNING,
                title=f"{spec.name}: {count} models are to be kept loaded, {most} may be",
                evidence="The first ones are kept; the others wait until there is room, which is never.",
                fix=f"set max_loaded_models = {count} in {facts.file}; then: ollamux reload",
                is_command=False,
            )


def memory_plan(facts: Facts) -> Iterable[Finding]:
    """Report prompt caches that may grow beyond the machine: each runner has one (cache_ram; LLAMA_ARG_CACHE_RAM)."""
    memory, planned = facts.host.memory_bytes, planned_memory(facts.enabled)
    if memory is None or planned <= memory:
        return
    yield Finding(
        id="memory-plan",
        severity=Severity.WARNING,
        title="The prompt caches may grow larger than this machine's memory",
        evidence=f"cache_ram for each model that may be loaded comes to {format_size(planned)}, the machine has "
        f"{format_size(memory)}. The kernel then kills the largest process.",
        fix=f'set a smaller cache_ram, as "512MiB", in {facts.file}; then: ollamux reload',
        is_command=False,
    )


def planned_memory(specs: tuple[InstanceSpec, ...]) -> int:
    """Return what the prompt caches of these instances may take together."""
    return sum(spec.cache_ram_bytes * (spec.max_loaded_models or max(len(spec.preload), 1)) for spec in specs)


def _attends(gpu: GpuView) -> bool | None:
    at = capability(gpu) if gpu.vendor == "nvidia" else None
    return None if at is None else at >= _FIRST_ATTENTION and at != _NO_ATTENTION
