"""The object of `status -o json`: its keys are a promise, and it reads back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollamux.domain.snapshot import (
    VIEWS,
    BufferView,
    CanaryView,
    GpuView,
    HostView,
    InstanceModelView,
    InstanceView,
    LinkView,
    ModelView,
    ProcessView,
    Status,
    SupervisorView,
    as_json,
    from_json,
)

steady = settings(derandomize=True, deadline=None, database=None, max_examples=60)

# Within `ollamux.status/1` a key may be added here, and none may ever go.
PROMISED = {
    "": "schema version time simulated supervisor host gpus instances models processes",
    "supervisor": "pid state started_at config config_changed + uptime_s version",
    "host": "name driver cuda gpus_source + gpus_error gpus_unsupported",
    "gpus": "index uuid vendor name pci state memory_total_bytes memory_used_bytes utilization_percent temperature_c "
    "power_w power_limit_w pcie_gen pcie_width instances age_s + lost_reason mig_parent pcie_gen_max pcie_width_max "
    "power_default_w clock_sm_mhz clock_sm_max_mhz clock_memory_mhz clock_memory_max_mhz throttle_reasons persistence "
    "compute_mode compute_capability ecc ecc_corrected ecc_uncorrected remapped_rows remap_pending remap_failed",
    "instances": "name wanted phase health reason next_action next_at since pid generation restarts adopted exit host "
    "port url ollama_version gpus pinning rss_bytes models + warnings "
    "auto_restarts manual_restarts canary",
    "instances.canary": "model at ok seconds reason",
    "instances.models": "name size_bytes size_vram_bytes context_length expires_at",
    "models": "instance name digest size_bytes size_vram_bytes context_length expires_at layers "
    "+ age_s layers_asked buffers",
    "models.buffers": "device kind bytes on_gpu",
    "processes": "gpu pid kind instance name memory_bytes + user age_s",
}
LISTS = ("gpus", "instances", "models", "processes")
LINKS = "a b kind nvlinks"


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def some(view: type, **given_as: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Build a view from its annotations; what JSON must keep apart (a tuple, a dict) is given."""
    simple: dict[str, st.SearchStrategy[Any]] = {
        "int": st.integers(0, 1 << 50), "str": st.text(max_size=8), "bool": st.booleans(),
        "bool | None": maybe(st.booleans()),
        "float": st.floats(0, 1e6), "int | None": maybe(st.integers(0, 1 << 50)),
        "str | None": maybe(st.text(max_size=8)), "float | None": maybe(st.floats(0, 1e6)),
        "tuple[str, ...]": st.lists(st.text(max_size=8), max_size=2).map(tuple),
        "tuple[str, ...] | None": maybe(st.lists(st.text(max_size=8), max_size=2).map(tuple)),
    }  # fmt: skip
    fields = {name: simple[kind] for name, kind in view.__annotations__.items() if name not in given_as}
    return st.builds(view, **fields, **given_as)


def several(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=2).map(tuple)


EXITS = st.sampled_from((None, {"code": 1, "at": "2026-01-31T12:00:00Z"}, {"signal": "SIGKILL", "at": "…"}))
STATUS = some(
    Status,
    supervisor=maybe(some(SupervisorView)),
    host=some(HostView),
    gpus=several(some(GpuView)),
    instances=several(
        some(InstanceView, exit=EXITS, models=several(some(InstanceModelView)), canary=maybe(some(CanaryView)))
    ),
    models=several(
        some(
            ModelView,
            layers=st.sampled_from((None, {"offloaded": 37, "total": 37})),
            buffers=maybe(
                several(
                    st.builds(
                        BufferView,
                        device=st.text(),
                        kind=st.text(),
                        bytes=st.integers(0, 1 << 50),
                        on_gpu=st.booleans(),
                    )
                )
            ),
        )
    ),
    processes=several(some(ProcessView)),
    links=st.just(()),
)

