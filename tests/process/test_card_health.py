"""What the driver says of the cards of an instance, told within a few samples: the real binding, the real helper.

The driver is the stand-in of tests/gpu; the servers are fakes that found the card they were pinned to.
"""

from __future__ import annotations

import json

import pytest
from pinned_rig import CPU, DEVICE, OTHER, SAMPLES, TEXT, UUID, Pinned
from process_box import wait_for


def test_what_the_real_binding_says_is_shown(pinned: Pinned) -> None:
    found = pinned.up()

    assert (found["pinning"], found["gpus"], found["health"]) == ("proven", [UUID], "ok")
    status = pinned.box.status()
    assert status["host"]["gpus_source"] == "nvml"
    assert (status["gpus"][0]["temperature_c"], status["gpus"][0]["throttle_reasons"]) == (54, ["sw_power_cap"])


def test_a_card_that_is_too_hot_is_told_with_its_figures_once_and_withdrawn(pinned: Pinned) -> None:
    pid = pinned.up()["pid"]

    pinned.says("0 throttle 0x40", "0 temperature 92", "0 clock.sm 900")
    pinned.degraded("GPU 0 (NVIDIA GeForce RTX 3090): it is too hot at 92 °C and slows itself down (900 of 2100 MHz)")
    pinned.says("0 throttle 0x40", "0 temperature 93", "0 clock.sm 840")
    pinned.degraded("at 93 °C")
    pinned.driver.says(TEXT)

    assert pinned.well()["pid"] == pid
    assert (pinned.told("too hot"), pinned.told("full speed again")) == (1, 1)


def test_who_was_on_a_card_is_told_with_its_age_while_the_driver_is_silent(pinned: Pinned) -> None:
    pinned.up()
    stranger = pinned.box.stranger("sleep", "1000")
    pinned.says(f"0 processes {stranger.pid}:7")
    wait_for(lambda: len(pinned.box.status()["processes"]) == 2, "it is seen")
    server, seen = pinned.box.status()["processes"]
    assert (server["age_s"], 0 <= seen["age_s"] < 10) == (None, True)

    pinned.says(f"0 processes {stranger.pid}:7", "0 temperature crash")

    wait_for(lambda: pinned.box.status()["host"]["gpus_error"], "the driver is in trouble")
    assert "GPUs: the process that reads the GPUs has crashed" in pinned.box.ollamux("status", "processes").stdout


def test_a_card_that_is_hot_for_a_moment_is_no_news(pinned: Pinned) -> None:
    pinned.up()
    for turn in range(8):
        pinned.says("0 throttle 0x1" if turn % 2 else "0 throttle 0x40", f"0 temperature {60 + turn}")
        wait_for(lambda turn=turn: pinned.box.status()["gpus"][0]["temperature_c"] == 60 + turn, "it is sampled")

    assert pinned.told("too hot") == 0


def test_a_stranger_on_the_card_is_told_by_name(pinned: Pinned) -> None:
    pinned.up()
    stranger = pinned.box.stranger("sleep", "1000")

    pinned.says(f"0 processes {stranger.pid}:{6 << 30}")

    found = pinned.degraded(
        "6.0 of the 24.0 GiB of GPU 0 (NVIDIA GeForce RTX 3090) are held by what is not ours: sleep"
    )
    assert f"(pid {stranger.pid})" in found["reason"]
    assert stranger.poll() is None
    pinned.says(f"0 processes {stranger.pid}:{1 << 30}")
    pinned.well()


def test_a_process_that_cannot_be_seen_from_here_is_nobody(pinned: Pinned) -> None:
    """As in a container, where the driver names processes by the numbers that they have outside."""
    pinned.up()
    gone = pinned.box.stranger("true")
    gone.wait()

    pinned.says(f"0 processes {gone.pid}:{20 << 30}", "0 temperature 71")

    wait_for(lambda: pinned.box.status()["gpus"][0]["temperature_c"] == 71, "it is sampled")
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 20, "and again")
    assert pinned.box.instance("a")["health"] == "ok"


def test_a_runner_on_another_card_is_on_the_wrong_one_and_restarted_once(pinned: Pinned) -> None:
    pinned.box.set("a", "runners", 1)
    first = pinned.up()
    runner = wait_for(lambda: pinned.box.runners("a"), "its runner")[0]

    pinned.says(f"1 processes {runner}:{5 << 30}")

    pinned.box.wait_started("a", 2)
    assert pinned.told("computes on GPU 1 (NVIDIA RTX A2000 12GB) with 5.0 GiB, which is not its own") >= 1
    again = wait_for(lambda: pinned.box.runners("a"), "its next runner")[0]
    pinned.says(f"1 processes {again}:{5 << 30}")
    found = pinned.degraded("which is not its own")
    assert (found["pinning"], len(pinned.box.starts("a"))) == ("wrong", 2)
    assert found["pid"] != first["pid"]


