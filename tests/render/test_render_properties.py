"""What holds for every table, whatever the snapshot says: it fits, it is harmless, and colour changes nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from render_cases import CASES, eight_cards, hostile_names, simulated, stale_sample, troubled
from rich.cells import cell_len

from ollamux.domain.links import KINDS
from ollamux.domain.snapshot import (
    VIEWS,
    BufferView,
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
from ollamux.render.cells import cells
from ollamux.render.sample import sample_status
from ollamux.render.table import status_table

SGR = re.compile(r"\x1b\[[0-9;]*m")

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "gpu0",
            "READY",
            "\x1b[2J",
            "\x9b31m",
            "\u202egpj",
            "通义千问",
            "a\r\nb",
            "x" * 300,
            "",
            " ",
            "[/bold]",
            "é\u0301",
        ]
    ),
)
maybe_text = st.none() | texts
numbers = st.integers(min_value=-(2**64), max_value=2**64)
maybe_number = st.none() | numbers
reals = st.floats(allow_nan=True, allow_infinity=True)
maybe_real = st.none() | reals
times = st.one_of(
    st.none(),
    st.sampled_from(
        ["2026-01-31T12:00:00Z", "2026-01-31T12:04:00+01:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon"]
    ),
    texts,
)
uuids = st.sampled_from(["GPU-1", "GPU-2", "MIG-3", "GPU-unseen"]) | texts
phases = st.sampled_from(["READY", "WAITING", "FAILED", "STUCK", "STOPPED", "STARTING"]) | texts

loaded = st.builds(
    InstanceModelView,
    name=texts,
    size_bytes=numbers,
    size_vram_bytes=numbers,
    context_length=maybe_number,
    expires_at=times,
)
gpus = st.builds(
    GpuView,
    index=maybe_number,
    uuid=uuids,
    vendor=texts,
    name=texts,
    pci=maybe_text,
    state=st.sampled_from(["ok", "lost", "unknown"]) | texts,
    memory_total_bytes=maybe_number,
    memory_used_bytes=maybe_number,
    utilization_percent=maybe_number,
    temperature_c=maybe_number,
    power_w=maybe_real,
    power_limit_w=maybe_real,
    pcie_gen=maybe_number,
    pcie_width=maybe_number,
    instances=st.lists(texts, max_size=2).map(tuple),
    age_s=maybe_real,
)
instances = st.builds(
    InstanceView,
    name=texts,
    wanted=st.sampled_from(["up", "down"]) | texts,
    phase=phases,
    health=st.sampled_from(["ok", "degraded", "failing", "unknown"]),
    reason=maybe_text,
    next_action=maybe_text,
    next_at=times,
    since=times,
    pid=maybe_number,
    generation=numbers,
    restarts=numbers,
    adopted=st.booleans(),
    exit=st.none() | st.dictionaries(st.sampled_from(["code", "signal", "at"]), maybe_text | numbers),
    host=texts,
    port=numbers,
    url=texts,
    ollama_version=maybe_text,
    gpus=st.lists(uuids, max_size=3).map(tuple),
    pinning=st.sampled_from(["proven", "planned", "wrong", "cpu"]) | texts,
    rss_bytes=maybe_number,
    models=st.lists(loaded, max_size=3).map(tuple),
    warnings=st.lists(texts, max_size=2).map(tuple),
    auto_restarts=maybe_number,
    manual_restarts=maybe_number,
)
models = st.builds(
    ModelView,
    instance=texts,
    name=texts,
    digest=maybe_text,
    size_bytes=numbers,
    size_vram_bytes=numbers,
    context_length=maybe_number,
    expires_at=times,
    layers=st.none() | st.dictionaries(st.sampled_from(["offloaded", "total"]), numbers),
    layers_asked=maybe_number,
    buffers=st.none()
    | st.lists(st.builds(BufferView, device=texts, kind=texts, bytes=numbers, on_gpu=st.booleans()), max_size=3).map(
        tuple
    ),
)
processes = st.builds(
    ProcessView,
    gpu=st.none() | uuids,
    pid=numbers,
    kind=texts,
    instance=maybe_text,
    name=texts,
    memory_bytes=maybe_number,
    user=maybe_text,
)
links = st.builds(LinkView, a=uuids, b=uuids, kind=st.sampled_from(KINDS) | texts, nvlinks=maybe_number)
statuses = st.builds(
    Status,
    version=texts,
    time=times.map(lambda time: time or "2026-01-31T12:00:00Z"),
    simulated=st.booleans(),
    supervisor=st.none()
    | st.builds(
        SupervisorView,
        pid=numbers,
        state=st.sampled_from(["running", "starting"]) | texts,
        started_at=texts,
        config=maybe_text,
        config_changed=st.booleans(),
        uptime_s=reals,
        version=texts,
    ),
    host=st.builds(HostView, name=texts, driver=maybe_text, cuda=maybe_text, gpus_source=texts, gpus_error=maybe_text),
    gpus=st.lists(gpus, max_size=3).map(tuple),
    instances=st.lists(instances, max_size=3).map(tuple),
    models=st.lists(models, max_size=3).map(tuple),
    processes=st.lists(processes, max_size=3).map(tuple),
    links=st.lists(links, max_size=4).map(tuple),
)
views = st.sampled_from([None, *VIEWS])


def check(status: Status, width: int, view: str | None, wide: bool, now: float | None = None) -> None:
    for unicode in (True, False):
        plain = status_table(status, width=width, color=False, unicode=unicode, view=view, wide=wide, now=now)
        coloured = status_table(status, width=width, color=True, unicode=unicode, view=view, wide=wide, now=now)
        assert SGR.sub("", coloured) == plain
        assert unicode or plain.isascii()
        assert plain
        for line in plain.split("\n"):
            assert cells(line) <= width
            assert line.isprintable()
            assert line == line.rstrip(" ")
        assert not status.simulated or "SIMULATED" in plain.split("\n")[0]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(statuses, st.integers(min_value=40, max_value=250), views, st.booleans(), maybe_real)
def test_any_snapshot_at_all_is_drawn(
    status: Status, width: int, view: str | None, wide: bool, now: float | None
) -> None:
    check(status, width, view, wide, now)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_C30_no_line_is_longer_than_the_screen(case: Callable[[], Status]) -> None:
    status = case()
    for width in range(40, 251, 7):
        for view in (None, *VIEWS):
            check(status, width, view, wide=width % 2 == 0)


@pytest.mark.parametrize("view", [None, *VIEWS])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_simulated_is_said_on_every_screen(view: str | None, width: int) -> None:
    table = status_table(simulated(), width=width, color=False, unicode=False, view=view)
    assert table.split("\n")[0].split()[0] == "SIMULATED"


@pytest.mark.parametrize("text", ["gpu0", "通义千问:8b", "é\u0301", "64 °C", "█▊▏", "“ok”", "한국어", "🙂", "–…→"])
def test_the_width_of_text_is_what_rich_says(text: str) -> None:
    assert cells(text) == cell_len(text)


def test_columns_stay_aligned_beside_wide_characters() -> None:
    table = status_table(hostile_names(), width=100, color=False, unicode=True, view="models")
    _, _, titles, _, *rows = table.split("\n")
    edge = titles.index("Until")
    assert len(rows) >= 3
    for row in rows:
        at = next((place for place in range(len(row)) if cells(row[:place]) == edge), None)
        assert at is not None
        assert row[at:].startswith(("kept", "in ", "stopping"))


def test_reasons_are_never_lost() -> None:
    reason = "one two three four five six seven eight nine ten eleven twelve " * 3 + "and the end"
    status = sample_status(1)
    status = replace(status, instances=(replace(status.instances[0], reason=reason),))
    for width in (40, 60, 80, 200):
        table = status_table(status, width=width, color=False, unicode=True)
        assert f"{reason}; restart 4 in 7 s" in re.sub(r"\s+", " ", table)


def test_the_next_step_is_counted_from_now() -> None:
    status = sample_status(1)
    when = 1769860800.0
    for later, said in ((0.0, "restart 4 in 7 s"), (3.0, "restart 4 in 4 s"), (60.0, "restart 4 now")):
        assert said in status_table(status, width=80, color=False, unicode=True, now=when + later)


def test_a_sample_grows_old_with_the_time_that_passes() -> None:
    status = sample_status(1, trouble=False)
    when = 1769860800.0
    assert " old" not in status_table(status, width=80, color=False, unicode=True, now=when + 5)
    assert "30 s old" in status_table(status, width=80, color=False, unicode=True, now=when + 30)
    assert "12 s old" in status_table(stale_sample(), width=80, color=False, unicode=True)


@pytest.mark.parametrize("view", [None, "models"])
def test_what_was_said_of_a_model_long_ago_is_told_as_such(view: str | None) -> None:
    status = sample_status(1, trouble=False)
    for age, told in ((None, False), (6.0, False), (40.0, True)):
        models = (replace(status.models[0], age_s=age),)
        table = status_table(replace(status, models=models), width=80, color=False, unicode=True, view=view)
        assert ("40 s ago" in table) == told


def test_a_model_that_is_partly_on_the_gpu_never_rounds_to_all_of_it() -> None:
    status = sample_status(1, trouble=False)
    model = replace(status.models[0], size_bytes=1000, size_vram_bytes=999)
    table = status_table(replace(status, models=(model,)), width=80, color=False, unicode=True)
    assert "! 99 %" in table


def test_a_snapshot_that_went_through_json_looks_the_same() -> None:
    status = troubled()
    again = from_json(as_json(status))
    assert status_table(again, width=80, color=True, unicode=True) == status_table(
        status, width=80, color=True, unicode=True
    )


def test_a_view_of_instances_still_lists_their_models_when_the_other_lists_were_left_out() -> None:
    status = from_json(as_json(eight_cards(), "instances"))
    assert "qwen3:8b" in status_table(status, width=200, color=False, unicode=True, view="instances", wide=True)
