"""`placement = "auto"` under a real supervisor: what becomes of a planner that hangs or finds nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from models_rig import HASTY, Models
from process_box import Box, wait_for

from ollamux.simulation.catalogue import ModelSpec
from ollamux.simulation.store import install

SOON = HASTY | {"ollamux.supervisor.autoplace.AFTER_S": 0.05, "ollamux.supervisor.autoplace.AGAIN_S": [0.3]}


@pytest.fixture
def models(box: Box) -> Models:
    return Models(box)


def put(models: Models, *names: str) -> None:
    """Put models into the store whose heads can be read, and that need some MiB."""
    for name in names:
        spec = ModelSpec(
            name=f"{name}:latest",
            architecture="llama",
            layers=2,
            embedding=256,
            heads=4,
            kv_heads=4,
            head_size=64,
            feed_forward=512,
            vocabulary=1000,
            context=4096,
        )
        install(models.store, spec)


def configure(box: Box, *names: str, wanted: dict[str, Any], mode: str = "auto", **defaults: Any) -> None:
    """Write a configuration that wants models."""
    path = box.config(*names, headroom="1MiB", **defaults)
    text = path.read_text()
    top = tomli_w.dumps({"placement": mode})
    path.write_text(text.replace("version = 1\n", f"version = 1\n{top}", 1) + "\n" + tomli_w.dumps({"models": wanted}))


def planner(box: Box) -> int | None:
    """Return the process that plans now."""
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            mine = str(box.root).encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if mine and b"--unattended" in words:
            return pid
    return None


def test_what_is_wanted_is_placed_and_a_restart_of_an_instance_plans_nothing(box: Box, models: Models) -> None:
    put(models, "m", "n")
    configure(box, "one", "two", wanted={"m": {"prefer": "one"}, "n": {"prefer": "two"}})
    box.up(haste=SOON)
    models.wait_kept("one", "m")
    models.wait_kept("two", "n")
    assert [reason for reason in box.reasons() if reason.startswith("placement: ")] == ["placement: one: m; two: n"]

    assert box.ask("restart", names=["one"])["exit"] == 0

    box.wait_started("one", 2)
    models.wait_kept("one", "m")
    assert planner(box) is None
    assert [reason for reason in box.reasons() if reason.startswith("placement: ")] == ["placement: one: m; two: n"]


def test_M11_a_planner_that_hangs_or_is_killed_is_told_and_the_next_one_does_it(box: Box, models: Models) -> None:
    put(models, "m")
    configure(box, "one", wanted={"m": {}})
    box.up(haste=SOON | {"ollamux.supervisor.autoplace.DEADLINE_S": 1.5})
    hanging = wait_for(lambda: planner(box))
    os.kill(hanging, signal.SIGSTOP)
    wait_for(lambda: any("it ran for more than 1.5 s" in reason for reason in box.reasons()))
    models.wait_kept("one", "m")
    wait_for(lambda: planner(box) is None)


def test_M12_models_of_an_instance_that_is_stopped_move_and_nothing_is_loaded_twice(box: Box, models: Models) -> None:
    put(models, "m")
    configure(box, "one", "two", wanted={"m": {"prefer": "one"}})
    box.up(haste=SOON)
    models.wait_kept("one", "m")
    assert box.ask("stop", names=["one"])["exit"] == 0
    models.wait_kept("two", "m")
    assert box.ask("start", names=["one"])["exit"] == 0
    models.wait_kept("one", "m")
    models.wait_kept("two")


def test_M13_what_was_placed_lasts_over_a_killed_supervisor_and_damage_to_its_file_is_no_harm(
    box: Box, models: Models
) -> None:
    put(models, "m")
    configure(box, "one", wanted={"m": {}}, mode="manual")
    supervisor = box.up(haste=SOON)
    assert box.ollamux("plan", "--apply").returncode == 0
    models.wait_kept("one", "m")
    supervisor.process.kill()
    supervisor.process.wait()
    box.up(haste=SOON)
    wait_for(lambda: models.pin("one", "m").get("by") == "placement")
    wait_for(lambda: models.pin("one", "m")["state"] in ("kept", "waiting"), "asked for again, or not, it stays")

    assert box.ask("down")["exit"] == 0
    file = next(box.root.rglob("placement.json"))
    file.write_text('{"schema": "ollamux.placement/1", "pins": [{"inst')
    box.up(haste=SOON)
    assert models.view("one")["pins"] == []


def test_M14_a_model_that_cannot_be_read_is_told_and_the_others_are_placed(box: Box, models: Models) -> None:
    put(models, "m")
    models.put("broken")
    configure(box, "one", wanted={"broken": {}, "m": {}, "gone": {}})
    box.up(haste=SOON)
    models.wait_kept("one", "m")
    told = next(reason for reason in box.reasons() if reason.startswith("placement: "))
    assert "broken has no place (" in told and "gone has no place (there is no model gone" in told
    listed = models.listed()
    assert listed["exit"] == 6 and "no model gone" in listed["models"]["gone:latest"]["no_place"]


def test_what_a_pin_by_hand_takes_is_planned_around(box: Box, models: Models) -> None:
    put(models, "m", "n")
    configure(box, "one", "two", wanted={"m": {"prefer": "one"}}, max_loaded_models=1)
    box.up(haste=SOON)
    models.wait_kept("one", "m")

    assert box.ollamux("models", "pin", "n", "--on", "one", "--no-wait").returncode != 0, "there is no room for two"

    assert box.ollamux("models", "pin", "n", "--on", "two").returncode == 0
    models.wait_kept("two", "n")
    models.wait_kept("one", "m")


@pytest.mark.parametrize(
    "request_",
    [
        {"placement": None},
        {"placement": {"schema": "ollamux.placement/1"}},
        {"placement": {"schema": "ollamux.placement/1", "spans": [], "pins": [{}], "unplaced": []}},
        {"placement": {"schema": "other", "spans": [], "pins": [], "unplaced": []}},
        {"missing": [3]},
        {
            "placement": {
                "schema": "ollamux.placement/1",
                "spans": [],
                "pins": [{"instance": "x", "model": "m", "num_ctx": None}],
                "unplaced": [],
            }
        },
    ],
)
def test_nonsense_is_refused_and_changes_nothing(box: Box, models: Models, request_: dict[str, Any]) -> None:
    configure(box, "one", wanted={}, mode="manual")
    box.up(haste=SOON)
    answer = box.ask("place", **request_)
    assert answer["exit"] in (2, 7) and not answer["ok"]
    assert models.view("one")["pins"] == [] and not list(box.root.rglob("placement.json"))