SLICES = ("MIG-5c1a0e40-0000-5000-8000-000000000000", "MIG-5c1a0e41-0000-5000-8000-000000000001")


def split(*numbers: int, runners: dict[int, int] | None = None) -> str:
    """Say of the first card that it has these slices, and who computes on each, besides on the card."""
    on = runners or {}
    lines = ["0 mig 1", "0 mig.max 7", f"0 processes {' '.join(f'{pid}:{1 << 30}' for pid in on.values())}"]
    for number in numbers:
        said = {"uuid": SLICES[number], "name": "A100 MIG 1g.10gb", "memory.total": 10 << 30, "memory.used": 1 << 30}
        if number in on:
            said["processes"] = f"{on[number]}:{1 << 30}"
        lines += [f"0.{number} {key} {value}" for key, value in said.items()]
    return "\n".join(lines) + "\n" + TEXT


def on_a_slice(pinned: Pinned) -> None:
    pinned.driver.says(split(0, 1))
    pinned.box.config(instances={"a": {"gpus": [SLICES[0]], "on": {"wrong_gpu": "tell"}}})
    pinned.box.set("a", "device-lines", DEVICE.replace(UUID, SLICES[0]))
    pinned.box.set("a", "runners", 1)
    pinned.box.up(haste=SAMPLES)


def test_a_runner_on_another_slice_of_its_card_is_on_the_wrong_one(pinned: Pinned) -> None:
    on_a_slice(pinned)
    runner = wait_for(lambda: pinned.box.runners("a"), "its runner")[0]
    pinned.driver.says(split(0, 1, runners={0: runner}))
    wait_for(lambda: pinned.box.status()["gpus"][1]["memory_used_bytes"], "it is sampled")
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 20, "and again")
    assert pinned.box.instance("a")["health"] == "ok", "what is on its slice the card lists, too"

    pinned.driver.says(split(0, 1, runners={1: runner}))

    assert pinned.degraded("which is not its own")["pinning"] == "wrong"


def test_a_slice_that_is_no_more_is_lost(pinned: Pinned) -> None:
    on_a_slice(pinned)

    pinned.driver.says(split(1))

    pinned.degraded("GPU 0 (A100 MIG 1g.10gb) is lost: the driver no longer lists it")
    gone = pinned.box.status()["gpus"][-1]
    assert (gone["uuid"], gone["state"], gone["instances"]) == (SLICES[0], "lost", ["a"])
    pinned.driver.says(split(0, 1))
    pinned.well()


def test_a_card_that_is_gone_when_its_reader_has_come_back_is_lost(pinned: Pinned) -> None:
    """As after Xid 79: the call hangs or crashes, and the next helper has never seen the card."""
    pid = pinned.up()["pid"]
    pinned.says("0 temperature crash")
    wait_for(lambda: "crashed" in (pinned.box.status()["host"]["gpus_error"] or ""), "its reader is gone")

    pinned.says("system count 0")

    found = pinned.degraded("GPU ? (NVIDIA GeForce RTX 3090) is lost: the driver no longer lists it")
    assert found["pid"] == pid
    assert [(gpu["uuid"], gpu["state"]) for gpu in pinned.box.status()["gpus"]] == [(UUID, "lost")]
    pinned.driver.says(TEXT)
    pinned.well()


@pytest.mark.parametrize(("policy", "phase"), [("stop", "FAILED"), ("restart", "WAITING"), ("tell", "READY")])
def test_a_lost_card_is_dealt_with_as_the_policy_says(pinned: Pinned, policy: str, phase: str) -> None:
    pinned.up(policies={"gpu_lost": policy})

    pinned.says("0 state lost")

    found = pinned.box.wait_phase("a", phase) if policy != "tell" else pinned.degraded("is lost")
    assert "fallen off the bus" in found["reason"]
    pinned.driver.says(TEXT)
    if policy == "restart":
        pinned.box.wait_started("a", 2)
    elif policy == "tell":
        assert pinned.well()["generation"] == 1


