"""What is wrong with a card, and what cards mean for an instance: tables of samples and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ollamux.domain.cards import faults, troubles
from ollamux.domain.snapshot import GpuView, ProcessView

GIB = 1024**3
CARD = GpuView(
    index=0, uuid="GPU-a", vendor="nvidia", name="RTX 3090", pci="0000:65:00.0", state="ok",
    memory_total_bytes=24 * GIB, memory_used_bytes=18 * GIB, utilization_percent=99, temperature_c=92, power_w=300.0,
    power_limit_w=350.0, pcie_gen=4, pcie_width=16, instances=("a",), age_s=0.4, clock_sm_mhz=900,
    clock_sm_max_mhz=2100,
)  # fmt: skip
OTHER = replace(CARD, uuid="GPU-b", index=1, name="RTX A2000")
LOST = replace(CARD, state="lost", lost_reason="it has fallen off the bus; reboot")

WELL = [
    CARD,
    replace(CARD, throttle_reasons=()),
    replace(CARD, throttle_reasons=("gpu_idle",)),
    replace(CARD, throttle_reasons=("sw_power_cap", "applications_clocks_setting")),
    replace(CARD, compute_mode="default", ecc=True, ecc_corrected=9, ecc_uncorrected=0, remap_pending=False),
    replace(CARD, remapped_rows=3, remap_pending=False, remap_failed=False),
]


@pytest.mark.parametrize("gpu", WELL)
def test_nothing_is_said_of_a_card_that_is_well(gpu: GpuView) -> None:
    assert troubles(gpu) == []


@pytest.mark.parametrize(
    ("gpu", "keys", "words"),
    [
        (LOST, ["lost"], "it has fallen off the bus; reboot"),
        (replace(LOST, state="unknown"), ["unknown"], "it has fallen off the bus; reboot"),
        (replace(CARD, throttle_reasons=("hw_thermal_slowdown",)), ["thermal"], "too hot at 92 °C"),
        (replace(CARD, throttle_reasons=("sw_thermal_slowdown",)), ["thermal"], "(900 of 2100 MHz)"),
        (replace(CARD, throttle_reasons=("hw_slowdown", "hw_power_brake_slowdown")), ["power"], "power supply"),
        (replace(CARD, throttle_reasons=("hw_slowdown", "hw_thermal_slowdown")), ["thermal"], "too hot"),
        (replace(CARD, throttle_reasons=("hw_slowdown",)), ["slowdown"], "by heat or for want of power (900 of 2100"),
        (replace(CARD, compute_mode="prohibited"), ["compute-mode"], "nothing may compute on it"),
        (replace(CARD, compute_mode="exclusive_process"), ["compute-mode"], "only one process"),
        (replace(CARD, ecc_uncorrected=1), ["memory-errors"], "1 error of its memory"),
        (replace(CARD, remap_pending=True), ["memory-reset"], "at the next reset"),
        (replace(CARD, remap_failed=True, ecc_uncorrected=2), ["memory-defective", "memory-errors"], "defective"),
    ],
)
def test_what_is_wrong_with_a_card(gpu: GpuView, keys: list[str], words: str) -> None:
    found = troubles(gpu)

    assert [trouble.key for trouble in found] == keys
    assert any(words in trouble.words for trouble in found)
    assert [trouble.broken for trouble in found] == sorted((trouble.broken for trouble in found), reverse=True)


def use(pid: int = 7, instance: str | None = None, gib: float | None = 1.0) -> ProcessView:
    held = None if gib is None else int(gib * GIB)
    kind = "foreign" if instance is None else "runner"
    return ProcessView(gpu=None, pid=pid, kind=kind, instance=instance, name="python3", memory_bytes=held, user="me")


def said(planned: tuple[GpuView, ...] = (CARD,), **uses: list[ProcessView]) -> dict[str, str]:
    by_card = {{"a": "GPU-a", "b": "GPU-b", "m": "MIG-1", "p": "GPU-p"}[name]: seen for name, seen in uses.items()}
    return faults("a", planned, (CARD, OTHER), by_card)


def test_an_instance_whose_cards_are_well_has_no_fault() -> None:
    assert said() == {}
    assert said(a=[use(instance="a", gib=20), use(8, "b", 3)], b=[use(9, "b", 11)]) == {}


def test_a_lost_card_is_a_fault_with_its_reason() -> None:
    assert said((LOST, OTHER)) == {"gpu_lost": "GPU 0 (RTX 3090) is lost: it has fallen off the bus; reboot"}


def test_a_card_that_slows_itself_down_is_a_fault() -> None:
    hot = replace(CARD, throttle_reasons=("hw_thermal_slowdown",))
    assert said((hot,)) == {
        "slowed": "GPU 0 (RTX 3090): it is too hot at 92 °C and slows itself down (900 of 2100 MHz)"
    }


@pytest.mark.parametrize(
    ("strangers", "told"),
    [
        ([use(gib=2.3)], False),
        ([use(gib=None)], False),
        ([use(gib=2.5)], True),
        ([use(7, gib=1.3), use(8, gib=1.3)], True),
    ],
)
def test_strangers_count_from_a_tenth_of_the_memory_on(strangers: list[ProcessView], told: bool) -> None:
    found = said(a=[use(1, "a", 10), *strangers])

    assert ("crowded" in found) is told
    if told:
        assert found["crowded"].startswith(("2.5 of the 24.0 GiB of GPU 0", "2.6 of the 24.0 GiB of GPU 0"))
        assert all(f"python3 (pid {stranger.pid})" in found["crowded"] for stranger in strangers)
    assert "crowded" not in said((replace(CARD, memory_total_bytes=None),), a=strangers)


def test_a_process_of_ours_on_another_card_is_on_the_wrong_one() -> None:
    assert said(b=[use(9, "a", 5), use(10, "b", 5)]) == {
        "wrong_gpu": "python3 (pid 9) computes on GPU 1 (RTX A2000) with 5.0 GiB, which is not its own"
    }


def test_a_process_whose_name_is_not_known_is_told_by_its_number() -> None:
    nameless = replace(use(instance="a"), name=None)
    assert said(b=[nameless])["wrong_gpu"].startswith("pid 7 computes on GPU 1")


def test_the_card_of_a_mig_device_is_no_other_card() -> None:
    part = replace(CARD, uuid="MIG-1", mig_parent="GPU-a")
    assert said((part,), a=[use(9, "a", 5)], m=[use(9, "a", 5)]) == {}
