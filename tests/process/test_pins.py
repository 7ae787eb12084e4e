"""Models that are to be kept: loaded at the start and after every restart, and back after whatever took them away."""

from __future__ import annotations

import math
import os
import signal
import time

import pytest
from models_rig import HASTY, Models
from process_box import Box, wait_for


@pytest.fixture
def models(box: Box) -> Models:
    return Models(box)


def test_models_are_loaded_as_the_configuration_says_also_after_a_crash(box: Box, models: Models) -> None:
    models.put("a", "b:8b")
    entry = {"name": "b:8b", "num_ctx": 4096, "keep_alive": "1h", "options": {"num_gpu": 0, "use_mmap": False}}
    box.config(instances={"one": {"preload": ["a", entry]}})
    box.up(haste=HASTY)
    wanted = [
        {"model": "a", "keep_alive": -1},
        {"model": "b:8b", "keep_alive": 3600.0, "options": {"num_ctx": 4096, "num_gpu": 0, "use_mmap": False}},
    ]
    wait_for(lambda: models.asked("one") == wanted, "both are asked for, in order")
    wait_for(lambda: models.pin("one", "b:8b")["state"] == "kept")
    assert models.kept("one") == {"a:latest"} and models.ps("one")["b:8b"]["context_length"] == 4096

    os.kill(box.instance("one")["pid"], signal.SIGKILL)

    wait_for(lambda: models.asked("one") == wanted * 2, "both are asked for again")
    wait_for(lambda: models.pin("one", "b:8b")["state"] == "kept")
    assert sum("is loaded" in reason for reason in box.reasons()) == 4


def test_M1_a_pin_that_was_evicted_comes_back_once_the_other_model_idles(box: Box, models: Models) -> None:
    models.put("mine", "theirs")
    box.config(instances={"one": {"preload": ["mine"], "max_loaded_models": 1}})
    box.up(haste=HASTY)
    models.wait_kept("one", "mine")
    wait_for(lambda: models.pin("one", "mine")["state"] == "kept")

    assert models.post("one", model="theirs", prompt="x")[0] == 200
    models.signal_runner("one", "theirs", signal.SIGUSR1)

    wait_for(lambda: "theirs:latest has its place" in (models.pin("one", "mine")["reason"] or ""))
    looks = len(box.events())
    models.looks("one", 10)  # longer than it takes to be called idle: its runner computes
    assert set(models.ps("one")) == {"theirs:latest"} and len(box.events()) == looks
    models.signal_runner("one", "theirs", signal.SIGUSR2)
    models.wait_kept("one", "mine")
    assert any("mine lost its pin (evicted" in reason for reason in box.reasons())


def test_M4_no_pin_is_loaded_at_the_cost_of_another_one(box: Box, models: Models) -> None:
    models.put("a", "b")
    box.config(instances={"one": {"preload": ["a", "b"], "max_loaded_models": 1}})
    box.up(haste=HASTY)
    models.wait_kept("one", "a")
    wait_for(lambda: "no more than 1 may be loaded" in (models.pin("one", "b")["reason"] or ""))
    models.looks("one", 5)
    assert "b is not kept for now" in box.ollamux("status", env=box.env | {"COLUMNS": "200"}).stdout
    assert [body["model"] for body in models.asked("one")] == ["a"]


def test_M2_a_clients_keep_alive_ends_no_pin_for_long_and_no_quarrel_follows(box: Box, models: Models) -> None:
    models.put("m")
    box.config(instances={"one": {"preload": ["m"]}})
    box.up(haste=HASTY)
    models.wait_kept("one", "m")
    attempts, began = len(models.asked("one")), time.monotonic()
    for _ in range(30):
        models.post("one", model="m", prompt="x", keep_alive="30s")
        models.looks("one", 1)
    ours = [body for body in models.asked("one")[attempts:] if "prompt" not in body]
    most = 3 + math.log2((time.monotonic() - began) / HASTY["ollamux.supervisor.preload.RENEW_AFTER_S"])
    assert len(ours) <= most, "each attempt waits twice as long as the one before"
    models.wait_kept("one", "m")
    assert any("a client set keep_alive" in reason for reason in box.reasons())


def test_M3_a_model_that_a_client_loaded_in_another_way_is_not_torn_from_it(box: Box, models: Models) -> None:
    models.put("m")
    box.config(instances={"one": {"preload": [{"name": "m", "num_ctx": 4096}]}})
    box.up(haste=HASTY)
    models.wait_kept("one", "m")
    wait_for(lambda: models.pin("one", "m")["state"] == "kept")

    models.post("one", model="m", prompt="x", options={"num_ctx": 1024})
    models.signal_runner("one", "m", signal.SIGUSR1)

    wait_for(lambda: "a client may be using it" in (models.pin("one", "m")["reason"] or ""))
    models.looks("one", 10)
    assert models.ps("one")["m:latest"]["context_length"] == 1024
    models.signal_runner("one", "m", signal.SIGUSR2)
    wait_for(lambda: models.ps("one").get("m:latest", {}).get("context_length") == 4096, box.story())
    models.wait_kept("one", "m")
    assert any("loaded anew with a context of 1024" in reason for reason in box.reasons())


