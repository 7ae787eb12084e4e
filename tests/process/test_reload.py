"""A changed configuration: what is touched, what is not, and what happens on the way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process_box import Box, alive, answer_on, wait_for
from test_crashes import Unkillable

from tests.ports import free_ports


def edit(box: Box, change: Callable[[str], str]) -> None:
    """Change the configuration file."""
    text = change(box.config_path.read_text())
    box.config_path.write_text(text)


def reload(box: Box, *words: str) -> Any:
    """Run `ollamux reload`."""
    return box.ollamux("reload", *words)


def pids(box: Box) -> dict[str, int | None]:
    return {entry["name"]: entry["pid"] for entry in box.status()["instances"]}


def answers(box: Box, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((box.host, port)) == 0


def test_C25_an_identical_file_changes_nothing(box: Box) -> None:
    box.config("a", "b")
    box.up()
    before, story = pids(box), len(box.events())
    edit(box, lambda text: "# a comment\n" + text)

    done = reload(box)

    assert (done.returncode, done.stdout, done.stderr) == (0, "no changes\n", "")
    assert pids(box) == before
    assert len(box.events()) == story
    assert box.status()["supervisor"]["config_changed"] is False


@pytest.mark.parametrize("damage", ['[instances.b2]\nport = "11434"', "x = ", "[instances.a", "gpus = [9,", "\x00"])
def test_R46_C3_an_invalid_file_changes_nothing_and_says_where_it_is_wrong(box: Box, damage: str) -> None:
    box.config("a", "b")
    box.up()
    before, story = pids(box), len(box.events())
    good = box.config_path.read_text()
    box.config_path.write_text(good + "\n" + damage + "\n")

    done = reload(box)

    assert done.returncode == 4
    assert str(box.config_path) in done.stderr
    assert "Nothing was changed." in done.stderr
    assert pids(box) == before
    assert len(box.events()) == story
    box.config_path.write_text(good)
    assert reload(box).stdout == "no changes\n"


def test_only_what_changed_is_touched(box: Box) -> None:
    box.config("a", "b", "c")
    box.up()
    before = pids(box)
    box.config(instances={"a": {}, "b": {"context_length": 16384}, "c": {"restart": {"stable_for": "7s"}}})

    done = reload(box)

    assert done.returncode == 0, done.stderr
    assert re.search(r"^b +restart +context_length 8192 → 16384$", done.stdout, re.M)
    assert re.search(r'^c +in place +restart.stable_for "2m" → "7s"$', done.stdout, re.M)
    assert "1 instance unchanged" in done.stdout
    after = pids(box)
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert after["b"] != before["b"]
    assert box.ask("env", name="b")["env"]["OLLAMA_CONTEXT_LENGTH"] == "16384"
    assert "configuration changed: context_length" in box.reasons()
    assert reload(box, "-q").stdout == ""


def test_a_dry_run_says_the_same_and_does_nothing(box: Box) -> None:
    box.config("a", "b")
    box.up()
    before, story = pids(box), len(box.events())
    box.config(instances={"a": {"context_length": 4096}, "c": {}})

    dry = reload(box, "--dry-run")

    assert dry.returncode == 0
    assert [line.split()[:2] for line in dry.stdout.splitlines()[:3]] == [
        ["b", "stop"],
        ["a", "restart"],
        ["c", "start"],
    ]
    assert "nothing was done" in dry.stdout
    assert pids(box) == before
    assert len(box.events()) == story
    real = reload(box)
    assert real.stdout.startswith(dry.stdout.partition("nothing was done")[0])
    assert set(pids(box)) == {"a", "c"}


def test_R47_two_that_swap_their_ports_both_stop_and_then_both_start(box: Box) -> None:
    box.config("a", "b")
    box.up()
    before = pids(box)
    gate = box.root / "gate"
    box.set("b", "term-gate", gate)  # so that a is down long before b
    box.ports = {"a": box.ports["b"], "b": box.ports["a"]}
    box.config("a", "b")

    assert reload(box, "--no-wait").returncode == 0
    box.wait_phase("a", "WAITING")
    box.clear("b", "term-gate")
    gate.touch()
    box.wait_started("a", 2)
    box.wait_started("b", 2)

    assert pids(box)["a"] != before["a"]
    assert pids(box)["b"] != before["b"]
    assert {entry["name"]: entry["port"] for entry in box.status()["instances"]} == box.ports
    told = [event for event in box.events() if event["to"] == "WAITING"]
    assert [event["reason"] for event in told] == [f"waits until b has let go of port {box.ports['a']}"]


def test_R47_a_chain_of_ports_settles_without_a_single_failed_start(box: Box) -> None:
    box.config("a", "b", "c", "d")
    box.up()
    ports = box.ports
    box.ports = {"a": ports["b"], "b": ports["c"], "c": ports["d"], "d": ports["a"]}
    box.config("a", "b", "c", "d")

    assert reload(box).returncode == 0

    assert [len(box.starts(name)) for name in "abcd"] == [2, 2, 2, 2]
    assert all(entry["phase"] == "READY" for entry in box.status()["instances"])


def test_R47_two_that_swap_their_gpus_never_share_one(box: Box) -> None:
    text = "version = 1\n" + "".join(
        f'[instances.{name}]\ngpus = [{gpu}]\nhost = "{box.host}"\nport = {port}\n'
        for name, gpu, port in zip("ab", (0, 1), free_ports(2, box.host), strict=True)
    )
    box.config_path.write_text(text)
    up = box.ollamux("up", "--simulate", "2", "--config", str(box.config_path), "-d")
    assert up.returncode == 0, up.stderr

    def masks() -> dict[str, str]:
        lines = {name: box.ollamux("env", name, "--simulated").stdout.splitlines() for name in "ab"}
        return {n: next(line for line in found if "CUDA_VISIBLE_DEVICES" in line) for n, found in lines.items()}

    try:
        before = masks()
        swapped = text.replace("gpus = [0]", "gpus = [x]").replace("gpus = [1]", "gpus = [0]").replace("[x]", "[1]")
        box.config_path.write_text(swapped)
        done = box.ollamux("reload", "--simulated")
        assert done.returncode == 0, done.stderr
        assert re.search(r"^a +restart +gpus = \[1\]$", done.stdout, re.M)
        after = masks()
        assert (after["a"], after["b"]) == (before["b"], before["a"])
        # Another name for the same card touches nobody.
        uuid = after["a"].partition("=")[2].strip("'\"")
        running = [
            line for line in box.ollamux("status", "-o", "json", "--simulated").stdout.splitlines() if '"pid"' in line
        ]
        box.config_path.write_text(swapped.replace("gpus = [1]", f'gpus = ["{uuid}"]'))
        again = box.ollamux("reload", "--simulated")
        assert re.search(rf'^a +in place +gpus = \["{uuid}"\]$', again.stdout, re.M), again.stdout
        now = [
            line for line in box.ollamux("status", "-o", "json", "--simulated").stdout.splitlines() if '"pid"' in line
        ]
        assert now == running
        # One that waits for a card that is not there is started on the one it had, not left waiting "in place".
        box.config_path.write_text(swapped.replace("gpus = [1]", "gpus = [7]"))
        missing = box.ollamux("reload", "--simulated")
        assert "there is no GPU 7 here" in missing.stderr
        box.config_path.write_text(swapped)
        back = box.ollamux("reload", "--simulated")
        assert re.search(r"^a +start +gpus = \[1\]$", back.stdout, re.M), back.stdout
        assert re.search(r"^a +ready at ", back.stdout, re.M), back.stdout
    finally:
        box.ollamux("down", "--simulated")


def test_instances_come_and_go(box: Box) -> None:
    box.config("a", "b")
    box.up()
    before = pids(box)
    box.config("b", "c")

    done = reload(box)

    assert done.returncode == 0, done.stderr
    assert re.search(r"^a +stopped$", done.stdout, re.M)
    assert re.search(r"^c +ready at ", done.stdout, re.M)
    wait_for(lambda: list(pids(box)) == ["b", "c"], "a is gone from the table")
    assert pids(box)["b"] == before["b"]
    assert not answers(box, box.ports["a"])
    assert box.ollamux("restart", "a").returncode == 5
    box.config("a", "b", "c")
    assert reload(box).returncode == 0
    assert box.instance("a")["generation"] == 2, "generations never repeat"


def test_a_renamed_instance_is_a_stop_and_a_start_and_says_so(box: Box) -> None:
    box.config("a")
    box.up()
    edit(
        box, lambda text: text.replace("[instances.a]", "[instances.main]").replace("[instances.a.", "[instances.main.")
    )

    done = reload(box)

    assert done.returncode == 0, done.stderr
    assert "renamed to main: that is a stop and a start" in done.stdout
    assert list(pids(box)) == ["main"]
    assert box.instance("main")["port"] == box.ports["a"]


def test_enabled_is_a_switch(box: Box) -> None:
    box.config("a", "b")
    box.up()
    box.config(instances={"a": {"enabled": False}, "b": {}})

    off = reload(box)

    assert re.search(r"^a +stop +enabled true → false$", off.stdout, re.M)
    assert box.instance("a")["phase"] == "STOPPED"
    assert box.ollamux("start", "a").returncode == 7
    box.config("a", "b")
    assert re.search(r"^a +start +enabled false → true$", reload(box).stdout, re.M)
    assert box.instance("a")["phase"] == "READY"


def test_what_a_person_stopped_stays_stopped(box: Box) -> None:
    box.config("a", "b")
    box.up()
    box.ask("stop", names=["a"])
    box.config(instances={"a": {"context_length": 4096}, "b": {}})

    done = reload(box)

    assert re.search(r"^a +in place +context_length", done.stdout, re.M)
    assert box.instance("a")["phase"] == "STOPPED"
    box.ask("start", names=["a"])
    assert box.ask("env", name="a")["env"]["OLLAMA_CONTEXT_LENGTH"] == "4096"
    assert len(box.starts("b")) == 1


def test_R48_one_that_waits_for_its_next_start_can_be_removed(box: Box) -> None:
    box.config("a", "b", restart={"first": "1h", "base": "1h", "cap": "1h"})
    box.up()
    box.set("a", "exit-now", 3)
    box.wait_phase("a", "WAITING")
    box.config("b")

    assert reload(box).returncode == 0

    wait_for(lambda: list(pids(box)) == ["b"], "a is gone")
    assert len(box.starts("a")) == 1


def test_R48_one_that_failed_can_be_removed_or_mended(box: Box) -> None:
    box.config("a", "b", "c", restart={"failure_limit": 1})
    for name in "ab":
        box.set(name, "exit", 3)
    box.up(ready=False)
    for name in "ab":
        box.wait_phase(name, "FAILED")
    box.clear("b", "exit")
    box.config(instances={"b": {"context_length": 4096}, "c": {}}, restart={"failure_limit": 1})

    done = reload(box)

    assert done.returncode == 0, done.stderr
    assert re.search(r"^b +start +context_length", done.stdout, re.M)
    wait_for(lambda: list(pids(box)) == ["b", "c"], "a is gone")
    assert box.instance("b")["phase"] == "READY"


def test_R48_one_that_will_not_go_is_followed_until_it_is_gone(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "10s"})
    box.up()
    box.set("a", "term-gate", box.root / "gate")
    old = box.instance("a")["pid"]
    box.config("b", restart={"stop_timeout": "10s"})

    assert reload(box, "--no-wait").returncode == 0

    assert box.wait_phase("a", "STOPPING")["reason"] == "removed from the configuration"
    assert box.ollamux("start", "a").returncode == 7, "it is on its way out for good"
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: list(pids(box)) == ["b"], "a is gone")


def test_R48_one_that_is_stuck_is_followed_until_it_is_gone(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "100ms"})
    box.up(haste={"ollamux.domain.rules.KILL_TIMEOUT_S": 0.3})
    held = Unkillable(box.instance("a")["pid"])
    try:
        box.ask("restart", names=["a"])
        assert box.instance("a")["phase"] == "STUCK"
        box.config("b", restart={"stop_timeout": "100ms"})

        assert reload(box, "--no-wait").returncode == 0

        assert (box.instance("a")["phase"], box.instance("a")["wanted"]) == ("STUCK", "down")
        assert box.ollamux("start", "a").returncode == 7
    finally:
        held.release()
    wait_for(lambda: list(pids(box)) == ["b"], "a is gone")
    assert len(box.starts("a")) == 1


def test_one_that_is_leaving_may_come_back(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "10s"})
    box.up()
    gate = box.root / "gate"
    box.set("a", "term-gate", gate)
    box.config("b", restart={"stop_timeout": "10s"})
    reload(box, "--no-wait")
    box.wait_phase("a", "STOPPING")
    box.config("a", "b", restart={"stop_timeout": "10s"})
    reload(box, "--no-wait")
    box.clear("a", "term-gate")
    gate.touch()

    found = box.wait_started("a", 2)

    assert found["generation"] == 2
    assert list(pids(box)) == ["a", "b"]


def test_R49_the_bytes_that_were_judged_are_the_ones_that_hold(box: Box) -> None:
    box.config("a")
    box.up()
    before = pids(box)
    box.config(instances={"a": {"context_length": 4096}})
    dry = reload(box, "--dry-run")  # judged, and kept
    judged = box.config_path.read_bytes()
    assert "restart" in dry.stdout
    box.config_path.write_bytes(judged[: len(judged) // 2])  # an editor is writing it just now

    other = box.ask("reload", digest=hashlib.sha256(box.config_path.read_bytes()).hexdigest())

    assert (other["ok"], other["exit"]) == (False, 7)
    assert "changed while it was read" in other["message"]
    assert pids(box) == before
    done = box.ask("reload", digest=hashlib.sha256(judged).hexdigest())
    assert done["exit"] == 0
    assert box.ask("env", name="a")["env"]["OLLAMA_CONTEXT_LENGTH"] == "4096"
    wait_for(lambda: box.status()["supervisor"]["config_changed"], "the file is told to differ from what holds")


def test_a_kept_outcome_that_others_could_have_written_is_not_believed(box: Box) -> None:
    box.config("a")
    box.up()
    box.config(instances={"a": {"context_length": 4096}})
    reload(box, "--dry-run")
    (box.state / "config-cache.json").chmod(0o666)

    refused = box.ask("reload", digest=hashlib.sha256(box.config_path.read_bytes()).hexdigest())

    assert refused["exit"] == 7
    assert len(box.starts("a")) == 1


def test_a_program_that_is_missing_is_told_before_anything_changes(box: Box) -> None:
    box.config("a", "b")
    box.up()
    before = pids(box)
    box.config(instances={"a": {"context_length": 4096}, "b": {"ollama": "/nowhere/ollama"}})

    done = reload(box)

    assert done.returncode == 5
    assert "/nowhere/ollama" in done.stderr
    assert pids(box) == before
    assert box.ask("env", name="a")["env"]["OLLAMA_CONTEXT_LENGTH"] == "8192"


def test_R22_a_supervisor_killed_in_mid_reload_leaves_nothing_of_the_old_configuration(box: Box) -> None:
    box.config("a", "b", restart={"stop_timeout": "30s"})
    supervisor = box.up()
    before = pids(box)
    box.set("a", "term-gate", box.root / "gate")
    box.config(instances={"a": {"context_length": 4096}, "b": {}}, restart={"stop_timeout": "30s"})
    reload(box, "--no-wait")
    box.wait_phase("a", "STOPPING")
    wait_for(lambda: f'"pid": {before["a"]}' in (box.state / "state.json").read_text(), "it is written down")
    supervisor.kill()
    box.clear("a", "term-gate")
    (box.root / "gate").touch()

    box.up()

    after = pids(box)
    assert after["b"] == before["b"], "adopted"
    assert after["a"] != before["a"]
    assert before["a"] is not None
    assert not alive(before["a"])
    assert box.ask("env", name="a")["env"]["OLLAMA_CONTEXT_LENGTH"] == "4096"


def test_times_hold_at_once(box: Box) -> None:
    box.config("a", health={"interval": "1h"}, restart={"first": "0s"})
    box.up()
    box.set("a", "hang-api")
    box.config("a", health={"interval": "50ms", "timeout": "100ms", "unhealthy_timeout": "1h"})

    assert "in place" in reload(box).stdout

    box.wait_phase("a", "UNHEALTHY")
    box.config("a", health={"interval": "50ms", "timeout": "100ms", "unhealthy_timeout": "50ms"})
    box.clear("a", "hang-api")
    assert len(box.starts("a")) == 1


def test_times_hold_for_the_wait_that_is_under_way(box: Box) -> None:
    """Each step begins with a wait of an hour, and the times of the next step end it."""
    box.config("a", restart={"first": "1h", "base": "1h", "cap": "1h"})
    box.up()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_phase("a", "WAITING")
    box.set("a", "exit", 4)
    box.config("a", restart={"first": "0s", "base": "1ms", "failure_limit": 2, "retry_failed": "1h"})
    assert "in place" in reload(box).stdout
    box.wait_phase("a", "FAILED")
    box.clear("a", "exit")
    box.set("a", "term-gate", box.root / "never")
    box.config("a", restart={"retry_failed": "1ms", "stop_timeout": "1h"})
    assert "in place" in reload(box).stdout
    box.wait_ready("a")
    stopping = box.send({"cmd": "stop", "names": ["a"]})
    box.wait_phase("a", "STOPPING")
    box.config("a", restart={"stop_timeout": "50ms"})

    assert "in place" in reload(box).stdout

    assert answer_on(stopping)["exit"] == 0


def test_another_policy_holds_for_one_that_has_ended(box: Box) -> None:
    box.config("a", restart={"policy": "never"})
    box.up()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    assert "restart.policy is never" in box.wait_phase("a", "FAILED")["reason"]
    box.config("a", restart={"policy": "always", "retry_failed": "1ms"})
    assert "in place" in reload(box).stdout
    box.wait_ready("a")
    box.config("a", restart={"first": "1h"})
    assert "in place" in reload(box).stdout
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_phase("a", "WAITING")
    box.config("a", restart={"policy": "never"})

    assert "in place" in reload(box).stdout

    assert "restart.policy is never" in box.wait_phase("a", "FAILED")["reason"]


def test_whom_to_notify_holds_at_once(box: Box) -> None:
    told = box.root / "told"
    tell = box.bin / "tell-me"
    tell.write_text(f"#!/bin/sh\ncat >> {told}\n")
    tell.chmod(0o755)
    box.config("a", restart={"failure_limit": 1})
    box.up()
    box.config("a", supervisor={"notify": [str(tell)]}, restart={"failure_limit": 1})

    done = reload(box)

    assert re.search(r"^supervisor +in place +notify", done.stdout, re.M)
    box.set("a", "exit-now", 3)
    wait_for(lambda: told.exists() and "FAILED" in told.read_text(), "it is told")
    assert len(box.starts("a")) == 1


def asked(box: Box) -> list[dict[str, Any]]:
    """Return the loads and releases that the server was asked for."""
    path = box.root / "asked"
    return [json.loads(line.split(" ", 2)[2]) for line in path.read_text().splitlines()] if path.exists() else []


def test_what_is_preloaded_changes_without_a_restart(box: Box) -> None:
    pinned = {"name": "old:latest", "model": "old:latest", "size": 1, "size_vram": 0, "digest": "d"}
    box.set(
        "a", "ps", json.dumps({"models": [pinned | {"expires_at": "2300-01-01T00:00:00Z", "context_length": 8192}]})
    )
    box.set("a", "asked", box.root / "asked")
    box.config(instances={"a": {"preload": ["old"], "keep_alive": "7m"}})
    box.up()
    wait_for(lambda: asked(box) == [{"model": "old", "keep_alive": -1}], "it is loaded and kept")
    wait_for(lambda: box.instance("a")["models"], "its model is seen")
    pid = box.instance("a")["pid"]
    box.config(instances={"a": {"preload": ["new"], "keep_alive": "7m"}})

    done = reload(box)

    assert re.search(r'^a +in place +preload \["old"\] → \["new"\]$', done.stdout, re.M), done.stdout
    wait_for(lambda: len(asked(box)) == 3, "the new one is asked for, the old one let go")
    assert {"model": "new", "keep_alive": -1} in asked(box)
    assert {"model": "old", "keep_alive": 420} in [{**one, "keep_alive": int(one["keep_alive"])} for one in asked(box)]
    wait_for(lambda: "old is no longer kept" in box.reasons(), "it is told")
    assert box.instance("a")["pid"] == pid


def test_a_secret_is_never_shown(box: Box) -> None:
    box.config("a")
    box.up()
    box.config(instances={"a": {"env": {"HF_TOKEN": "hunter2", "OLLAMA_DEBUG": "1"}}})

    done = reload(box)

    assert "env.HF_TOKEN" in done.stdout
    assert 'env.OLLAMA_DEBUG = "1"' in done.stdout
    assert "hunter2" not in done.stdout + done.stderr + box.story() + (box.state / "state.json").read_text()


def test_R42_nothing_is_reloaded_while_the_supervisor_stops(box: Box) -> None:
    box.config("a", restart={"stop_timeout": "10s"})
    supervisor = box.up()
    gate = box.root / "gate"
    box.set("a", "term-gate", gate)
    supervisor.signal(signal.SIGTERM)
    box.wait_phase("a", "STOPPING")
    box.config(instances={"a": {"context_length": 4096}})

    done = reload(box)

    assert done.returncode == 7
    assert "is stopping" in done.stderr
    gate.touch()
    assert supervisor.wait() == 0
    assert len(box.starts("a")) == 1


def test_without_a_supervisor_it_says_so(box: Box, tmp_path: Path) -> None:
    box.config("a")
    done = reload(box)
    assert done.returncode == 3
