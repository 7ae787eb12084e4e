"""`ollamux logs` on files alone: order, copies, following across rotations, and what the supervisor has to say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cli_rig import Place, until

from ollamux.system.logfile import rotate


@pytest.fixture
def logged(place: Place) -> Place:
    place.config("a", "b")
    for folder in (place.state, place.logs):
        folder.mkdir(mode=0o700)
    return place


def slog(second: float, text: str) -> str:
    return f'time=2026-01-31T12:00:{second:06.3f}Z level=INFO source=x.go:1 msg="{text}"'


def shown(place: Place, *words: str) -> list[str]:
    lines = place.ok("logs", *words, env={"TZ": "UTC"}).out.splitlines()
    return [line.split("│ ", 1)[0].strip() + ": " + line.split("│ ", 1)[1] for line in lines]


def test_lines_of_instances_are_merged_and_those_without_a_time_stay_behind_theirs(logged: Place) -> None:
    (logged.logs / "a.log").write_text(
        "\n".join(
            [slog(1, "a1"), "llama_load: a1x", "llama_load: a1y", slog(5.9, "a2"), "[GIN] 2026/01/31 - 12:00:05 | a3"]
        )
        + "\n"
    )
    (logged.logs / "b.log").write_text(
        "\n".join(["a runner of earlier", slog(3, "b1"), "srv b1x", "[GIN] 2026/01/31 - 12:00:06 | b2"]) + "\n"
    )
    assert [line.split(" ")[0] + line[-3:].strip('" ') for line in shown(logged)] == [
        *("a:a1", "a:a1x", "a:a1y", "b:ier", "b:b1", "b:b1x", "a:a2", "a:a3", "b:b2"),
    ]


def test_what_was_rotated_is_shown_as_well(logged: Place) -> None:
    log = logged.logs / "a.log"
    for number in range(3):
        with log.open("a") as file:
            file.write("".join(slog(number * 10 + line, f"n{number * 10 + line}") + "\n" for line in range(10)))
        if number < 2:
            rotate(str(log), keep=3)
    found = [line.rsplit('"', 2)[1] for line in shown(logged, "-n", "25")]
    assert found == [f"n{number}" for number in range(5, 30)]


class Following:
    """`ollamux logs -f`, with what it has shown so far."""

    def __init__(self, place: Place, *words: str) -> None:
        self.out = place.root / "followed"
        with self.out.open("w") as out:
            self.process = place.popen("logs", "-f", *words, stdout=out, stderr=subprocess.STDOUT, env={"TZ": "UTC"})

    def lines(self) -> list[str]:
        return [line.split("│ ", 1)[-1] for line in self.out.read_text().splitlines()]

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.out.read_text(), f"{text!r} is shown")

    def end(self) -> list[str]:
        self.process.send_signal(2)
        assert self.process.wait(20) == 0
        return self.lines()


def test_nothing_is_lost_or_doubled_when_a_log_is_rotated_while_it_is_followed(logged: Place) -> None:
    log = logged.logs / "a.log"
    log.write_text("number 0\nhalf a li")
    follower = Following(logged)
    follower.wait_for("number 0")
    assert follower.lines() == ["number 0"], "what is being written is left until it is whole"
    with log.open("a", buffering=1) as file:
        file.write("ne\n")
        for number in range(1, 2001):
            file.write(f"number {number}\n")
            if number % 150 == 0:
                rotate(str(log), keep=100)
    follower.wait_for("number 2000\n")
    assert follower.end() == ["number 0", "half a line", *(f"number {number}" for number in range(1, 2001))]


def test_what_was_lost_is_said(logged: Place) -> None:
    log = logged.logs / "a.log"
    log.write_text("number 0\n")
    follower = Following(logged)
    follower.wait_for("number 0")
    follower.process.send_signal(19)
    with log.open("a", buffering=1) as file:
        for number in range(1, 101):
            file.write(f"number {number}\n")
            if number % 10 == 0:
                rotate(str(log), keep=2)
    follower.process.send_signal(18)
    follower.wait_for("number 100\n")
    first, lost, *rest = follower.end()
    assert first == "number 0"
    assert "may be missing" in lost
    assert rest == [f"number {number}" for number in range(81, 101)]


def test_the_supervisor_is_an_instance_by_name_whose_log_is_its_record(logged: Place) -> None:
    (logged.logs / "a.log").write_text(slog(1, "a1") + "\n" + slog(9, "a2") + "\n")
    (logged.logs / "supervisor.log").write_text("Traceback: something unforeseen\n")
    events = [
        {"seq": 1, "time": "2026-01-31T12:00:00.000Z", "instance": None, "from": None, "to": None, "reason": "hello"},
        {
            "seq": 2,
            "time": "2026-01-31T12:00:05.000Z",
            "instance": "a",
            "from": "STARTING",
            "to": "READY",
            "reason": "ok",
        },
    ]
    (logged.state / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))

    assert not any(line.startswith("supervisor") for line in shown(logged))
    both = shown(logged, "supervisor", "a")
    assert [line.split(":")[0] for line in both] == ["supervisor", "a", "supervisor", "a", "supervisor"]
    assert "hello" in both[0] and "STARTING → READY" in both[2] and "Traceback" in both[4]
    assert len(shown(logged, "supervisor", "-n", "2")) == 2
    assert shown(logged, "supervisor", "--grep", "READY")[0].endswith("ok")
    follower = Following(logged, "supervisor")
    follower.wait_for("Traceback")
    with Path(logged.state / "events.jsonl").open("a") as file:
        file.write(json.dumps({**events[0], "seq": 3, "reason": "and more"}) + "\n")
    follower.wait_for("and more")
    follower.end()


def test_the_record_is_followed_across_its_rotation(logged: Place) -> None:
    path = logged.state / "events.jsonl"

    def event(number: int) -> str:
        return json.dumps({"seq": number, "time": "2026-01-31T12:00:00.000Z", "instance": "a", "reason": "x"}) + "\n"

    path.write_text(event(1))
    out = logged.root / "events"
    with out.open("w") as file:
        process = logged.popen("events", "-f", "-o", "json", stdout=file, stderr=subprocess.STDOUT)
    until(lambda: '"seq": 1}' in out.read_text() or '"seq": 1,' in out.read_text(), "the first")
    for number in range(2, 60):
        with path.open("a") as file:
            file.write(event(number))
        if number == 30:
            path.rename(f"{path}.1")
    until(lambda: '"seq": 59' in out.read_text(), "the last")
    process.send_signal(2)
    assert process.wait(20) == 0
    assert [json.loads(line)["seq"] for line in out.read_text().splitlines()] == list(range(1, 60))