FULL = Status(
    version="0.1.0", time="2026-01-31T12:00:00.000Z", simulated=False,
    supervisor=SupervisorView(
        pid=4242, state="running", started_at="2026-01-31T11:00:00Z", config="/c.toml", config_changed=False,
        uptime_s=3600.0, version="0.1.0",
    ),
    host=HostView(name="box", driver="580.95.05", cuda="13.0", gpus_source="nvml", gpus_error=None),
    gpus=(GpuView(
        index=0, uuid="GPU-1", vendor="nvidia", name="RTX 3090", pci="0000:65:00.0", state="ok",
        memory_total_bytes=1 << 34, memory_used_bytes=0, utilization_percent=0, temperature_c=41, power_w=12.5,
        power_limit_w=350.0, pcie_gen=4, pcie_width=16, instances=("gpu0",), age_s=0.4,
    ),),
    instances=(InstanceView(
        name="gpu0", wanted="up", phase="READY", health="ok", reason=None, next_action=None, next_at=None,
        since="2026-01-31T11:00:00Z", pid=4300, generation=3, restarts=2, adopted=False, exit={"code": 1},
        host="127.0.0.1", port=11435, url="http://127.0.0.1:11435", ollama_version="0.32.15", gpus=("GPU-1",),
        pinning="proven", rss_bytes=1 << 28,
        models=(InstanceModelView(
            name="qwen3:8b", size_bytes=1, size_vram_bytes=1, context_length=8192, expires_at=None),),
        warnings=("open to the network",), auto_restarts=5, manual_restarts=2,
        canary=CanaryView(model="qwen3:8b", at="2026-01-31T11:59:00.000Z", ok=True, seconds=0.2, reason=None),
    ),),
    models=(ModelView(
        instance="gpu0", name="qwen3:8b", digest=None, size_bytes=1, size_vram_bytes=1, context_length=8192,
        expires_at=None, layers={"offloaded": 37, "total": 37},
        buffers=(BufferView(device="CUDA0", kind="kv", bytes=1 << 20, on_gpu=True),),
    ),),
    processes=(ProcessView(gpu="GPU-1", pid=4311, kind="runner", instance="gpu0", name="llama", memory_bytes=None),),
    links=(LinkView(a="GPU-1", b="GPU-2", kind="nvlink", nvlinks=4),),
)  # fmt: skip


@pytest.mark.parametrize("part", PROMISED)
def test_the_keys_are_the_promised_ones(part: str) -> None:
    plain: Any = as_json(FULL)
    for step in filter(None, part.split(".")):
        plain = plain[step]
        plain = plain[0] if isinstance(plain, list) else plain
    assert set(plain) == set(PROMISED[part].replace("+ ", "").split())


def test_the_object_says_which_schema_it_is_first() -> None:
    assert next(iter(as_json(FULL).items())) == ("schema", "ollamux.status/1")


def test_the_unknown_is_null_and_the_known_is_plain() -> None:
    written = json.loads(json.dumps(as_json(FULL)))
    assert written["processes"][0]["memory_bytes"] is None
    assert written["models"][0]["digest"] is None
    assert written["gpus"][0]["memory_used_bytes"] == 0
    assert written["instances"][0]["exit"] == {"code": 1}
    assert written["gpus"][0]["instances"] == ["gpu0"]


def test_without_a_supervisor_it_is_null() -> None:
    bare = Status(version="0", time="t", simulated=False, supervisor=None, host=FULL.host)
    assert as_json(bare)["supervisor"] is None
    assert from_json(as_json(bare)) == bare


@steady
@given(STATUS)
def test_it_reads_back_as_it_was(status: Status) -> None:
    assert from_json(json.loads(json.dumps(as_json(status)))) == status


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_leaves_the_other_lists_out(view: str) -> None:
    plain = as_json(FULL, view)
    kept = VIEWS[view]
    every = {*LISTS, "links"}
    assert set(plain) & every == set(kept)
    assert set(plain) - every == set(PROMISED[""].split()) - every
    read = from_json(plain)
    assert all(getattr(read, name) == getattr(FULL, name) for name in kept)
    assert not any(getattr(read, other) for other in every - set(kept))


def test_links_are_told_only_where_they_were_asked_for() -> None:
    assert "links" not in as_json(FULL)
    assert [set(link) for link in as_json(FULL, "topology")["links"]] == [set(LINKS.split())]


def test_keys_of_a_later_version_are_ignored() -> None:
    plain = json.loads(json.dumps(as_json(FULL)))
    for part in (plain, plain["supervisor"], plain["host"], *(plain[name][0] for name in LISTS)):
        part["of_a_later_version"] = {"a": [1]}
    plain["instances"][0]["models"][0]["of_a_later_version"] = 1
    assert from_json(plain) == replace(FULL, links=())
