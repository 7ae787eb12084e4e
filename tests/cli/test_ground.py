"""What a plan stands on: what others hold of a card is not there for models."""

from __future__ import annotations

import pytest

from ollamux.cli.ground import _others
from ollamux.gpu.model import Gpu, GpuProcess
from ollamux.supervisor import family
from ollamux.supervisor.family import Mark

OURS, STRANGER = 100, 200
MARK = Mark(owner="o", instance="gpu0", gen=1)


def card(used: int, reserved: int | None, *processes: tuple[int, int | None]) -> Gpu:
    return Gpu(
        uuid="GPU-0",
        memory_total_bytes=1000,
        memory_used_bytes=used,
        memory_reserved_bytes=reserved,
        processes=tuple(GpuProcess(pid=pid, memory_bytes=size) for pid, size in processes),
    )


@pytest.mark.parametrize(
    ("gpu", "loaded", "others"),
    [
        (card(0, 17), 0, 17),
        (card(30, None), 0, 30),
        (card(300, 17, (OURS, 300)), 290, 17),
        (card(450, 17, (OURS, 300), (STRANGER, 150)), 290, 150 + 17),
        (card(450, 17, (OURS, None), (STRANGER, 150)), 290, 450 - 290 + 17),
        (card(450, 17), 290, 450 - 290 + 17),
        (card(100, 0), 290, 0),
    ],
    ids=["idle", "an old driver", "ours", "a stranger", "sizes untold", "processes untold", "less than told"],
)
def test_what_others_hold(monkeypatch: pytest.MonkeyPatch, gpu: Gpu, loaded: int, others: int) -> None:
    monkeypatch.setattr(family, "mark_of", lambda pid: MARK if pid == OURS else None)
    assert _others(gpu, loaded) == others
