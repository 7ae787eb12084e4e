"""Level 5: a loaded model is asked for one token now and then, never to anybody's harm, and a failure is mended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from process_box import Box, alive, process_state, wait_for
from test_health import overdue

from ollamux.system.clock import rfc3339, wall

KEPT = "2319-01-01T00:00:00Z"
CANARY = {"models": ["m"], "interval": "300ms", "timeout": "20s", "per_hour": 3600, "failures": 2}
UNFIT = "alone from now on"
HEALTH = {"unhealthy_timeout": "2s"}


def loaded(box: Box, *, expires_at: str = KEPT, **canary: Any) -> None:
    """Configure an instance with a loaded model, which the canary may ask."""
    box.config("a", health=HEALTH, canary=CANARY | canary)
    box.set("a", "runners", 1)
    box.set("a", "ps", overdue(box, expires_at=expires_at, digest="d", context_length=4096))
    box.set("a", "asked", box.root / "asked")


def questions(box: Box) -> list[dict[str, Any]]:
    """Return what was asked, by whomever."""
    path = box.root / "asked"
    return [json.loads(line.split(" ", 2)[2]) for line in path.read_text().splitlines()] if path.exists() else []


def times(box: Box) -> list[float]:
    return [float(line.split(" ", 1)[0]) for line in (box.root / "asked").read_text().splitlines()]


def asked(box: Box, count: int = 1) -> list[dict[str, Any]]:
    wait_for(lambda: len(questions(box)) >= count, f"{count} questions")
    return questions(box)


def looks(box: Box, count: int = 12) -> None:
    """Let the supervisor look at the instance some more times; at each it may ask."""
    box.rounds_while("a", 2 * count)


def canary(box: Box) -> Any:
    return box.instance("a")["canary"]


def answered(box: Box) -> bool:
    """Whether the last question was answered with a token."""
    last = canary(box)
    return last is not None and bool(last["ok"])


def use(box: Box) -> int:
    """Have a client ask for something."""
    connection = http.client.HTTPConnection(box.host, box.ports["a"], timeout=20)
    connection.request("POST", "/api/chat", "{}")
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_loaded_model_is_asked_for_one_token_with_the_options_of_its_runner(box: Box) -> None:
    loaded(box)
    box.up()

    first = asked(box)[0]

    assert first["model"] == "m:latest"
    assert first["stream"] is False
    assert first["prompt"]
    assert first["options"] == {"num_predict": 1, "temperature": 0, "num_ctx": 4096}
    assert "keep_alive" not in first, "any value would change for how long the model stays"
    told = wait_for(lambda: canary(box))
    assert (told["model"], told["ok"], told["reason"]) == ("m:latest", True, None)
    assert 0 <= told["seconds"] < 20
    assert box.changes("a") == ["STARTING", "READY"]
    shown = box.ollamux("status", "instances", "-o", "wide", env=box.env | {"COLUMNS": "240"}).stdout
    assert "Canary" in shown and "m:latest ok" in shown
    assert "canary" not in box.ollamux("logs", "a", "-n", "1000").stdout
    assert 'POST     "/api/generate?ollamux=canary"' in box.ollamux("logs", "a", "--all", "-n", "1000").stdout


NOT_ASKED: dict[str, Callable[[Box], None]] = {
    "off": lambda box: loaded(box, models=[]),
    "not on the list": lambda box: loaded(box, models=["other", "m:small"]),
    "an embedding model": lambda box: (loaded(box), box.set("a", "show", '200 {"capabilities":["embedding"]}'))[0],
    "nobody knows what it is": lambda box: (loaded(box), box.set("a", "show", "500 {}"))[0],
    "not loaded": lambda box: (loaded(box), box.set("a", "ps", '{"models":[]}'))[0],
    "its runner is gone": lambda box: (loaded(box), box.set("a", "runners", 0))[0],
    "something loads": lambda box: (loaded(box), box.set("a", "runners", 2))[0],
    "its runner computes": lambda box: (loaded(box), box.set("a", "runner-busy"))[0],
    "it is about to go": lambda box: loaded(box, expires_at=rfc3339(wall() + 10)),
}


@pytest.mark.parametrize("why", NOT_ASKED)
def test_a_model_is_not_asked(box: Box, why: str) -> None:
    NOT_ASKED[why](box)
    box.up()

    looks(box, 20)

    assert questions(box) == []
    assert canary(box) is None
    assert box.changes("a") == ["STARTING", "READY"]


def test_a_model_that_is_to_go_some_time_is_asked_once_after_each_use(box: Box) -> None:
    loaded(box, expires_at=rfc3339(wall() + 3600))
    box.up()
    asked(box)

    looks(box, 20)

    assert len(questions(box)) == 1, "the second would have kept it loaded"
    box.set("a", "ps", overdue(box, expires_at=rfc3339(wall() + 3660), digest="d", context_length=4096))
    assert len(asked(box, 2)) == 2


def test_it_is_asked_no_more_often_than_allowed(box: Box) -> None:
    loaded(box, per_hour=2)
    box.up()
    asked(box, 2)

    looks(box, 20)

    assert len(questions(box)) == 2
    box.ask("restart", names=["a"])
    box.wait_phase("a", "READY")
    looks(box, 20)
    assert len(questions(box)) == 2, "nor after a restart"


def test_while_others_are_served_nothing_is_asked(box: Box) -> None:
    loaded(box, interval="3s")
    box.up()
    runner = wait_for(lambda: box.runners("a"))[0]
    until = time.monotonic() + 7
    last = 0.0
    while time.monotonic() < until:
        os.kill(runner, signal.SIGUSR1)  # it computes a little while it serves
        looks(box, 2)
        assert use(box) == 200
        os.kill(runner, signal.SIGUSR2)
        last = time.monotonic()
        looks(box, 1)
    of_others = len(questions(box))

    asked(box, of_others + 1)

    assert of_others == 0
    assert times(box)[0] - last >= 2.5, "an interval after the last traffic it is asked again"


def test_served_by_another_model_proves_nothing(box: Box) -> None:
    loaded(box)
    box.up()
    for _ in range(4):
        use(box)
        looks(box, 2)

    assert asked(box)


FAILURES = {
    "no token": ("hang-generate", "1", "no token from m:latest in 3 s"),
    "an error": ("generate", '500 {"error":"CUDA error"}', "status 500 from m:latest: CUDA error"),
    "an error with 200": ("generate", '200 {"error":"CUDA error"}', "an error from m:latest: CUDA error"),
    "nothing": (
        "generate",
        '200 {"response":"","done":true,"eval_count":0}',
        "an answer without a token from m:latest",
    ),
    "garbage": ("generate", "200 <html>", "an answer that is not JSON from m:latest"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failing_model_has_its_runner_ended_alone_and_is_asked_again(box: Box, how: str) -> None:
    knob, text, told = FAILURES[how]
    loaded(box, interval="500ms", timeout="3s")
    box.set("a", "runner-again")
    box.set("a", knob, text)
    box.up()
    pid = box.instance("a")["pid"]
    runner = wait_for(lambda: box.runners("a"))[0]

    wait_for(lambda: process_state(runner) in (None, "Z"), "the runner is ended")
    box.clear("a", knob)

    wait_for(lambda: any("got a token from m:latest again" in reason for reason in box.reasons()))
    assert box.wait_phase("a", "READY")["pid"] == pid, "and the instance goes on"
    assert box.changes("a") == ["STARTING", "READY", "UNHEALTHY", "READY"]
    assert f"the canary got {told}, 2 times in a row" in box.reasons()
    assert f"the canary got {told}; 1 of 2 misses" in box.reasons()
    assert any(f"ended the hung runner (pid {runner})" in reason for reason in box.reasons())


def test_what_a_new_runner_does_not_mend_a_restart_may(box: Box) -> None:
    loaded(box, timeout="500ms")
    box.set("a", "runner-again")
    box.set("a", "hang-generate")
    box.up()

    wait_for(lambda: len(box.starts("a")) == 2, "it is restarted")
    box.clear("a", "hang-generate")

    assert box.changes("a")[:5] == ["STARTING", "READY", "UNHEALTHY", "READY", "UNHEALTHY"]
    assert any("2 times in a row, also after its runner was replaced" in reason for reason in box.reasons())
    assert sum("ended the hung runner" in reason for reason in box.reasons()) == 1
    wait_for(lambda: answered(box), "it answers")


NO_FAILURES = {
    "busy": '503 {"error":"server busy, please try again.  maximum pending requests exceeded"}',
    "gone": '404 {"error":"model \'m\' not found"}',
}


@pytest.mark.parametrize("how", NO_FAILURES)
def test_what_says_nothing_about_the_model_is_no_failure(box: Box, how: str) -> None:
    loaded(box)
    box.set("a", "generate", NO_FAILURES[how])
    box.up()

    asked(box, 4)

    assert canary(box)["ok"] is None
    assert NO_FAILURES[how][:3] in canary(box)["reason"]
    assert box.changes("a") == ["STARTING", "READY"]


def test_a_model_that_cannot_be_asked_is_left_alone(box: Box) -> None:
    loaded(box)
    box.set("a", "generate", '400 {"error":"\\"m\\" does not support generate"}')
    box.up()
    wait_for(lambda: any(UNFIT in reason and "does not support generate" in reason for reason in box.reasons()))

    looks(box, 15)

    assert len(questions(box)) == 1
    assert box.changes("a") == ["STARTING", "READY"]


def test_a_model_that_is_loaded_anew_for_the_question_is_left_alone(box: Box) -> None:
    loaded(box)
    box.set("a", "runner-again")
    box.set("a", "slow-s", 0)
    box.up()
    runner = wait_for(lambda: box.runners("a"))[0]
    box.set("a", "kill-runner-on-generate")

    wait_for(lambda: any(UNFIT in reason and "loaded it anew" in reason for reason in box.reasons()))

    assert not alive(runner)
    count = len(questions(box))
    looks(box, 15)
    assert len(questions(box)) == count
    assert box.changes("a") == ["STARTING", "READY"]


def test_a_runner_that_works_when_the_time_is_up_has_not_failed(box: Box) -> None:
    loaded(box, timeout="1s")
    box.set("a", "hang-generate")
    box.up()
    runner = wait_for(lambda: box.runners("a"))[0]
    asked(box)

    os.kill(runner, signal.SIGUSR1)  # a long request of somebody else, which is served first
    wait_for(lambda: "its runner is busy" in ((canary(box) or {}).get("reason") or ""))

    looks(box, 15)
    assert len(questions(box)) == 1, "and while it works it is not asked again"
    assert alive(runner)
    assert box.changes("a") == ["STARTING", "READY"]


def test_a_question_under_way_ends_with_the_instance(box: Box) -> None:
    loaded(box, timeout="1h")
    box.set("a", "hang-generate")
    box.up()
    asked(box)

    box.ask("stop", names=["a"])

    assert box.wait_phase("a", "STOPPED")
    box.ask("start", names=["a"])
    box.wait_phase("a", "READY")
    asked(box, 2)
    assert canary(box) is None
    assert "UNHEALTHY" not in box.changes("a")


def test_a_question_under_way_ends_with_the_supervisor(box: Box) -> None:
    loaded(box, timeout="1h")
    box.set("a", "hang-generate")
    supervisor = box.up()
    asked(box)

    supervisor.signal(signal.SIGTERM)

    assert supervisor.wait() == 0


def test_one_question_at_a_time(box: Box) -> None:
    loaded(box, interval="100ms", timeout="1h")
    box.set("a", "hang-generate")
    box.up()
    asked(box)

    looks(box, 20)

    assert len(questions(box)) == 1


def test_instances_are_asked_at_different_times(box: Box) -> None:
    names = ["a", "b", "c", "d"]
    box.config(*names, canary=CANARY | {"interval": "4s"})
    body = overdue(box, expires_at=KEPT, digest="d")
    for name in names:
        box.set(name, "runners", 1)
        box.set(name, "ps", body)
        box.set(name, "asked", box.root / "asked")
    box.up()

    asked(box, 4)

    moments = times(box)[:4]
    assert moments[3] - moments[0] >= 2.5


def upgraded(box: Box) -> None:
    done = box.ollamux("upgrade")
    assert done.returncode == 0, done.stderr


def test_what_is_left_alone_stays_so_over_an_upgrade(box: Box) -> None:
    loaded(box)
    box.set("a", "generate", '400 {"error":"\\"m\\" does not support generate"}')
    box.up()
    wait_for(lambda: any(UNFIT in reason for reason in box.reasons()))
    before = canary(box)

    upgraded(box)

    looks(box, 15)
    assert len(questions(box)) == 1
    assert canary(box) == before


def test_a_complaint_is_withdrawn_after_an_upgrade_too(box: Box) -> None:
    loaded(box, timeout="500ms")
    box.config("a", health={"unhealthy_timeout": "1h"}, canary=CANARY | {"timeout": "500ms"})
    box.set("a", "runner-again")
    box.set("a", "hang-generate")
    box.up()
    pid = box.instance("a")["pid"]
    wait_for(lambda: box.changes("a")[2:] == ["UNHEALTHY", "READY", "UNHEALTHY"], "a new runner has not mended it")

    upgraded(box)
    box.clear("a", "hang-generate")
    os.kill(box.runners("a")[0], signal.SIGKILL)  # as a person does; the server makes another one

    assert box.wait_phase("a", "READY")["pid"] == pid
    assert len(box.starts("a")) == 1


def test_misses_before_and_after_an_upgrade_count_together(box: Box) -> None:
    loaded(box, timeout="500ms", failures=3, interval="2s")
    box.set("a", "hang-generate")
    box.up()
    wait_for(lambda: any("1 of 3 misses" in reason for reason in box.reasons()))

    upgraded(box)

    wait_for(lambda: "UNHEALTHY" in box.changes("a"), "it is told")
    assert sum("1 of 3 misses" in reason for reason in box.reasons()) == 1
