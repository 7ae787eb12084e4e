"""Every command against a running simulation."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli_rig import Place, is_plain_error, until
from status_schema import EVENT, status_schema

USAGE, NOT_FOUND, DEGRADED, REFUSED, TIMEOUT = 2, 5, 6, 7, 8
FAULTS = (
    *(
        "crash",
        "exit-code",
        "hang-api",
        "hang-scheduler",
        "hang-runner",
        "slow-start",
        "never-ready",
        "ignore-term",
        "orphan-runner",
    ),
    *(
        "cpu-fallback",
        "wrong-gpu",
        "spill",
        "gpu-lost",
        "vram-late",
        "nvml-hang",
        "port-taken",
        "log-flood",
        "disk-full",
    ),
)


def generate(place: Place, name: str, model: str) -> None:
    url = next(one["url"] for one in place.status("--simulated")["instances"] if one["name"] == name)
    body = json.dumps({"model": model, "prompt": "hi", "stream": False}).encode()
    with urllib.request.urlopen(f"{url}/api/generate", body, timeout=30) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def loaded(simulation: Place) -> Place:
    """The simulation with a model loaded on its second card, as the supervisor has seen it."""
    generate(simulation, "gpu1", "llama3.2:3b")
    until(lambda: simulation.status("--simulated")["models"], "the model is seen")
    return simulation


@pytest.mark.parametrize("view", [None, "gpus", "instances", "models", "processes", "topology"])
@pytest.mark.parametrize("flag", [[], ["--simulated"]], ids=["found", "named"])
def test_status_as_json_keeps_its_contract(loaded: Place, view: str | None, flag: list[str]) -> None:
    result = loaded.ok("status", *([view] if view else []), "-o", "json", *flag)
    jsonschema.validate(result.json, status_schema(view))
    if view is None:
        assert result.json["simulated"] is True
        assert [one["pinning"] for one in result.json["instances"]] == ["proven"] * 3
        assert [one["instances"] for one in result.json["gpus"]] == [["gpu0"], ["gpu1"], ["gpu2"]]
        model = result.json["models"][0]
        assert (model["instance"], model["name"]) == ("gpu1", "llama3.2:3b")
        assert 0 < model["size_vram_bytes"] <= model["size_bytes"]
        assert {one["kind"] for one in result.json["processes"]} == {"serve", "runner"}


def test_status_without_a_supervisor_keeps_the_contract_too(place: Place) -> None:
    place.config("a")
    result = place.run("status", "-o", "json")
    assert result.code == 3
    jsonschema.validate(result.json, status_schema())


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
@pytest.mark.parametrize("words", ["", "gpus", "instances", "models", "processes", "topology", "-o wide"])
def test_C30_status_fits_the_screen(loaded: Place, columns: int, words: str) -> None:
    result = loaded.ok("status", "--simulated", *words.split(), env={"COLUMNS": str(columns)})
    lines = result.out.rstrip("\n").split("\n")
    assert "SIMULATED" in lines[0]
    assert max(map(len, lines)) <= columns
    assert "\x1b" not in result.out and result.err == ""


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": None}, {"LC_ALL": "C"}, {"LC_ALL": None, "LANG": "en_US.ISO-8859-1"}, {"LC_ALL": "POSIX"}]
)
def test_C30_another_locale_gets_ascii(loaded: Place, locale: dict[str, str | None]) -> None:
    for words in ("status", "events -n 5", "status models", "logs -n 3", "sim"):
        shown = loaded.ok(*words.split(), env=locale).out
        assert shown.isascii(), (words, shown)
    assert loaded.run("sim", "foo", env=locale).err.isascii()
    json.loads(loaded.ok("status", "-o", "json", env=locale).out)


WRONG = [
    ("restart", USAGE, "gpu0, gpu1, gpu2.*restart --all"),
    ("stop", USAGE, "stop --all"),
    ("start", USAGE, "start --all"),
    ("restart gpu", NOT_FOUND, "did you mean"),
    ("restart nosuch", NOT_FOUND, "there are: gpu0, gpu1, gpu2"),
    ("restart x*", NOT_FOUND, "there are: gpu0"),
    ("stop gpu0 nosuch", NOT_FOUND, "nosuch"),
    ("env nosuch", NOT_FOUND, "there are: gpu0"),
    ("exec nosuch -- true", NOT_FOUND, "there are: gpu0"),
    ("exec gpu0 -- no-such-command", NOT_FOUND, "not on PATH"),
    ("exec gpu0 -- /no/such", NOT_FOUND, "no such file"),
    ("exec gpu0 --", USAGE, "ollamux exec NAME -- ollama list"),
    ("logs nosuch", NOT_FOUND, "no log of 'nosuch'.*gpu0, gpu1, gpu2"),
    ("logs gpu00", NOT_FOUND, "did you mean"),
    ("logs --grep (", USAGE, "no regular expression"),
    ("logs --since yesterday", USAGE, "no time.*10m"),
    ("events nosuch", NOT_FOUND, "no event of 'nosuch'.*gpu0, gpu1, gpu2"),
    ("sim foo", USAGE, "crash, exit-code"),
    ("sim crsh", USAGE, "did you mean crash"),
    ("sim crash gpu9", NOT_FOUND, "there are: gpu0"),
    ("sim gpu-lost 7", NOT_FOUND, "card"),
    ("up --simulate 2", REFUSED, "running already.*down --simulated"),
    ("up --simulate 2 -d", REFUSED, "running already"),
]


@pytest.mark.parametrize(("words", "code", "told"), WRONG, ids=[row[0] for row in WRONG])
def test_C26_C27_wrong_words_change_nothing(simulation: Place, words: str, code: int, told: str) -> None:
    before = generations(simulation)
    result = simulation.run(*words.split())
    assert result.code == code and is_plain_error(result.err), result
    assert re.search(told, result.err, re.DOTALL), result.err
    assert generations(simulation) == before


def generations(place: Place) -> list[int]:
    return [one["generation"] for one in place.status("--simulated")["instances"]]


RESTARTS = [
    ("restart gpu1", [0, 1, 0]),
    ("restart gpu[01] gpu1", [1, 1, 0]),
    ("restart --all", [1, 1, 1]),
    ("restart --all --rolling", [1, 1, 1]),
    ("restart --rolling", [1, 1, 1]),
    ("restart --rolling gpu0", [1, 0, 0]),
    ("restart --rolling --if-unhealthy", [0, 0, 0]),
    ("restart --if-unhealthy", [0, 0, 0]),
    ("restart --if-unhealthy gpu0", [0, 0, 0]),
    ("restart --if-running gpu*", [1, 1, 1]),
    ("restart gpu1 -q", [0, 1, 0]),
    ("restart --if-unhealthy -q", [0, 0, 0]),
]


@pytest.mark.parametrize(("words", "grown"), RESTARTS, ids=[row[0] for row in RESTARTS])
def test_restart_restarts_what_is_named(simulation: Place, words: str, grown: list[int]) -> None:
    before = generations(simulation)
    result = simulation.ok(*words.split())
    after = generations(simulation)
    assert [new - old for old, new in zip(before, after, strict=True)] == grown
    told = [f"gpu{index}  ready at" for index in range(3) if grown[index]] or ["nothing to restart"]
    assert [" ".join(line.split(" ")[:4]) for line in result.out.splitlines()] == ([] if "-q" in words else told)
    assert result.err == ""


def test_an_upgrade_forgets_neither_cards_nor_proofs(simulation: Place) -> None:
    def seen() -> tuple[Any, ...]:
        status = simulation.status("--simulated")
        cards = [(card["uuid"], card["state"], card["instances"]) for card in status["gpus"]]
        instances = [(one["pid"], one["phase"], one["pinning"], one["gpus"]) for one in status["instances"]]
        return status["supervisor"]["pid"], status["supervisor"]["started_at"], cards, instances

    before = seen()
    assert all(pinning == "proven" for _, _, pinning, _ in before[3])
    told = simulation.ok("upgrade", "--simulated").out
    assert re.fullmatch(r"supervisor (\S+) -> \1, pid \d+, \d+ instances untouched\n", told)
    assert seen() == before


def test_stop_and_start(simulation: Place) -> None:
    assert simulation.ok("stop", "gpu1").out == "gpu1  stopped\n"
    found = simulation.run("status", "-o", "json")
    assert found.code == 0  # what is stopped on purpose is not missing
    assert found.json["instances"][1]["phase"] == "STOPPED"
    before = generations(simulation)
    simulation.ok("restart", "--all", "--if-running", "-q")
    assert [new - old for old, new in zip(before, generations(simulation), strict=True)] == [1, 0, 1]
    assert "ready at" in simulation.ok("start", "gpu1").out
    assert "ready at" in simulation.ok("start", "gpu1").out
    assert simulation.run("stop", "--no-wait", "gpu1").out == "gpu1  asked\n"
    simulation.ok("start", "--all", "-q")


def test_a_restart_that_takes_too_long_says_so(simulation: Place) -> None:
    simulation.ok("sim", "never-ready", "gpu2")
    try:
        result = simulation.run("restart", "gpu2", "--timeout", "300ms")
        assert result.code == TIMEOUT and "gpu2  still " in result.err
        assert simulation.run("status").code == DEGRADED
    finally:
        simulation.ok("sim", "clear")
        simulation.ok("restart", "gpu2", "-q")


def test_cpu_fallback_is_degraded_and_one_restart_may_mend_it(simulation: Place) -> None:
    simulation.ok("sim", "cpu-fallback", "gpu0")
    result = simulation.run("restart", "gpu0")
    assert result.code == DEGRADED and "CPU" in result.err
    status = simulation.run("status")
    assert status.code == DEGRADED and "DEGRADED" in status.out
    simulation.ok("sim", "clear")
    simulation.ok("restart", "gpu0", "-q")
    assert simulation.run("status").code == 0


def test_logs_are_merged_prefixed_and_filtered(simulation: Place) -> None:
    every = simulation.ok("logs", "--all", "-n", "1000").out.splitlines()
    assert {line.split(" ")[0] for line in every} == {"gpu0", "gpu1", "gpu2"}
    times = re.findall(r"time=(\S+)", "\n".join(every))
    assert times == sorted(times)

    assert len(simulation.ok("logs", "gpu0", "-n", "2").out.splitlines()) == 2
    assert simulation.ok("logs", "-n", "0").out == ""
    found = simulation.ok("logs", "gpu[12]", "--grep", "Listening on").out
    assert found and all("Listening on" in line and not line.startswith("gpu0") for line in found.splitlines())
    assert simulation.ok("logs", "--since", "2100-01-01").out == ""
    assert simulation.ok("logs", "--since", "1h").out
    probe = 'GET      "/api/version"'
    assert probe not in simulation.ok("logs", "-n", "1000").out


def test_logs_and_events_can_be_followed(simulation: Place) -> None:
    logs, events = simulation.popen("logs", "-f", "-n", "0"), simulation.popen("events", "-f", "-n", "0", "-o", "json")
    try:
        until(lambda: _asleep(logs.pid) and _asleep(events.pid), "both wait for more")
        simulation.ok("restart", "gpu1", "-q")
        assert logs.stdout is not None and logs.stdout.readline().startswith("gpu1")
        assert events.stdout is not None
        event = json.loads(events.stdout.readline())
        jsonschema.validate(event, EVENT)
        assert (event["instance"], event["to"]) == ("gpu1", "STOPPING")
    finally:
        for one in (logs, events):
            one.send_signal(2)
        assert [one.communicate(timeout=20)[1] for one in (logs, events)] == ["", ""]
    assert [logs.returncode, events.returncode] == [0, 0]


def _asleep(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan") as file:
        return "nanosleep" in file.read()


def test_events_tell_every_change(simulation: Place) -> None:
    lines = simulation.ok("events", "gpu0", "-o", "json", "-n", "1000").out.splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        jsonschema.validate(event, EVENT)
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    assert {event["instance"] for event in events} == {"gpu0"}
    shown = simulation.ok("events", "-n", "3").out.splitlines()
    assert len(shown) == 3 and all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S", line) for line in shown)


def test_env_is_exact(simulation: Place) -> None:
    lines = simulation.ok("env", "gpu1").out.splitlines()
    env = dict(line.split("=", 1) for line in lines)
    instance = simulation.status("--simulated")["instances"][1]
    assert env["CUDA_VISIBLE_DEVICES"] == instance["gpus"][0]
    assert env["OLLAMA_HOST"] == f"127.0.0.1:{instance['port']}"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert lines == sorted(lines)
    entries = Path(f"/proc/{instance['pid']}/environ").read_text().split("\0")
    running = dict(entry.split("=", 1) for entry in entries if entry)
    assert {name: running.get(name) for name in env} == env


@pytest.mark.parametrize("dashes", [["--"], []], ids=["with --", "without"])
def test_exec_becomes_the_command(simulation: Place, dashes: list[str]) -> None:
    url = simulation.status("--simulated")["instances"][2]["url"]
    result = simulation.run("exec", "gpu2", *dashes, "sh", "-c", "echo $OLLAMA_HOST; exit 17")
    assert (result.code, result.out) == (17, f"{url}\n")
    assert "llama3.2:3b" in simulation.ok("exec", "gpu2", *dashes, "ollama", "list").out


def test_sim_lists_the_faults_and_what_is_active(simulation: Place) -> None:
    result = simulation.ok("sim")
    assert [line.split()[0] for line in result.out.splitlines()[: len(FAULTS) + 1]] == [*FAULTS, "clear"]
    assert result.out.endswith("no fault is active\n")


def test_every_fault_can_be_made(place: Place) -> None:
    place.simulate(2, "-q")
    for fault in FAULTS:
        assert fault in place.ok("sim", fault).out
    active = place.ok("sim").out.partition("\n\n")[2]
    assert "hang-api on gpu0" in active and "nvml-hang on everything" in active
    assert place.ok("sim", "clear").out == "all faults are cleared\n"
    assert place.ok("sim").out.endswith("no fault is active\n")


def test_a_simulation_of_n_cards_needs_nothing_and_ends_without_a_trace(place: Place) -> None:
    first = place.ok("up", "--simulate", "2", "-d")
    assert "SIMULATED: 2 of 2 instances READY" in first.out
    assert place.run("up", "--simulate", "2", "--ensure", "-q") == (0, "", "")
    assert place.status("--simulated")["host"]["gpus_source"] == "simulated"
    assert place.ok("down").out == "stopped 2 instances and the supervisor\n"
    assert place.run("status", "--simulated").code == 3
    assert not place.pids()


def facts(place: Place) -> Any:
    return place.status("--simulated")["instances"]


def test_one_instance_needs_no_name(place: Place) -> None:
    place.simulate(1, "-q")
    assert place.ok("restart").out.startswith("gpu0  ready at ")
    assert facts(place)[0]["generation"] == 2
    assert place.ok("stop").out == "gpu0  stopped\n"
    place.ok("start", "-q")
