"""`ollamux bench` on a simulation: what it shows is what the cards were told to do, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli_rig import Place, Result, is_plain_error, on_terminal, until
from status_schema import FLAG, NUMBER, TIME, UUID, WHOLE, nullable, one_of, some, thing

from ollamux.cli.volley import exchange
from ollamux.gpu.simulated import read_cards
from ollamux.simulation.catalogue import CATALOGUE, gguf_of
from ollamux.simulation.memory import Wish, card_facts, plan, tokens_per_second
from tests.ports import free_ports

MODEL = "qwen3:8b"
TOKENS = 24
QUICK = ("--tokens", str(TOKENS), "--prompt-tokens", "100")
IDLE, BUSY = 0.06, 0.06 + 0.04 + 0.0082 * 90
"""How much of its limit a simulated card draws."""

TEXT = {"type": "string"}
REQUEST = thing(
    instance=TEXT,
    number=WHOLE,
    sent_s=NUMBER,
    first_token_s=nullable(NUMBER),
    ended_s=NUMBER,
    prompt_tokens=nullable(WHOLE),
    prompt_s=nullable(NUMBER),
    tokens=nullable(WHOLE),
    generation_s=nullable(NUMBER),
    load_s=nullable(NUMBER),
    done_reason=nullable(TEXT),
    error=nullable(TEXT),
)
CARD = thing(uuid=UUID, joules=nullable(NUMBER), seconds=nullable(NUMBER), source=nullable(one_of("counter", "power")))
STEP = thing(
    round=WHOLE,
    instances=some(TEXT),
    concurrency=WHOLE,
    requests=some(REQUEST),
    cards=some(CARD),
    cut=FLAG,
    joules=nullable(NUMBER),
)
FIGURE = nullable(thing(value=NUMBER, least=NUMBER, most=NUMBER, rounds=WHOLE))
ROW = thing(
    instances=some(TEXT),
    concurrency=WHOLE,
    requests=WHOLE,
    failed=WHOLE,
    first_error=nullable(TEXT),
    stopped_early=WHOLE,
    first_token_s=FIGURE,
    first_token_tail_s=FIGURE,
    prompt_each=FIGURE,
    prompt_all=FIGURE,
    each=FIGURE,
    total=FIGURE,
    joules_per_token=FIGURE,
    scaling=FIGURE,
    queued=some(TEXT),
)
ANY: dict[str, Any] = {}
COMPARISON = thing(
    time=TIME,
    state=one_of("complete", "partial"),
    setup=some(thing(where=TEXT, what=TEXT, before=ANY, now=ANY)),
    figures=some(
        thing(
            instances=some(TEXT),
            concurrency=WHOLE,
            figure=one_of("first_token_s", "prompt_each", "each", "total", "joules_per_token"),
            before=NUMBER,
            now=NUMBER,
            percent=NUMBER,
            verdict=one_of("better", "worse", "within the spread", "too few rounds", "other question"),
        )
    ),
)
BENCH = thing(
    schema=one_of("ollamux.bench/1"),
    version=TEXT,
    time=TIME,
    simulated=FLAG,
    model=TEXT,
    asked=thing(prompt_tokens=WHOLE, tokens=WHOLE, concurrency=some(WHOLE), rounds=WHOLE, timeout_s=NUMBER, seed=WHOLE),
    host=TEXT,
    driver=nullable(TEXT),
    cuda=nullable(TEXT),
    cards=some(
        thing(
            uuid=UUID,
            index=nullable(WHOLE),
            name=TEXT,
            memory_total_bytes=nullable(WHOLE),
            power_limit_w=nullable(NUMBER),
            instances=some(TEXT),
        )
    ),
    instances=some(
        thing(
            name=TEXT,
            url=TEXT,
            ollama_version=nullable(TEXT),
            gpus=some(UUID),
            digest=nullable(TEXT),
            context_length=nullable(WHOLE),
            slots=nullable(WHOLE),
            size_bytes=nullable(WHOLE),
            size_vram_bytes=nullable(WHOLE),
            load_s=nullable(NUMBER),
            options={"type": "object"},
            error=nullable(TEXT),
        )
    ),
    steps=some(STEP),
    state=one_of("complete", "partial"),
    reason=nullable(TEXT),
    notes=some(TEXT),
    summary=some(ROW),
    comparison=nullable(COMPARISON),
)


@pytest.fixture(scope="module")
def box(shared_place: Place) -> Place:
    """Two cards, of which two instances share the second; one more that computes on the CPU."""
    ports = free_ports(4)
    path = shared_place.root / "box.toml"
    lines = ["version = 1", "[defaults.health]", 'interval = "300ms"']
    for name, gpus, port in zip(("one", "two", "same", "cpu"), ("[0]", "[1]", "[1]", "[]"), ports, strict=True):
        lines += [f"[instances.{name}]", f"gpus = {gpus}", f"port = {port}", "num_parallel = 2"]
        lines += ["share_gpu = true"] if gpus == "[1]" else []
    path.write_text("\n".join(lines) + "\n")
    shared_place.ok("up", "--simulate", "2", "--config", str(path), "-d")
    return shared_place


def bench(place: Place, *words: str, code: int = 0) -> Any:
    result = place.run("bench", *words, "-o", "json", "--simulated", seconds=100)
    assert result.code == code, result
    jsonschema.validate(result.json, BENCH)
    return result.json


def loaded(place: Place) -> set[tuple[str, str]]:
    """Return what the servers say is loaded, by instance."""
    view = place.status("--simulated")
    return {(model["instance"], model["name"]) for model in view["models"]}


def told_rate(place: Place, card: int) -> float:
    """Return the tokens a second that the simulation computes for a model on a card."""
    head, gpu = gguf_of(CATALOGUE[MODEL]), read_cards(place.state / "simulated" / "box")[card]
    placed = plan(head, Wish(context=4096, parallel=2), [("CUDA0", gpu.memory_total_bytes or 0)])
    return tokens_per_second(head, placed, [card_facts(gpu)[1]])


def row_of(run: Any, *instances: str, at_once: int = 1) -> Any:
    return next(row for row in run["summary"] if (row["instances"], row["concurrency"]) == ([*instances], at_once))


def test_what_it_shows_is_what_the_cards_were_told(box: Place) -> None:
    run = bench(box, MODEL, "--instances", "one,two", "-c", "1,2,4", "--repeat", "1", *QUICK)

    for name, card in (("one", 0), ("two", 1)):
        rate, single = told_rate(box, card), row_of(run, name)
        assert 0.93 * rate < single["each"]["value"] <= 1.02 * rate
        assert 0.9 * 25 * rate < single["prompt_each"]["value"] <= 1.02 * 25 * rate
        assert 0.93 * rate / 2 < row_of(run, name, at_once=2)["each"]["value"] < 1.05 * rate / 2, "they share it"
        assert 0.9 < row_of(run, name, at_once=2)["total"]["value"] / single["total"]["value"] < 1.1
        waiting = row_of(run, name, at_once=4)
        assert waiting["queued"] == [name] and row_of(run, name, at_once=2)["queued"] == []
        assert waiting["first_token_tail_s"]["value"] > 1.5 * row_of(run, name, at_once=2)["first_token_s"]["value"]
    assert 0.9 < row_of(run, "one", "two")["scaling"]["value"] < 1.1, "cards of their own do not slow each other"
    requests = [request for step in run["steps"] for request in step["requests"]]
    assert {request["tokens"] for request in requests} == {TOKENS} and all(r["error"] is None for r in requests)
    assert {request["prompt_tokens"] for request in requests} <= set(range(95, 106)), (
        "what was asked for, template or not"
    )
    assert [one["load_s"] is not None for one in run["instances"]] == [True, True]
    assert (run["driver"], run["notes"][0][:13]) == ("580.95.05", "GPU 1 is also")
    until(lambda: not loaded(box), "what was loaded for it is unloaded")


def test_energy_is_that_of_the_cards_each_counted_once_and_none_of_the_cpu(box: Place) -> None:
    words = ("--repeat", "1", "-c", "1", "--tokens", "8", "--prompt-tokens", "50")
    run = bench(box, MODEL, "-i", "two,same,cpu", *words)
    limit = run["cards"][0]["power_limit_w"]
    assert [card["instances"] for card in run["cards"]] == [["two", "same"]]
    for step in run["steps"]:
        if step["instances"] == ["cpu"]:
            assert step["cards"] == [] and step["joules"] is None
            continue
        (card,) = step["cards"]
        busy_s = max(request["ended_s"] for request in step["requests"] if request["instance"] != "cpu")
        assert card["source"] == "counter" and step["joules"] == card["joules"]
        assert BUSY * limit * busy_s * 0.9 < card["joules"] < (BUSY + 0.06) * limit * card["seconds"] * 1.02
    assert row_of(run, "cpu")["joules_per_token"] is None
    assert 0.4 < row_of(run, "two", "same")["scaling"]["value"] < 0.7, "they share the card"
    assert any("GPU 1 is shared by two, same" in note for note in run["notes"])


def test_a_run_is_kept_for_its_owner_alone_and_the_next_stands_beside_it(box: Place) -> None:
    box.ok("models", "load", MODEL, "--on", "one", "--keep-alive", "2h", "--simulated")
    file = box.work / "run.json"
    first = bench(box, "--save", str(file), *QUICK)
    assert first["model"] == MODEL and [one["name"] for one in first["instances"]] == ["one"]
    assert first["asked"]["concurrency"] == [1, 2], "as many as there are slots"
    kept = sorted((box.state / "simulated" / "bench").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in [*kept, file]} == {0o600}
    assert json.loads(kept[-1].read_text()) == json.loads(file.read_text()) == {**first, "comparison": None}

    other = bench(box, "--compare", "last", *QUICK)
    assert other["comparison"]["setup"] == [] and other["comparison"]["time"] == first["time"]
    verdicts = {one["verdict"] for one in other["comparison"]["figures"]}
    assert verdicts <= {"within the spread", "better", "worse"} and len(other["comparison"]["figures"]) == 10
    shorter = bench(box, "--compare", str(file), "--tokens", "8", "--repeat", "1", "--prompt-tokens", "100")
    assert {one["verdict"] for one in shorter["comparison"]["figures"]} == {"other question"}
    assert [one["what"] for one in shorter["comparison"]["setup"]] == ["tokens"]
    assert ("one", MODEL) in loaded(box), "it was loaded before"
    box.ok("models", "unload", MODEL, "--simulated")


def test_only_so_many_runs_are_kept(box: Place) -> None:
    folder = box.state / "simulated" / "bench"
    for number in range(60):
        (folder / f"2020-01-01T0000{number:02}.000Z-1.json").write_text("{}")
    run = bench(box, MODEL, "-i", "one", "--repeat", "1", "-c", "1", "--tokens", "2", "--prompt-tokens", "20")
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 50 and names[-1].startswith(run["time"].replace(":", ""))


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_tables_fit_the_screen_and_nothing_else_is_in_a_pipe(box: Place, columns: int) -> None:
    words = ("bench", MODEL, "-i", "one,two", "-c", "1,4", "--repeat", "1", "--tokens", "2", "--prompt-tokens", "20")
    result = box.ok(*words, "--compare", "last", "--simulated", env={"COLUMNS": str(columns)}, seconds=60)
    assert result.err == "" and "\x1b" not in result.out and "\r" not in result.out
    assert all(len(line) <= columns for line in result.out.splitlines()), result.out
    for said in (
        "SIMULATED",
        "First ms",
        "All t/s",
        "Scaling %",
        "4 q",
        "2: one, two",
        "others wait",
        "Beside the run",
    ):
        assert said in result.out, (said, result.out)
    assert bool(re.search("First ms.*J/token", result.out)) is (columns >= 80), "what matters least goes first"


def test_a_screen_without_colour_and_unicode(box: Place) -> None:
    env = {"COLUMNS": "60", "LC_ALL": "C", "NO_COLOR": "1"}
    words = ("bench", MODEL, "-i", "one", "-c", "1", "--repeat", "1", "--tokens", "2", "--prompt-tokens", "20")
    plain = box.ok(*words, "--simulated", env=env, seconds=60)
    assert plain.out.isascii() and all(len(line) <= 60 for line in plain.out.splitlines())


def test_progress_is_shown_on_a_terminal_and_taken_away(box: Place) -> None:
    words = ("bench", MODEL, "-i", "one", "--repeat", "1", "-c", "1", *QUICK, "--simulated")
    with on_terminal(box, *words, columns=100) as terminal:
        terminal.wait_for(f"{MODEL} is being loaded on one")
        terminal.wait_for("1 of 1  round 1: one, 1 at once")
        assert terminal.end() == 0
        assert "\r\x1b[K" in terminal.raw and "saved as" in terminal.text


def test_ctrl_c_shows_what_was_measured_and_lets_the_model_go(box: Place) -> None:
    words = ("bench", MODEL, "-i", "two", "--repeat", "90", "-c", "1", *QUICK, "--simulated")
    with on_terminal(box, *words, columns=100) as terminal:
        terminal.wait_for("3 of 90")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "PARTIAL: interrupted" in terminal.text and re.search(r"two +1 +\d", terminal.text), terminal.text
    until(lambda: not loaded(box), "it is unloaded")
    kept = sorted((box.state / "simulated" / "bench").iterdir())
    assert all('"partial"' not in path.read_text() for path in kept), "what is partial is no measure for others"


def test_sigterm_before_anything_was_measured_gives_the_load_up(box: Place) -> None:
    process = box.popen("bench", MODEL, "-i", "cpu", "-o", "json", "--simulated")
    until(lambda: "(loading)" in box.run("models", "ls", "--simulated").out, "it is being loaded")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and json.loads(out)["steps"] == []
    until(lambda: "(loading)" not in box.run("models", "ls", "--simulated").out, "nothing is loading")
    until(lambda: not loaded(box), "nothing is loaded")


def test_an_instance_that_dies_in_the_middle_is_told_and_the_others_go_on(box: Place) -> None:
    process = box.popen(
        "bench", MODEL, "-i", "one,two", "--repeat", "3", "-c", "1", *QUICK, "-o", "json", "--simulated"
    )
    until(lambda: len(loaded(box)) == 2, "both are loaded")
    until(lambda: b"/api/generate" in (box.logs / "simulated" / "two.log").read_bytes()[-2000:], "it was asked")
    pid = next(one["pid"] for one in box.status("--simulated")["instances"] if one["name"] == "two")
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    run = json.loads(out)
    jsonschema.validate(run, BENCH)
    assert process.returncode == 6 and "Traceback" not in err
    errors = {one["name"]: one["error"] for one in run["instances"]}
    assert errors["one"] is None and errors["two"] is not None
    assert [row["failed"] for row in run["summary"] if row["instances"] == ["one"]] == [0]
    assert row_of(run, "one")["each"]["rounds"] == 3
    until(lambda: box.run("status", "--simulated").code == 0, "all is well again")
    until(lambda: not loaded(box), "it is unloaded")


def test_one_that_hangs_is_left_out_after_its_time(box: Place) -> None:
    box.ok("models", "load", MODEL, "--on", "two", "--simulated")
    box.ok("sim", "hang-runner", "two", "--simulated")
    result = box.run("bench", MODEL, "-i", "one,two", "--repeat", "1", "--timeout", "3s", *QUICK, "--simulated")
    assert result.code == 6 and "left out: no answer within 3 s" in result.out, result
    assert re.search(r"^ one +1 ", result.out, re.MULTILINE), result.out
    box.ok("sim", "clear", "--simulated")
    box.ok("restart", "two", "--simulated")
    until(lambda: not loaded(box), "nothing is loaded")


def test_a_supervisor_that_dies_takes_no_figure_with_it(box: Place) -> None:
    words = ("bench", MODEL, "-i", "one", "--repeat", "3", "-c", "1", *QUICK, "-o", "json", "--simulated")
    process = box.popen(*words)
    until(lambda: ("one", MODEL) in loaded(box), "it is loaded")
    port = box.status("--simulated")["instances"][0]["port"]
    os.kill(box.status("--simulated")["supervisor"]["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and row_of(json.loads(out), "one")["each"]["rounds"] == 3, err
    until(lambda: exchange(f"http://127.0.0.1:{port}", "GET", "/api/ps", timeout_s=5)[1] == b'{"models":[]}', "let go")
    box.ok("up", "--simulate", "2", "--config", str(box.root / "box.toml"), "-d", seconds=60)


REFUSED = (
    (("nope:7b", "-i", "one"), 5, "ollamux pull nope:7b fetches it"),
    (("nomic-embed-text", "-i", "one"), 7, "only embeds"),
    (("no pe", "-i", "one"), 2, "is not the name of a model"),
    (("-i", "thr*"), 5, "there is no instance 'thr*'"),
    ((), 2, "no model is loaded"),
    ((MODEL, "-i", "one", "-c", "1,x"), 2, "--concurrency: 'x'"),
    ((MODEL, "-i", "one", "-c", "0"), 2, "--concurrency: '0'"),
    ((MODEL, "-i", "one", "--tokens", "0"), 2, "--tokens: 0"),
    ((MODEL, "-i", "one", "--timeout", "soon"), 2, "--timeout: 'soon'"),
    ((MODEL, "-i", "one", "-o", "yaml"), 2, "there is no form 'yaml'"),
    ((MODEL, "-i", "one", "--save", "/nowhere/x"), 2, "--save: /nowhere/x"),
    ((MODEL, "-i", "one", "--compare", "/nowhere/x"), 5, "No such file"),
    ((MODEL, "-i", "one", "--compare", "/etc/hostname"), 2, "no run of ollamux bench"),
    (("llama3.2:3b", "-i", "one", "--compare", "last"), 5, "no run of llama3.2:3b is kept"),
    ((MODEL, "-i", "one", "--prompt-tokens", "40000"), 2, "do not fit its context"),
    ((MODEL, MODEL), 2, "unexpected extra argument"),
)


@pytest.mark.parametrize(("words", "code", "said"), REFUSED)
def test_what_cannot_be_measured_is_told_with_the_way_out(
    box: Place, words: tuple[str, ...], code: int, said: str
) -> None:
    result: Result = box.run("bench", *words, "--simulated")
    assert result.code == code and said in result.err and result.out == "", result
    assert is_plain_error(result.err), result.err
    until(lambda: not loaded(box), "nothing stays loaded")


def test_a_model_that_is_nowhere_is_told_as_that_however_busy_the_instances_are(box: Place) -> None:
    names = ("one", "two", "same", "cpu")
    for name in names:
        box.ok("models", "load", "llama3.2:3b", "--on", name, "--simulated")
    until(lambda: len(loaded(box)) == len(names), "all of them have a model")
    missing, elsewhere = box.run("bench", "nope:7b", "--simulated"), box.run("bench", MODEL, "--simulated")
    assert missing.code == 5 and "ollamux pull nope:7b fetches it" in missing.err
    assert elsewhere.code == 2 and "every instance has another model" in elsewhere.err
    box.ok("models", "unload", "llama3.2:3b", "--simulated")
    until(lambda: not loaded(box), "nothing stays loaded")


def test_without_a_supervisor_there_is_nothing_to_measure(place: Place) -> None:
    result = place.run("bench", MODEL)
    assert result.code == 3 and is_plain_error(result.err)


def test_nothing_of_it_is_left(box: Place) -> None:
    assert not any("ollamux.gpu.helper" in words and "--box" in words for words in _ours(box)), "no helper of its own"


def _ours(box: Place) -> list[str]:
    supervisor = box.status("--simulated")["supervisor"]["pid"]
    found = box.pids()
    return [words for pid, words in found.items() if _parent(pid) != supervisor]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
