"""What an instance answers, or does not, and what becomes of it; who else is on its port; the helper for the GPUs."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from process_box import FAKE, Box, alive, process_state, wait_for, words_of


def test_R60_an_open_port_that_does_not_answer_is_not_ready_and_says_so(box: Box) -> None:
    gate = box.root / "gate"
    box.config(
        instances={"a": {"env": {"FAKE_READY_GATE": str(gate)}}}, health={"timeout": "100ms", "start_timeout": "1h"}
    )
    box.up(ready=False)

    told = wait_for(lambda: "port is open" in (box.instance("a")["reason"] or "") and box.instance("a"))

    assert told["phase"] == "STARTING"
    assert told["reason"] == "the port is open, but HTTP is not answered yet"
    assert told["health"] == "unknown"
    gate.touch()
    assert box.wait_phase("a", "READY")["generation"] == 1


def test_R60_one_that_never_gets_ready_is_started_anew_and_counted(box: Box) -> None:
    gate = box.root / "gate"
    box.config(
        instances={"a": {"env": {"FAKE_READY_GATE": str(gate)}}},
        health={"timeout": "100ms", "start_timeout": "400ms"},
        restart={"failure_limit": 2},
    )
    box.up(ready=False)

    failed = box.wait_phase("a", "FAILED")

    assert "not ready after 0.4 s (the port is open, but HTTP is not answered yet)" in failed["reason"]
    assert len(box.starts("a")) == 2


NO_ANSWERS = (
    ("status", "500", "answered with 500"),
    ("status", "404", "answered with 404"),
    ("status", "302", "answered with 302"),
    ("raw", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ngarbage", "not JSON"),
    ("raw", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "holds no version"),
    ("raw", "SSH-2.0-OpenSSH_9.9\r\n\r\n", "not HTTP"),
    ("raw", "\x15\x03\x01\x02\x02", "not HTTP"),
    ("raw", "HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n{}", "broke off"),
    ("endless", "1", "endless"),
    ("chunks", "1", "not complete"),
    ("trickle-s", "0.05", "HTTP is not answered yet"),
)


def test_R64_S18_only_a_proper_answer_counts(box: Box) -> None:
    names = [f"gpu{number}" for number in range(len(NO_ANSWERS))]
    box.config(*names, health={"timeout": "400ms", "start_timeout": "1h"})
    for name, (knob, text, _) in zip(names, NO_ANSWERS, strict=True):
        box.set(name, knob, text)
    box.up(ready=False)

    for name, (knob, text, reason) in zip(names, NO_ANSWERS, strict=True):
        wait_for(lambda name=name, reason=reason: reason in (box.instance(name)["reason"] or ""), f"{text!r}: {reason}")
        assert box.instance(name)["phase"] == "STARTING"
        box.clear(name, knob)
    box.wait_ready()


def test_R61_slow_answers_are_no_misses(box: Box) -> None:
    box.config("a", health={"timeout": "5s", "failures": 1})
    box.up()

    box.set("a", "slow-s", "0.2")

    assert box.rounds_while("a", 4) > 0
    assert "UNHEALTHY" not in box.changes("a")


def test_R61_only_misses_in_a_row_count_and_a_recovery_is_told(box: Box) -> None:
    box.config("a", health={"timeout": "150ms", "failures": 2, "unhealthy_timeout": "1h"})
    box.up()
    pid = box.instance("a")["pid"]

    box.set("a", "hang-api")
    bad = box.wait_phase("a", "UNHEALTHY")
    assert "the API does not answer" in bad["reason"]
    assert "2 checks in a row" in bad["reason"]
    assert bad["next_action"] == "restart"
    assert box.ollamux("status").returncode == 6
    box.clear("a", "hang-api")

    assert box.wait_phase("a", "READY")["pid"] == pid
    assert box.changes("a") == ["STARTING", "READY", "UNHEALTHY", "READY"]


def test_level_3_a_scheduler_that_does_not_answer_has_a_reason_of_its_own(box: Box) -> None:
    box.config("a", health={"timeout": "200ms"})
    box.up(haste={"ollamux.supervisor.checks.SCHEDULER_PATIENCE_S": 0.2})

    box.set("a", "hang-ps")

    wait_for(lambda: len(box.starts("a")) == 2, "it is restarted")
    box.clear("a", "hang-ps")
    box.wait_phase("a", "READY")
    assert any("the scheduler does not answer" in reason and "/api/ps" in reason for reason in box.reasons())


def test_level_3_an_old_server_without_ps_is_healthy(box: Box) -> None:
    box.config("a")
    box.set("a", "no-ps")
    box.up()

    box.rounds_while("a")

    assert box.changes("a") == ["STARTING", "READY"]


def overdue(box: Box, **more: Any) -> str:
    """Return an answer of /api/ps with a model whose time has passed, and put its manifest into the store."""
    digest = "0" * 64
    manifest = box.root / "models/manifests/registry.ollama.ai/library/m/latest"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 1}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    model = {"name": "m:latest", "size": 5, "size_vram": 5, "expires_at": "2020-01-01T00:00:00Z", **more}
    return json.dumps({"models": [model]})


HUNG = {"ollamux.domain.health.HUNG_AFTER_S": 0.3}


def test_level_3_a_hung_runner_is_ended_alone(box: Box) -> None:
    box.config("a", health={"unhealthy_timeout": "1h"})
    box.set("a", "runners", 1)
    box.set("a", "ps", overdue(box))
    box.up(haste=HUNG)
    runner = wait_for(lambda: box.runners("a"))[0]
    pid = box.instance("a")["pid"]

    wait_for(lambda: process_state(runner) in (None, "Z"), "the runner is ended")

    assert any(f"the runner of m:latest (pid {runner}) hangs" in reason for reason in box.reasons())
    told = [event["reason"] or "" for event in wait_for(lambda: [e for e in box.events() if e["instance"] == "a"])]
    ended = next(at for at, reason in enumerate(told) if f"ended the hung runner (pid {runner})" in reason)
    assert box.changes("a")[:3] == ["STARTING", "READY", "UNHEALTHY"]
    assert "hangs" in told[ended - 1], "why it was ended stands before it"
    assert box.wait_phase("a", "READY")["pid"] == pid, "and the instance goes on"


def test_level_3_a_runner_that_computes_is_never_touched(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 1)
    box.set("a", "ps", overdue(box))
    box.set("a", "runner-busy")
    box.up(haste=HUNG)
    runner = wait_for(lambda: box.runners("a"))[0]

    for _ in range(3):
        box.rounds_while("a", 10)

    assert alive(runner)
    assert box.changes("a") == ["STARTING", "READY"]


def test_level_3_a_runner_that_is_gone_is_told_and_left_to_the_next_request(box: Box) -> None:
    box.config("a")
    box.set("a", "runners", 1)
    box.set("a", "ps", overdue(box, expires_at="2099-01-01T00:00:00Z"))
    box.up()
    wait_for(lambda: box.status()["models"])
    runner = wait_for(lambda: box.runners("a"))[0]

    os.kill(runner, signal.SIGKILL)

    wait_for(lambda: any("the runner of m:latest is gone" in reason for reason in box.reasons()))
    assert box.instance("a")["phase"] == "READY"


def test_a_model_that_is_kept_is_loaded_again_where_its_runner_was_killed(box: Box) -> None:
    """A server lists it with its pin until somebody asks for it."""
    box.config("a", preload=["m"])
    box.set("a", "runners", 1)
    box.set("a", "ps", overdue(box, expires_at="2319-01-01T00:00:00Z"))
    box.set("a", "asked", box.root / "asked")
    box.up(haste={"ollamux.supervisor.preload.RENEW_AFTER_S": 0.1})
    wait_for(lambda: box.status()["models"])
    runner = wait_for(lambda: box.runners("a"))[0]
    box.rounds_while("a", 10)
    assert len((box.root / "asked").read_text().splitlines()) == 1, "it is kept, and not asked for again"

    os.kill(runner, signal.SIGKILL)

    again = wait_for(lambda: (box.root / "asked").read_text().splitlines()[1:])
    assert '"keep_alive": -1' in again[0]


def test_S8_what_a_server_says_cannot_reach_the_terminal(box: Box) -> None:
    box.config("a")
    evil = "m\x1b]0;title\x07\x9b2J\u202e[/bold]"
    box.set("a", "ps", json.dumps({"models": [{"name": evil, "size": 1, "size_vram": 1, "digest": "\x1b[2J"}]}))
    box.up()
    wait_for(lambda: box.status()["models"])

    for words in (("status",), ("status", "models"), ("status", "-o", "wide"), ("status", "instances")):
        shown = box.ollamux(*words, env=box.env | {"COLUMNS": "200"})
        assert shown.returncode == 0, shown.stderr
        assert not set(shown.stdout) & {"\x1b", "\x07", "\x9b", "\u202e"}, words
    assert json.loads(box.ollamux("status", "-o", "json").stdout)["models"][0]["name"] == evil


def test_R62_a_port_that_a_stranger_holds_is_waited_for_and_the_stranger_named(box: Box) -> None:
    box.config("a", "b")
    stranger = box.stranger(
        sys.executable, str(FAKE), "serve", env={"OLLAMA_HOST": f"{box.host}:{box.ports['a']}", "PATH": "/usr/bin"}
    )
    wait_for(lambda: connects(box, "a"))
    box.up(ready=False)

    waiting = box.wait_phase("a", "WAITING")

    name = Path(f"/proc/{stranger.pid}/comm").read_text().strip()
    user = pwd.getpwuid(os.getuid()).pw_name
    held = f"port {box.ports['a']} is held by pid {stranger.pid} ({name}, user {user})"
    assert waiting["reason"] == held
    assert held.split(" (")[0] in " ".join(box.ollamux("status").stdout.split())
    assert waiting["next_action"] == "look again"
    assert box.starts("a") == []
    assert box.wait_phase("b", "READY")
    assert "FAILED" not in box.changes("a")
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    assert box.wait_phase("a", "READY")["generation"] == 1, "a start that was blocked is not counted"


def connects(box: Box, name: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((box.host, box.ports[name])) == 0


def test_R63_a_stranger_that_takes_the_port_of_a_dead_server_is_waited_for_and_named(box: Box) -> None:
    box.config("a", restart={"first": "1h", "base": "1h", "cap": "1h"})
    box.up()
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    box.wait_phase("a", "WAITING")
    address = f"{box.host}:{box.ports['a']}"
    stranger = box.stranger(sys.executable, str(FAKE), "serve", env={"OLLAMA_HOST": address, "PATH": "/usr/bin"})
    wait_for(lambda: connects(box, "a"))

    box.ask("start", names=["a"], wait=False)

    waiting = wait_for(lambda: "is held by" in (box.instance("a")["reason"] or "") and box.instance("a"))
    assert (waiting["phase"], waiting["next_action"]) == ("WAITING", "look again")
    assert f"pid {stranger.pid}" in waiting["reason"]
    assert len(box.starts("a")) == 1
    assert box.changes("a").count("READY") == 1, "a stranger's answer makes nobody ready"
    stranger.kill()
    stranger.wait()
    box.wait_started("a", 2)


def test_R63_a_stranger_that_is_quicker_than_our_server_is_never_taken_for_ours(box: Box) -> None:
    gate = box.root / "gate"
    box.config(instances={"a": {"env": {"FAKE_BIND_GATE": str(gate)}}}, health={"start_timeout": "1h"})
    box.up(ready=False)
    box.wait_phase("a", "STARTING")
    box.stranger(
        sys.executable, str(FAKE), "serve", env={"OLLAMA_HOST": f"{box.host}:{box.ports['a']}", "PATH": "/usr/bin"}
    )

    wait_for(lambda: "is answered by pid" in (box.instance("a")["reason"] or ""), "the stranger is named")

    assert box.instance("a")["phase"] == "STARTING"
    gate.touch()
    waiting = box.wait_phase("a", "WAITING")
    assert "is held by pid" in waiting["reason"]
    box.strangers[0].kill()
    box.wait_phase("a", "READY")


def test_a_port_that_was_just_left_is_not_taken_for_held(box: Box) -> None:
    box.config("a")
    box.up()
    held = socket.create_connection((box.host, box.ports["a"]))

    box.ask("restart", names=["a"])

    assert "WAITING" not in box.changes("a")
    held.close()


def helpers(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split() if "ollamux.gpu.helper" in words_of(int(word))]


QUICK_GPUS = {"ollamux.supervisor.gpus.SAMPLE_INTERVAL_S": 0.1, "ollamux.gpu.client.DEADLINE_S": 0.3}


def with_wish_for_a_gpu(box: Box) -> None:
    """Ask for a card that is nowhere: its instance waits, and the helper is kept."""
    box.config("a", instances={"b": {"gpus": ["GPU-00000000-0000-0000-0000-000000000000"]}})


def test_R67_a_helper_that_crashes_takes_nothing_with_it_and_comes_back(box: Box) -> None:
    with_wish_for_a_gpu(box)
    supervisor = box.up(ready=False, haste=QUICK_GPUS)
    box.wait_ready("a")
    helper = wait_for(lambda: helpers(supervisor.pid))[0]

    os.kill(helper, signal.SIGSEGV)

    wait_for(lambda: [pid for pid in helpers(supervisor.pid) if pid != helper], "another one is started")
    assert box.instance("a")["generation"] == 1
    assert box.wait_phase("b", "WAITING")
    assert process_state(helper) is None, "and it is collected"


def test_R66_a_helper_that_hangs_is_given_up_and_status_answers_meanwhile(box: Box) -> None:
    with_wish_for_a_gpu(box)
    supervisor = box.up(ready=False, haste=QUICK_GPUS)
    box.wait_ready("a")
    helper = wait_for(lambda: helpers(supervisor.pid))[0]
    wait_for(lambda: box.instance("b")["phase"] == "WAITING" and "GPU-0000" in box.instance("b")["reason"])

    os.kill(helper, signal.SIGSTOP)

    seen = wait_for(lambda: box.status()["host"]["gpus_error"] or "", "trouble is told")
    assert seen
    wait_for(lambda: process_state(helper) is None, "it is killed and collected")
    wait_for(lambda: helpers(supervisor.pid), "another one is started")
    assert box.instance("a")["generation"] == 1


def test_R66_the_helper_goes_with_the_supervisor(box: Box) -> None:
    with_wish_for_a_gpu(box)
    supervisor = box.up(ready=False, haste=QUICK_GPUS)
    helper = wait_for(lambda: helpers(supervisor.pid))[0]

    supervisor.kill()

    wait_for(lambda: not alive(helper), "its input has ended, and so does it")
    box.up(ready=False)
    box.wait_ready("a")