def loaded(*, vram: int) -> str:
    model = {"name": "m", "model": "m", "size": 5, "size_vram": vram, "digest": "d", "context_length": 1}
    return json.dumps({"models": [model | {"expires_at": "2099-01-01T00:00:00Z"}]})


def test_what_a_silent_server_had_loaded_is_told_with_its_age(pinned: Pinned) -> None:
    pinned.box.config(instances={"a": {"gpus": [0]}}, health={"unhealthy_timeout": "1h"})
    pinned.box.set("a", "device-lines", DEVICE)
    pinned.box.set("a", "ps", loaded(vram=5))
    pinned.box.up(haste=SAMPLES)
    seen = wait_for(lambda: pinned.box.status()["models"], "it is seen")
    assert 0 <= seen[0]["age_s"] < 10

    pinned.box.set("a", "hang-api", 1)

    wait_for(lambda: pinned.box.status()["models"][0]["age_s"] > 1.5, "what it had loaded grows old")
    assert pinned.box.instance("a")["phase"] == "UNHEALTHY"


def test_a_model_that_a_client_wants_on_the_cpu_is_no_fault(pinned: Pinned) -> None:
    pinned.box.set("a", "runners", 1)
    pinned.box.set("a", "runner-words", "-ngl 0")
    pinned.box.set("a", "ps", loaded(vram=0))
    pid = pinned.up()["pid"]
    wait_for(lambda: pinned.box.status()["models"], "it is seen")
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 30)

    assert (pinned.box.instance("a")["pid"], pinned.box.instance("a")["health"]) == (pid, "ok")


def test_a_model_that_falls_to_the_cpu_again_and_again_is_one_incident_until_one_is_on_the_gpu(pinned: Pinned) -> None:
    pinned.box.set("a", "ps", loaded(vram=0))
    pinned.up()

    pinned.box.wait_started("a", 2)
    pinned.degraded("m was loaded wholly into host memory")
    assert len(pinned.box.ask("restart", if_unhealthy=True)["outcomes"]) == 1, "cron may try it once"
    pinned.degraded("m was loaded wholly into host memory")
    assert pinned.box.ask("restart", if_unhealthy=True)["outcomes"] == [], "and no second time"
    assert len(pinned.box.starts("a")) == 3
    pinned.box.set("a", "ps", loaded(vram=5))
    pinned.well()
    pinned.box.set("a", "ps", loaded(vram=0))
    pinned.box.wait_started("a", 4)


def test_the_cpu_fallback_is_mended_once_the_driver_answers_and_not_before(pinned: Pinned) -> None:
    """As after a resume, or at boot: a restart while the driver is silent falls to the CPU again."""
    pinned.up()
    pinned.says("0 temperature na", "system count unknown-error")
    wait_for(lambda: pinned.box.status()["host"]["gpus_error"], "the driver is in trouble")
    pinned.box.set("a", "ps", loaded(vram=0))
    found = pinned.degraded("it computes on the CPU")
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 30, "nothing is done about it")
    assert pinned.box.instance("a")["pid"] == found["pid"]

    pinned.driver.says(TEXT)

    pinned.box.wait_started("a", 2)
    pinned.degraded("it computes on the CPU")
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 30, "a restart did not mend it, so there is no other")
    assert len(pinned.box.starts("a")) == 2


def test_after_a_sleep_a_fallback_is_told_with_its_likely_cause_and_mended_once_per_sleep(pinned: Pinned) -> None:
    pinned.up()
    pinned.box.set("a", "ps", loaded(vram=0))
    pinned.box.wait_started("a", 2)
    pinned.degraded("it computes on the CPU")

    pinned.box.set_clock(slept_s=3600.0)

    pinned.box.wait_started("a", 3)
    pinned.degraded("the machine has slept, and CUDA may be gone until its module is loaded anew: ollamux doctor")
    seen = pinned.box.rounds()
    wait_for(lambda: pinned.box.rounds() > seen + 30, "a restart did not mend it, so there is no other")
    assert len(pinned.box.starts("a")) == 3


def test_a_start_on_the_cpu_is_told_with_the_line_that_proves_it(pinned: Pinned) -> None:
    pinned.box.config(instances={"a": {"gpus": [0]}})
    pinned.box.set("a", "device-lines", CPU)
    pinned.box.up(ready=False, haste=SAMPLES)

    found = pinned.degraded("CPU")

    assert (found["pinning"], len(pinned.box.starts("a"))) == ("cpu", 2), "one restart, then it is told"
    assert any("library=cpu" in reason for reason in pinned.box.reasons()), "the line itself is on record"
    assert OTHER not in str(found)