def test_a_model_for_a_time_is_let_go_after_it_and_loaded_again_where_it_went_before(box: Box, models: Models) -> None:
    models.put("m", "other")
    box.config(instances={"one": {"preload": [{"name": "m", "keep_alive": "2s"}], "max_loaded_models": 1}})
    box.up(haste=HASTY)
    wait_for(lambda: models.pin("one", "m")["state"] == "over" and models.ps("one") == {}, box.story())
    assert len(models.asked("one")) == 1
    box.config(instances={"one": {"preload": [{"name": "m", "keep_alive": "1h"}], "max_loaded_models": 1}})
    assert box.ollamux("reload").returncode == 0
    wait_for(lambda: models.pin("one", "m")["state"] == "kept")
    models.post("one", model="other", prompt="x", keep_alive="1s")
    wait_for(lambda: set(models.ps("one")) == {"m:latest"} and models.pin("one", "m")["state"] == "kept", box.story())


def test_a_model_that_only_embeds_is_kept_too_and_let_go(box: Box, models: Models) -> None:
    models.put("e")
    box.config(instances={"one": {"preload": ["e"]}})
    box.set("one", "embeds", "e:latest")
    box.up(haste=HASTY)
    models.wait_kept("one", "e")
    wait_for(lambda: models.pin("one", "e")["state"] == "kept")
    box.config(instances={"one": {}})
    assert box.ollamux("reload").returncode == 0
    wait_for(lambda: "e is no longer kept" in box.reasons(), box.story())
    models.wait_kept("one")


def test_a_missing_model_is_told_and_loaded_once_it_is_fetched_by_hand(box: Box, models: Models) -> None:
    box.config(instances={"one": {"preload": ["m"]}})
    box.up(haste={**HASTY, "ollamux.supervisor.preload.RENEW_AFTER_S": 600.0})
    wait_for(lambda: models.pin("one", "m").get("state") == "missing")
    listed = models.listed()
    assert listed["exit"] == 6 and listed["models"]["m:latest"]["installed"] is False
    assert "ollamux pull m" in box.ollamux("models", "ls").stdout
    assert box.ollamux("pull", "m").returncode == 0
    models.wait_kept("one", "m")


def test_M5_a_missing_model_is_fetched_once_for_all_instances_that_share_the_store(box: Box, models: Models) -> None:
    gate = box.root / "gate"
    names = ("one", "two", "three")
    box.config(*names, pull="missing", preload=["m"])
    for name in names:
        box.set(name, "pull-gate", gate)
    box.up(haste=HASTY)
    for name in names:
        wait_for(lambda name=name: models.pin(name, "m").get("state") == "fetching", name)
    assert box.ask("models")["models"]["pulls"][0]["completed_bytes"] == 2000
    gate.touch()
    for name in names:
        models.wait_kept(name, "m")
    fetched = sorted(models.pulls(name) for name in names)
    assert fetched == [[], [], ["begins m:latest", "ends m:latest"]], "through whichever was READY first, once"


def test_a_pull_that_fails_is_told_in_plain_words_and_tried_again(box: Box, models: Models) -> None:
    box.config("one", pull="missing", preload=["m"])
    box.set("one", "pull-error", "write /m/blobs/sha256-1-partial: no space left on device")
    box.up(haste=HASTY)
    wait_for(lambda: "no space is left for it" in (models.pin("one", "m").get("reason") or ""), box.story())
    assert models.pin("one", "m")["next_at"] is not None
    box.clear("one", "pull-error")
    models.wait_kept("one", "m")


def test_M10_out_of_memory_at_the_load_is_told_and_tried_again_later(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one", preload=["m"])
    box.set("one", "refuse-load", "cudaMalloc failed: out of memory")
    box.up(haste=HASTY)
    wait_for(lambda: models.pin("one", "m").get("state") == "failed")
    assert models.pin("one", "m")["reason"] == "cudaMalloc failed: out of memory"
    assert box.instance("one")["phase"] == "READY" and models.ps("one") == {}
    wait_for(lambda: len(models.asked("one")) >= 3)
    assert sum("could not be loaded" in reason for reason in box.reasons()) == 1, "the same is told once"
    box.clear("one", "refuse-load")
    models.wait_kept("one", "m")


def test_a_larger_context_in_the_configuration_is_followed(box: Box, models: Models) -> None:
    models.put("m")

    def ask_for(context: int) -> None:
        box.config(instances={"one": {"preload": [{"name": "m", "num_ctx": context}]}})

    ask_for(1024)
    box.up(haste=HASTY)
    models.wait_kept("one", "m")
    for context in (4096, 2048):
        ask_for(context)
        assert box.ollamux("reload").returncode == 0
        wait_for(lambda: models.ps("one").get("m:latest", {}).get("context_length") == context, box.story())  # noqa: B023
        models.wait_kept("one", "m")


def test_a_model_deleted_while_it_is_kept_is_shown_as_gone(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one", preload=["m"])
    box.up(haste=HASTY)
    models.wait_kept("one", "m")
    models.remove("m")
    row = models.listed()["models"]["m:latest"]
    assert row["installed"] is False and [one["instance"] for one in row["loaded"]] == ["one"]
    assert "gone from the store" in box.ollamux("models", "ls").stdout
    os.kill(box.instance("one")["pid"], signal.SIGKILL)
    wait_for(lambda: models.pin("one", "m").get("state") == "missing", box.story())
    assert "not found" in models.pin("one", "m")["reason"]


def test_M9_what_is_loading_when_the_supervisor_is_upgraded_is_asked_for_again(box: Box, models: Models) -> None:
    models.put("m")
    gate = box.root / "gate"
    box.config("one", preload=["m"])
    box.set("one", "load-gate", gate)
    box.up(haste={**HASTY, "ollamux.supervisor.preload.RENEW_AFTER_S": 600.0})
    wait_for(lambda: models.pin("one", "m").get("state") == "loading")
    assert box.ollamux("upgrade").returncode == 0
    gate.touch()
    models.wait_kept("one", "m")
    assert len(box.starts("one")) == 1
