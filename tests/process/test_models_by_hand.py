"""Models by hand: load, unload, pin, unpin, pull and ls, with whatever may happen meanwhile."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from models_rig import HASTY, Models
from process_box import Box, answer_on, wait_for

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "models.schema.json").read_text())


@pytest.fixture
def models(box: Box) -> Models:
    return Models(box)


def run(box: Box, *words: str) -> tuple[int, str]:
    done = box.ollamux(*words)
    return done.returncode, done.stdout + done.stderr


def test_a_model_is_loaded_where_it_is_loaded_already_else_where_there_is_most_room(box: Box, models: Models) -> None:
    models.put("m", "n")
    box.config("one", "two")
    box.up(haste=HASTY)
    assert run(box, "models", "load", "n", "--on", "one")[0] == 0
    wait_for(lambda: models.view("one")["loaded"])

    code, said = run(box, "models", "load", "m", "--ctx", "2048", "--keep-alive", "1h")

    assert code == 0 and said.startswith("two  m is loaded (") and "; it has the fewest models)" in said, said
    assert models.asked("two") == [{"model": "m", "keep_alive": 3600.0, "options": {"num_ctx": 2048}}]
    wait_for(lambda: models.view("two")["loaded"])
    code, said = run(box, "models", "load", "m")
    assert code == 0 and said.startswith("two ") and "it is loaded there" in said
    assert models.kept("two") == set()


REFUSED = (
    (("load", "nope"), 5, "ollamux pull nope fetches it"),
    (("load", "no pe"), 2, "is not the name of a model"),
    (("load", "m", "--on", "x"), 5, "there is no instance 'x'"),
    (("load", "m", "--on", "down"), 7, "down is STOPPED"),
    (("load", "m", "--keep-alive", "soon"), 2, "--keep-alive: 'soon' is no duration"),
    (("load", "m", "--ctx", "1"), 2, "--ctx"),
    (("load", "kept", "--ctx", "512"), 7, "change preload in the configuration"),
    (("unload", "m"), 5, "m is not loaded anywhere"),
    (("unload", "kept"), 7, "it would come back"),
    (("unpin", "m"), 5, "m is not pinned anywhere"),
    (("unpin", "kept"), 7, "because the configuration says so (preload)"),
    (("pin", "nope"), 5, "nope is not in the store"),
    (("pin", "kept", "--on", "up", "--ctx", "512"), 7, "keeps kept already"),
    (("pin", "kept", "--on", "up"), 0, "is kept already"),
    (("ls", "-o", "yaml"), 2, "there is no form"),
)


def test_what_cannot_be_done_is_refused_with_the_way_out(box: Box, models: Models) -> None:
    models.put("m", "kept")
    box.config(instances={"up": {"preload": ["kept"]}, "down": {}})
    box.up(haste=HASTY)
    assert box.ask("stop", names=["down"])["exit"] == 0
    wait_for(lambda: models.pin("up", "kept")["state"] == "kept")
    for words, code, told in REFUSED:
        found, said = run(box, "models", *words)
        assert found == code and told in said and "Traceback" not in said, (words, found, said)
    assert set(models.ps("up")) == {"kept:latest"}


def test_M7_ctrl_c_gives_a_load_up_and_nothing_stays_loaded(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one")
    box.set("one", "load-gate", box.root / "gate")
    box.up(haste=HASTY)
    command = box.popen("models", "load", "m")
    wait_for(lambda: models.view("one")["loading"])

    command.send_signal(signal.SIGINT)

    assert command.wait() == 130
    wait_for(lambda: "m is not loaded: whoever asked for it went away" in box.reasons())
    (box.root / "gate").touch()
    assert run(box, "models", "load", "m", "--timeout", "20s")[0] == 0, "the one that was given up is in nobody's way"
    assert len(models.asked("one")) == 2


def test_a_load_that_takes_too_long_is_told_and_goes_on(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one")
    box.set("one", "load-gate", box.root / "gate")
    box.up(haste=HASTY)
    code, said = run(box, "models", "load", "m", "--timeout", "300ms")
    assert code == 8 and "m is not loaded after 0.3 s; it goes on by itself" in said
    (box.root / "gate").touch()
    wait_for(lambda: set(models.ps("one")) == {"m:latest"})


def test_a_load_that_nobody_waits_for_is_recorded(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one")
    box.set("one", "refuse-load", "cudaMalloc failed: out of memory")
    box.up(haste=HASTY)
    assert run(box, "models", "load", "m", "--no-wait")[0] == 0
    wait_for(lambda: "m could not be loaded: cudaMalloc failed: out of memory" in box.reasons())
    code, said = run(box, "models", "load", "m")
    assert code == 6 and "out of memory" in said and models.ps("one") == {}


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_M8_an_instance_that_dies_in_the_middle_of_a_load_is_told(box: Box, models: Models, how: str) -> None:
    models.put("m")
    box.config("one")
    box.set("one", "load-gate", box.root / "gate")
    box.up(haste=HASTY)
    asked = box.send({"cmd": "load", "model": "m", "timeout": 60})
    wait_for(lambda: models.view("one")["loading"] and models.asked("one"))
    if how == "killed":
        os.kill(box.instance("one")["pid"], signal.SIGKILL)
    else:
        assert box.ask("stop", names=["one"])["exit"] == 0
    (outcome,) = answer_on(asked)["outcomes"]
    assert outcome["exit"] == 6 and "m could not be loaded" in outcome["words"], outcome
    if how == "stopped":
        assert box.ask("start", names=["one"])["exit"] == 0
    box.wait_started("one", 2)
    models.looks("one", 2)
    assert models.ps("one") == {} and len(models.asked("one")) == 1


def test_M9_a_pin_by_hand_lasts_until_it_is_ended(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one", "two")
    supervisor = box.up(haste=HASTY)
    code, said = run(box, "models", "pin", "m", "--on", "two", "--ctx", "2048")
    assert code == 0 and "m is pinned and loaded" in said
    assert models.kept("two") == {"m:latest"}

    assert box.ask("restart", names=["two"])["exit"] == 0
    models.wait_kept("two", "m")
    assert models.ps("two")["m:latest"]["context_length"] == 2048
    supervisor.signal(signal.SIGKILL)
    supervisor.wait()
    supervisor = box.up(haste=HASTY)
    assert models.pin("two", "m")["by"] == "hand"
    assert box.ask("down")["ok"] and supervisor.wait() == 0
    box.up(haste=HASTY)
    models.wait_kept("two", "m")
    code, said = run(box, "models", "unload", "m")
    assert code == 7 and "ollamux models unpin m --on two" in said
    assert run(box, "models", "unpin", "m") == (0, "two  m is unpinned\n")
    models.wait_kept("two")
    assert set(models.ps("two")) == {"m:latest"}, "it goes after its usual time"
    assert box.ask("restart", names=["two"])["exit"] == 0
    models.looks("two", 3)
    assert models.ps("two") == {}


def test_a_pin_of_an_instance_that_is_down_is_kept_for_later(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one")
    box.up(haste=HASTY)
    assert box.ask("stop", names=["one"])["exit"] == 0
    code, said = run(box, "models", "pin", "m", "--on", "one")
    assert code == 0 and "loaded once one is READY; it is STOPPED now" in said
    assert box.ask("start", names=["one"])["exit"] == 0
    models.wait_kept("one", "m")


def test_a_pin_for_which_there_is_no_room_is_refused(box: Box, models: Models) -> None:
    models.put("a", "b")
    box.config("one", preload=["a"], max_loaded_models=1)
    box.up(haste=HASTY)
    models.wait_kept("one", "a")
    code, said = run(box, "models", "pin", "b")
    assert code == 7 and "loads no more than 1 models (max_loaded_models), and keeps a already" in said
    assert set(models.ps("one")) == {"a:latest"}


def test_a_pin_that_cannot_be_loaded_stays_and_is_tried_again(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one")
    box.set("one", "refuse-load", "it does not fit")
    box.up(haste=HASTY)
    code, said = run(box, "models", "pin", "m")
    assert code == 6 and "m is pinned, but could not be loaded: it does not fit" in said
    assert "ollamux models unpin m --on one" in said
    box.clear("one", "refuse-load")
    models.wait_kept("one", "m")


def test_M9_who_waits_for_a_load_is_answered_by_the_program_that_takes_our_place(box: Box, models: Models) -> None:
    models.put("m", "n")
    gate = box.root / "gate"
    box.config("one")
    box.set("one", "load-gate", gate)
    box.up(haste=HASTY)
    waiting = box.send({"cmd": "load", "model": "m", "timeout": 60})
    wait_for(lambda: models.view("one")["loading"])
    assert box.ask("load", model="n", wait=False)["exit"] == 0
    assert box.ollamux("upgrade").returncode == 0
    gate.touch()
    (outcome,) = answer_on(waiting)["outcomes"]
    assert outcome["exit"] == 0 and "m is loaded" in outcome["words"]
    wait_for(lambda: set(models.ps("one")) == {"m:latest", "n:latest"})


def test_an_unload_waits_until_the_model_is_gone(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one", "two")
    box.up(haste=HASTY)
    for name in ("one", "two"):
        assert run(box, "models", "load", "m", "--on", name)[0] == 0
        wait_for(lambda name=name: models.view(name)["loaded"])
    code, said = run(box, "models", "unload", "m")
    assert code == 0 and {line.split("  ")[0] for line in said.splitlines()} == {"one", "two"}
    assert models.ps("one") == models.ps("two") == {}
    assert not models.view("one")["loaded"]


def test_a_pull_is_done_through_one_instance_and_only_its_result_is_printed(box: Box, models: Models) -> None:
    box.config("one", "two", "three")
    box.up(haste=HASTY)
    code, said = run(box, "pull", "m", "n")
    assert code == 0, said
    assert [line.split(" is there (3.9 KiB, ")[0].strip() for line in said.splitlines()] == ["m", "n"]
    began = [line for name in ("one", "two", "three") for line in models.pulls(name)]
    assert began == ["begins m:latest", "ends m:latest", "begins n:latest", "ends n:latest"], "one after the other"
    assert models.listed()["models"]["n:latest"]["installed"] is True


FAILED_PULLS = (
    ("pull model manifest: file does not exist", 5, "there is no model m to be fetched"),
    ('Get "https://x/v2/": dial tcp: lookup x on 127.0.0.53:53: no such host', 6, "the registry cannot be reached"),
    ("write /s/blobs/sha256-1-partial: no space left on device", 6, "no space is left for it"),
    ("open /s/blobs/sha256-1-partial: permission denied", 9, "the server may not write to its store"),
    ("something new", 6, "was not fetched: something new"),
)


def test_why_a_pull_failed_is_told_in_plain_words(box: Box, models: Models) -> None:
    box.config("one")
    box.up(haste=HASTY)
    for error, code, told in FAILED_PULLS:
        box.set("one", "pull-error", error)
        for status in (None, 500):
            box.set("one", "pull-status", status or "")
            found, said = run(box, "pull", "m")
            assert found == code and told in said, (error, status, found, said)
    assert models.listed()["models"] == {}


def test_ctrl_c_stops_a_pull_unless_somebody_else_waits_for_it(box: Box, models: Models) -> None:
    box.config("one")
    box.set("one", "pull-gate", box.root / "gate")
    box.up(haste=HASTY)
    first, second = box.popen("pull", "m"), box.popen("pull", "m")
    wait_for(lambda: models.pulls("one"))
    wait_for(lambda: [pull["waiting"] for pull in box.ask("models")["models"]["pulls"]] == [2])
    first.send_signal(signal.SIGINT)
    assert first.wait() == 130
    wait_for(lambda: [pull["waiting"] for pull in box.ask("models")["models"]["pulls"]] == [1])
    second.send_signal(signal.SIGINT)
    assert second.wait() == 130
    wait_for(lambda: models.pulls("one") == ["begins m:latest", "cancelled m:latest"])
    assert box.ask("models")["models"]["pulls"] == []
    assert any("what has come stays" in reason for reason in box.reasons())


def test_M6_a_pull_goes_on_through_another_instance_where_its_own_dies(box: Box, models: Models) -> None:
    gate = box.root / "gate"
    box.config("one", "two", restart={"policy": "never"})
    box.set("one", "pull-gate", gate)
    box.up(haste={**HASTY, "ollamux.supervisor.pulls.AGAIN_S": 0.1})
    waiting = box.send({"cmd": "pull", "models": ["m"]})
    wait_for(lambda: models.pulls("one"))
    os.kill(box.instance("one")["pid"], signal.SIGKILL)
    (outcome,) = answer_on(waiting)["outcomes"]
    assert outcome["exit"] == 0 and "through two" in outcome["words"], outcome
    assert models.pulls("two") == ["begins m:latest", "ends m:latest"]


def test_a_pull_goes_on_over_an_upgrade(box: Box, models: Models) -> None:
    gate = box.root / "gate"
    box.config("one")
    box.set("one", "pull-gate", gate)
    box.up(haste=HASTY)
    waiting = box.send({"cmd": "pull", "models": ["m"]})
    wait_for(lambda: models.pulls("one"))
    assert box.ollamux("upgrade").returncode == 0
    gate.touch()
    (outcome,) = answer_on(waiting)["outcomes"]
    assert outcome["exit"] == 0
    assert models.listed()["models"]["m:latest"]["installed"] is True


def test_names_are_taken_without_regard_to_case(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one")
    box.up(haste=HASTY)
    assert box.ask("load", model="M", wait=False)["exit"] == 0


def test_the_list_tells_everything_and_fits_its_schema(box: Box, models: Models) -> None:
    models.put("loaded", "idle")
    other = box.root / "other"
    models.put("elsewhere", store=other)
    box.config(instances={"one": {"preload": ["absent"]}, "two": {"store": str(other)}})
    box.up(haste=HASTY)
    assert run(box, "models", "pin", "loaded", "--on", "one")[0] == 0
    wait_for(lambda: models.pin("one", "loaded")["state"] == "kept")
    wait_for(lambda: models.pin("one", "absent")["state"] == "missing")

    found = models.listed()
    jsonschema.validate(as_printed(found), SCHEMA)
    assert found["exit"] == 6 and len(found["stores"]) == 2
    rows = found["models"]
    assert set(rows) == {"loaded:latest", "idle:latest", "elsewhere:latest", "absent:latest"}
    assert rows["loaded:latest"]["pins"][0]["by"] == "hand" and rows["idle:latest"]["loaded"] == []
    assert rows["elsewhere:latest"]["store"] == str(other)
    wide = box.ollamux("models", "ls", env=box.env | {"COLUMNS": "60"}).stdout
    assert "one by hand" in wide and all(len(line) <= 60 for line in wide.splitlines()), wide


def as_printed(found: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in found.items() if name != "exit"}
    return {**plain, "models": list(found["models"].values())}


def test_without_a_supervisor_the_store_and_the_configuration_are_told(box: Box, models: Models) -> None:
    models.put("m")
    box.config("one", preload=["m", "absent"])
    done = box.ollamux("models", "ls", "-o", "json", "--config", str(box.config_path))
    plain = json.loads(done.stdout)
    jsonschema.validate(plain, SCHEMA)
    assert done.returncode == 3 and plain["running"] is False
    assert [(row["name"], row["installed"]) for row in plain["models"]] == [
        ("m:latest", True),
        ("absent:latest", False),
    ]
    assert run(box, "models", "load", "m")[0] == 3
