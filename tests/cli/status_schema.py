"""The contract of `status -o json`, schema 1: every key, its type, where null is allowed. Keys may only be added."""

from __future__ import annotations

from typing import Any

TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
TEXT, WHOLE, NUMBER, FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))
UUID = {"type": "string", "pattern": "^GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def thing(**keys: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


def some(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


PHASES = ["STOPPED", "WAITING", "STARTING", "READY", "UNHEALTHY", "STOPPING", "SWEEPING", "KILLING", "STUCK", "FAILED"]
EXIT = {
    "anyOf": [
        {"type": "null"},
        thing(code=nullable(WHOLE), at=nullable(TIME)),
        thing(signal=TEXT, at=nullable(TIME)),
    ]
}
SUPERVISOR = thing(
    pid=WHOLE,
    state=one_of("starting", "running", "reloading", "stopping"),
    started_at=TIME,
    config=nullable(TEXT),
    config_changed=FLAG,
    uptime_s=NUMBER,
    version=TEXT,
)
HOST = thing(
    name=TEXT,
    driver=nullable(TEXT),
    cuda=nullable(TEXT),
    gpus_source=one_of("nvml", "sysfs", "simulated", "none"),
    gpus_error=nullable(TEXT),
    gpus_unsupported=some(TEXT),
)
GPU = thing(
    index=nullable(WHOLE),
    uuid=UUID,
    vendor=one_of("nvidia", "amd"),
    name=TEXT,
    pci=nullable(TEXT),
    state=one_of("ok", "lost", "unknown"),
    memory_total_bytes=nullable(WHOLE),
    memory_used_bytes=nullable(WHOLE),
    utilization_percent=nullable(WHOLE),
    temperature_c=nullable(WHOLE),
    power_w=nullable(NUMBER),
    power_limit_w=nullable(NUMBER),
    pcie_gen=nullable(WHOLE),
    pcie_width=nullable(WHOLE),
    instances=some(TEXT),
    age_s=nullable(NUMBER),
    lost_reason=nullable(TEXT),
    mig_parent=nullable(UUID),
    pcie_gen_max=nullable(WHOLE),
    pcie_width_max=nullable(WHOLE),
    power_default_w=nullable(NUMBER),
    clock_sm_mhz=nullable(WHOLE),
    clock_sm_max_mhz=nullable(WHOLE),
    clock_memory_mhz=nullable(WHOLE),
    clock_memory_max_mhz=nullable(WHOLE),
    throttle_reasons=nullable(some(TEXT)),
    persistence=nullable(FLAG),
    compute_mode=nullable(one_of("default", "exclusive_thread", "prohibited", "exclusive_process")),
    compute_capability=nullable(TEXT),
    ecc=nullable(FLAG),
    ecc_corrected=nullable(WHOLE),
    ecc_uncorrected=nullable(WHOLE),
    remapped_rows=nullable(WHOLE),
    remap_pending=nullable(FLAG),
    remap_failed=nullable(FLAG),
)
LOADED = {
    "name": TEXT,
    "size_bytes": WHOLE,
    "size_vram_bytes": WHOLE,
    "context_length": nullable(WHOLE),
    "expires_at": nullable(TEXT),
}
INSTANCE = thing(
    name=TEXT,
    wanted=one_of("up", "down"),
    phase=one_of(*PHASES),
    health=one_of("ok", "degraded", "failing", "unknown"),
    reason=nullable(TEXT),
    next_action=nullable(TEXT),
    next_at=nullable(TIME),
    since=nullable(TIME),
    pid=nullable(WHOLE),
    generation=WHOLE,
    restarts=WHOLE,
    adopted=FLAG,
    exit=EXIT,
    host=TEXT,
    port=WHOLE,
    url=TEXT,
    ollama_version=nullable(TEXT),
    gpus=some(UUID),
    pinning=one_of("proven", "planned", "wrong", "cpu"),
    rss_bytes=nullable(WHOLE),
    models=some(thing(**LOADED)),
    warnings=some(TEXT),
    auto_restarts=nullable(WHOLE),
    manual_restarts=nullable(WHOLE),
    canary=nullable(thing(model=TEXT, at=TIME, ok=nullable(FLAG), seconds=NUMBER, reason=nullable(TEXT))),
)
MODEL = thing(
    instance=TEXT,
    digest=nullable(TEXT),
    layers=nullable(thing(offloaded=WHOLE, total=WHOLE)),
    layers_asked=nullable(WHOLE),
    buffers=nullable(
        some(thing(device=TEXT, kind=one_of("weights", "kv", "state", "compute", "output"), bytes=WHOLE, on_gpu=FLAG))
    ),
    age_s=nullable(NUMBER),
    **LOADED,
)
PROCESS = thing(
    gpu=nullable(UUID),
    pid=WHOLE,
    kind=one_of("serve", "runner", "foreign"),
    instance=nullable(TEXT),
    name=nullable(TEXT),
    memory_bytes=nullable(WHOLE),
    user=nullable(TEXT),
    age_s=nullable(NUMBER),
)
LINK = thing(
    a=UUID,
    b=UUID,
    kind=one_of("nvlink", "same-board", "switch", "switches", "host-bridge", "socket", "system", "unknown"),
    nvlinks=nullable(WHOLE),
)
HEAD = {
    "schema": {"const": "ollamux.status/1"},
    "version": TEXT,
    "time": TIME,
    "simulated": FLAG,
    "supervisor": nullable(SUPERVISOR),
    "host": HOST,
}
LISTS = {"gpus": some(GPU), "instances": some(INSTANCE), "models": some(MODEL), "processes": some(PROCESS)}


def status_schema(view: str | None = None) -> dict[str, Any]:
    """Return the JSON Schema of the whole object, or of one view of it."""
    if view == "topology":
        return thing(**HEAD, gpus=LISTS["gpus"], links=some(LINK))
    lists = {name: LISTS[name] for name in LISTS if view in (None, name)}
    return thing(**HEAD, **lists)


EVENT = thing(
    schema={"const": "ollamux.event/1"},
    seq=WHOLE,
    time=TIME,
    instance=nullable(TEXT),
    reason=nullable(TEXT),
    **{"from": nullable(one_of(*PHASES)), "to": nullable(one_of(*PHASES))},
)
