"""`ollamux tune` on simulated cards, where the answer is known from the arithmetic of the simulation itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli_rig import Place, is_plain_error, on_terminal, until
from status_schema import FLAG, TIME, UUID, WHOLE, nullable, one_of, some, thing

from ollamux.ollama.store import find_manifest
from ollamux.simulation import gguf
from ollamux.simulation.box import default_cards
from ollamux.simulation.memory import CONTEXT_BYTES, MIB, Wish, plan, usable_bytes

TEXT, NUMBER = {"type": "string"}, {"type": "number", "minimum": 0}
ASKED = thing(prompt_tokens=WHOLE, prompt_s=nullable(NUMBER), tokens=WHOLE, generation_s=nullable(NUMBER))
OUTCOME = one_of("works", "out-of-memory", "spilled", "headroom", "failed", "timed-out")
STEP = thing(
    value=WHOLE,
    outcome=OUTCOME,
    reason=nullable(TEXT),
    verifies=FLAG,
    layers_offloaded=nullable(WHOLE),
    layers_total=nullable(WHOLE),
    card_buffers_bytes=nullable(WHOLE),
    host_buffers_bytes=nullable(WHOLE),
    memory_used_bytes=nullable(WHOLE),
    memory_free_bytes=nullable(WHOLE),
    load_s=nullable(NUMBER),
    seconds=NUMBER,
    requests=some(ASKED),
    prompt_tokens_per_s=nullable(NUMBER),
    tokens_per_s=nullable(NUMBER),
)
TUNE = thing(
    schema=one_of("ollamux.tune/1"),
    version=TEXT,
    time=TIME,
    simulated=FLAG,
    model=TEXT,
    digest=nullable(TEXT),
    instance=TEXT,
    ollama_version=nullable(TEXT),
    maximise=one_of("layers", "ctx", "parallel"),
    least=WHOLE,
    most=WHOLE,
    estimate=thing(value=WHOLE, source=one_of("metadata", "bound")),
    trained_context_length=nullable(WHOLE),
    context_length=nullable(WHOLE),
    parallel=nullable(WHOLE),
    kv_type=one_of("f16", "q8_0", "q4_0"),
    headroom_bytes=nullable(WHOLE),
    cards=some(thing(uuid=UUID, name=TEXT, total_bytes=WHOLE, used_bytes=WHOLE)),
    loads=WHOLE,
    steps=some(STEP),
    result=nullable(WHOLE),
    largest_so_far=nullable(WHOLE),
    obstacle=nullable(OUTCOME),
    complete=FLAG,
    reason=nullable(TEXT),
    modelfile=nullable(TEXT),
    created=nullable(TEXT),
    restored=some(TEXT),
    not_restored=some(TEXT),
    seconds=NUMBER,
)
SMALL = default_cards(2)[1]  # 12 GiB
MARGIN = 1024 * MIB


@pytest.fixture(scope="module")
def box(shared_place: Place) -> Iterator[Place]:
    shared_place.env["OLLAMUX_SIMULATION_SPEED"] = "10"
    shared_place.simulate(2)
    yield shared_place


@pytest.fixture
def slow_box(place: Place) -> Place:
    """Return two cards of its own, since what a test does to them is not to be seen by another."""
    place.simulate(2)
    return place


def tuned(place: Place, *words: str, code: int = 0) -> dict[str, Any]:
    result = place.run("tune", *words, "--simulated", "-o", "json", seconds=120)
    assert result.code == code, result
    jsonschema.validate(result.json, TUNE)
    return dict(result.json)


def head_of(place: Place, model: str) -> Any:
    manifest = find_manifest(place.state / "simulated" / "models", model)
    assert manifest is not None and manifest.blob is not None
    return gguf.read(place.state / "simulated" / "models" / "blobs" / manifest.blob)


def truth(place: Place, model: str, values: list[int], wish: Callable[[int], Wish], *, layers: int | None) -> int:
    """Return the largest value that works, by trying all of them in the simulation's own arithmetic."""
    head = head_of(place, model)

    def works(value: int) -> bool:
        placed = plan(head, wish(value), [("CUDA0", usable_bytes(SMALL))])
        wanted = placed.layers if layers is None else value
        used = sum(share.total for share in placed.devices) + CONTEXT_BYTES
        free = (SMALL.memory_total_bytes or 0) - used
        return placed.overfull is None and placed.offloaded >= wanted and free >= MARGIN

    return max(value for value in values if works(value))


def batch(places: int) -> int:
    """Return how much is read at once with so many places of context, those of all slots."""
    return 512 if places <= 4096 else 1024 if places <= 32768 else 2048


def test_ctx_finds_the_largest_context_that_does_not_spill(box: Place) -> None:
    values = list(range(256, 40960 + 1, 256))
    right = truth(box, "qwen3:8b", values, lambda n: Wish(context=n, batch=batch(n)), layers=None)

    found = tuned(box, "qwen3:8b", "--on", "gpu1", "--maximise", "ctx")

    assert found["result"] == right and found["complete"], found["steps"]
    assert found["loads"] == len(found["steps"]) <= 6
    assert f"PARAMETER num_ctx {right}\n" in found["modelfile"]
    best = next(step for step in found["steps"] if step["value"] == right)
    assert best["requests"][0]["prompt_tokens"] > right * 0.98 and best["tokens_per_s"] > 0
    assert found["obstacle"] == "spilled"


@pytest.mark.parametrize("context", (40960, 262144))
def test_layers_finds_the_most_that_load_and_keep_the_headroom(box: Place, context: int) -> None:
    model = "qwen3:8b" if context == 40960 else "llama3.2:3b"
    kept = min(context, 131072)
    wish = lambda n: Wish(context=kept, batch=batch(kept), layers=n)  # noqa: E731 - the shape of the question
    total = plan(head_of(box, model), wish(1), []).layers
    right = truth(box, model, list(range(1, total + 1)), wish, layers=0)

    found = tuned(box, model, "--on", "gpu1", "--maximise", "layers", "--ctx", str(context))

    assert found["result"] == right < total, found["steps"]
    assert found["loads"] <= 6
    assert found["context_length"] == kept
    assert f"PARAMETER num_gpu {right}\n" in found["modelfile"]


def test_parallel_finds_the_most_slots_and_says_where_they_are_set(box: Place) -> None:
    wish = lambda n: Wish(context=8192, parallel=n, batch=batch(8192 * n))  # noqa: E731 - the shape of the question
    right = truth(box, "llama3.2:3b", list(range(1, 65)), wish, layers=None)

    found = tuned(box, "llama3.2:3b", "--on", "gpu1", "--maximise", "parallel")

    assert found["result"] == found["parallel"] == right, found["steps"]
    assert found["loads"] <= 6 and found["modelfile"] is None
    best = next(step for step in found["steps"] if step["value"] == right)
    assert len(best["requests"]) == right, "all slots were filled at once"
    assert all(one["prompt_tokens"] > 8192 * 0.98 for one in best["requests"])


def test_where_everything_works_one_load_is_enough(box: Place) -> None:
    found = tuned(box, "llama3.2:3b", "--on", "gpu1", "--ctx", "2048")

    assert (found["maximise"], found["result"], found["loads"]) == ("ctx", 2048, 1)
    assert found["obstacle"] is None


def test_where_nothing_works_it_says_so(place: Place) -> None:
    place.simulate(2)
    config = place.root / "cards.toml"
    config.write_text(
        config.read_text().replace("[defaults.health]", '[defaults]\nheadroom = "11900MiB"\n[defaults.health]')
    )
    place.ok("down", "--simulated")
    place.ok("up", "--simulate", "2", "--config", str(config), "-d")

    found = tuned(place, "llama3.2:3b", "--on", "gpu1", "--maximise", "ctx", code=6)

    assert found["result"] is None and found["complete"] and found["modelfile"] is None
    result = place.run("tune", "llama3.2:3b", "--on", "gpu1", "--maximise", "layers", "--simulated")
    assert result.code == 6 and "Nothing works: not even num_gpu 1" in result.out, result


def test_what_is_created_is_loaded_and_asked_as_it_is(box: Place) -> None:
    found = tuned(box, "llama3.2:3b", "--on", "gpu1", "--maximise", "layers", "--ctx", "100000", "--create", "fits")

    last = found["steps"][-1]
    assert found["created"] == "fits" and last["verifies"] and last["outcome"] == "works"
    assert last["layers_offloaded"] == found["result"]
    assert last["requests"][0]["prompt_tokens"] > 98000
    refused = box.run("tune", "llama3.2:3b", "--on", "gpu1", "--create", "fits", "--simulated")
    assert refused.code == 7 and "there is a model fits already" in refused.err and is_plain_error(refused.err)
    again = tuned(box, "llama3.2:3b", "--on", "gpu1", "--ctx", "512", "--create", "fits", "--force")
    assert again["steps"][-1]["value"] == 512 and again["created"] == "fits"


def test_the_modelfile_goes_where_it_is_wanted(box: Place) -> None:
    words = ("tune", "llama3.2:3b", "--on", "gpu1", "--ctx", "512", "--simulated")
    alone = box.ok(*words, "--modelfile", "-").out
    assert alone.splitlines()[-2:] == ["FROM llama3.2:3b", "PARAMETER num_ctx 512"]
    assert all(line.startswith("#") for line in alone.splitlines()[:-2])

    path = box.work / "Modelfile"
    table = box.ok(*words, "--modelfile", str(path)).out
    assert path.read_text().splitlines()[-2:] == ["FROM llama3.2:3b", "PARAMETER num_ctx 512"]
    assert "FROM" not in table and "num_ctx 512 is the largest that works (1 load" in table
    nowhere = box.ok(*words, "--modelfile", "/nowhere/Modelfile")
    assert "could not be written" in nowhere.err and "FROM llama3.2:3b" in nowhere.out


WRONG = (
    (("qwen3:8b",), 2, "--on: no instance is named"),
    (("nope", "--on", "gpu1"), 5, "there is no model"),
    (("qwen3:8b", "--on", "gpu9"), 5, "there is no instance 'gpu9'"),
    (("qwen3:8b", "--on", "gpu1", "--maximise", "vram"), 2, "there are: layers, ctx, parallel"),
    (("nomic-embed-text", "--on", "gpu1"), 7, "only embeds"),
    (("qwen3:8b", "--on", "gpu1", "--maximise", "parallel", "--create", "x"), 2, "no parameter of a model"),
    (("qwen3:8b", "--on", "gpu1", "--ctx", "100"), 2, "less than 256"),
    (("qwen3:8b", "--on", "gpu1", "--timeout", "soon"), 2, "is no duration"),
    (("qwen3:8b", "--on", "gpu1", "--force"), 2, "--force goes with --create"),
    (("qwen3:8b", "--on", "gpu1", "--modelfile", "-", "-o", "json"), 2, "would both be printed"),
    (("a b", "--on", "gpu1"), 2, "is not the name of a model"),
)


def test_wrong_words_are_told_before_anything_is_unloaded(box: Place) -> None:
    before = events(box)
    for words, code, told in WRONG:
        result = box.run("tune", *words, "--simulated")
        assert result.code == code and told in result.err and is_plain_error(result.err), (words, result)
    assert events(box) == before


def test_nothing_but_the_result_is_in_a_pipe_and_it_fits_a_narrow_screen(box: Place) -> None:
    words = ("tune", "llama3.2:3b", "--on", "gpu1", "--maximise", "layers", "--ctx", "100000", "--simulated")
    for columns, locale in (("60", "C"), ("60", "C.UTF-8"), ("200", "C.UTF-8")):
        result = box.ok(*words, env={"COLUMNS": columns, "LC_ALL": locale})
        picture = result.out.partition("\n# ollamux tune")[0]
        assert "\x1b" not in result.out and not result.err
        assert max(map(len, picture.splitlines())) <= int(columns), picture
        assert result.out.isascii() == (locale == "C")


# -- what was loaded comes back


def events(place: Place) -> list[dict[str, Any]]:
    out = place.ok("events", "-o", "json", "--simulated").out
    return [json.loads(line) for line in out.splitlines()]


def loaded(place: Place, name: str) -> dict[str, Any]:
    instance = next(one for one in place.status("--simulated")["instances"] if one["name"] == name)
    return {model["name"]: (model["context_length"], model["expires_at"]) for model in instance["models"]}


def tried(place: Place) -> list[int]:
    """Return the processes of what is tried, by their mark."""
    found = []
    for pid in place.pids():
        with contextlib.suppress(OSError):
            if b"~tune\0" in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    return found


def with_models(place: Place) -> None:
    place.ok("models", "pin", "qwen3:8b", "--on", "gpu1", "--ctx", "4096", "--simulated")
    place.ok("models", "load", "llama3.2:3b", "--on", "gpu1", "--ctx", "2048", "--keep-alive", "2h", "--simulated")
    until(lambda: len(loaded(place, "gpu1")) == 2, "both are loaded")


def is_whole(place: Place) -> bool:
    """Whether everything is loaded as `with_models` has loaded it."""
    now = loaded(place, "gpu1")
    kept, other = now.get("qwen3:8b"), now.get("llama3.2:3b")
    return kept == (4096, None) and other is not None and other[0] == 2048 and other[1] is not None


def in_the_middle(place: Place) -> list[int]:
    """Wait until a model is tried, and hold its runner there; return what lets it go on when it gets SIGCONT."""

    def runners() -> list[int]:
        commands = place.pids()
        return [pid for pid in tried(place) if "--model" in commands.get(pid, "")]

    found: list[int] = until(runners, "a model is tried")
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    return found


def go_on(runners: list[int]) -> None:
    for pid in runners:
        os.kill(pid, signal.SIGCONT)


def test_M15_what_was_loaded_is_loaded_again_with_its_options(box: Place) -> None:
    with_models(box)
    found = tuned(box, "qwen3:8b", "--on", "gpu1", "--ctx", "8192")

    assert sorted(found["restored"]) == ["llama3.2:3b", "qwen3:8b"] and found["not_restored"] == []
    assert is_whole(box) and not tried(box)
    instance = next(one for one in box.status("--simulated")["instances"] if one["name"] == "gpu1")
    assert instance["restarts"] == 0 and instance["health"] == "ok" and instance["reason"] is None


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL))
def test_M15_however_a_tune_ends_the_instance_is_as_it_was(slow_box: Place, number: int) -> None:
    with_models(slow_box)
    process = slow_box.popen("tune", "qwen3:8b", "--on", "gpu1", "--simulated", preexec_fn=_heard)
    in_the_middle(slow_box)
    assert loaded(slow_box, "gpu1") == {}, "its own models are unloaded meanwhile"

    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), (out, err)
    until(lambda: is_whole(slow_box), "all is loaded again", seconds=60)
    assert not tried(slow_box)
    if number != signal.SIGKILL:
        assert "loaded again: qwen3:8b, llama3.2:3b" in err or "loaded again: llama3.2:3b, qwen3:8b" in err


def _heard() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("word", ("stop", "restart", "down"))
def test_M15_who_takes_the_instance_away_ends_the_tune_with_a_clear_word(slow_box: Place, word: str) -> None:
    with_models(slow_box)
    process = slow_box.popen("tune", "qwen3:8b", "--on", "gpu1", "--simulated")
    in_the_middle(slow_box)

    slow_box.ok(word, *(["gpu1"] if word != "down" else []), "--simulated", seconds=60)
    out, err = process.communicate(timeout=60)

    code = {"stop": 7, "restart": 6, "down": 7}[word]
    assert process.returncode == code and "in the middle of the tune" in err, (out, err)
    until(lambda: not tried(slow_box), "what was tried is gone")
    if word == "restart":
        until(lambda: is_whole(slow_box), "all is loaded again", seconds=60)


def test_M15_an_instance_that_dies_in_the_middle_comes_back_with_its_models(slow_box: Place) -> None:
    with_models(slow_box)
    process = slow_box.popen("tune", "qwen3:8b", "--on", "gpu1", "--simulated")
    in_the_middle(slow_box)
    instance = next(one for one in slow_box.status("--simulated")["instances"] if one["name"] == "gpu1")

    os.kill(instance["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 6 and "gpu1 is " in err and "in the middle of the tune" in err, (out, err)
    until(lambda: is_whole(slow_box), "all is loaded again", seconds=60)
    assert not tried(slow_box)


def test_M15_a_supervisor_that_is_killed_ends_the_tune_and_nothing_of_it_is_left(slow_box: Place) -> None:
    with_models(slow_box)
    process = slow_box.popen("tune", "qwen3:8b", "--on", "gpu1", "--simulated")
    in_the_middle(slow_box)

    os.kill(slow_box.status("--simulated")["supervisor"]["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 3 and "the supervisor went away in the middle of the tune" in err, (out, err)
    assert not tried(slow_box)
    slow_box.ok("up", "--simulate", "2", "--config", str(slow_box.root / "cards.toml"), "-d")
    until(lambda: is_whole(slow_box), "all is loaded again", seconds=60)


def test_M15_both_killed_at_once_leave_nothing_that_the_next_supervisor_does_not_end(slow_box: Place) -> None:
    with_models(slow_box)
    process = slow_box.popen("tune", "qwen3:8b", "--on", "gpu1", "--simulated")
    in_the_middle(slow_box)

    os.kill(slow_box.status("--simulated")["supervisor"]["pid"], signal.SIGKILL)
    process.kill()
    process.communicate(timeout=60)
    slow_box.ok("up", "--simulate", "2", "--config", str(slow_box.root / "cards.toml"), "-d")

    until(lambda: not tried(slow_box), "what was tried is gone")
    until(lambda: loaded(slow_box, "gpu1").get("qwen3:8b") == (4096, None), "what is pinned is back", seconds=60)


def test_M15_an_upgrade_in_the_middle_of_a_tune_changes_nothing_of_it(slow_box: Place) -> None:
    with_models(slow_box)
    process = slow_box.popen("tune", "qwen3:8b", "--on", "gpu1", "--ctx", "4096", "--simulated", "-o", "json")
    held = in_the_middle(slow_box)

    slow_box.ok("upgrade", "--simulated", seconds=60)
    again = slow_box.run("tune", "qwen3:8b", "--on", "gpu1", "--simulated")
    assert again.code == 7 and "gpu1 is lent for tuning qwen3:8b" in again.err, again
    go_on(held)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 0, (out, err)
    found = json.loads(out)
    assert found["result"] == 4096 and sorted(found["restored"]) == ["llama3.2:3b", "qwen3:8b"]
    assert is_whole(slow_box)


def test_while_an_instance_is_lent_it_is_seen_and_left_alone(slow_box: Place) -> None:
    process = slow_box.popen("tune", "qwen3:8b", "--on", "gpu1", "--simulated")
    in_the_middle(slow_box)

    assert "└ is lent for tuning qwen3:8b" in slow_box.run("status", "--simulated").out
    for words in (("tune", "llama3.2:3b", "--on", "gpu1"), ("models", "load", "llama3.2:3b", "--on", "gpu1")):
        result = slow_box.run(*words, "--simulated")
        assert result.code == 7 and "gpu1 is lent for tuning qwen3:8b" in result.err, result
    assert slow_box.ok("models", "load", "llama3.2:3b", "--simulated").out.startswith("gpu0 ")
    pinned = slow_box.ok("models", "pin", "llama3.2:3b", "--on", "gpu1", "--simulated")
    assert "loaded once gpu1 is back from tuning" in pinned.out
    assert loaded(slow_box, "gpu1") == {}
    holders = [row for row in slow_box.status("--simulated")["processes"] if row["kind"] == "foreign"]
    assert holders == [], "what is tried is no stranger"

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    until(lambda: list(loaded(slow_box, "gpu1")) == ["llama3.2:3b"], "the new pin is loaded", seconds=60)


def test_what_is_being_loaded_is_waited_for_and_comes_back_too(slow_box: Place) -> None:
    slow_box.ok("models", "load", "llama3.2:3b", "--on", "gpu1", "--no-wait", "--keep-alive", "2h", "--simulated")

    found = tuned(slow_box, "llama3.2:3b", "--on", "gpu1", "--ctx", "512")

    assert found["result"] == 512 and found["restored"] == ["llama3.2:3b"]
    assert list(loaded(slow_box, "gpu1")) == ["llama3.2:3b"]


def test_a_client_that_loads_a_model_beside_it_ends_the_tune(slow_box: Place) -> None:
    instance = next(one for one in slow_box.status("--simulated")["instances"] if one["name"] == "gpu1")
    process = slow_box.popen("tune", "llama3.2:3b", "--on", "gpu1", "--ctx", "512", "--simulated")
    held = in_the_middle(slow_box)

    body = json.dumps({"model": "qwen3:8b"}).encode()
    urllib.request.urlopen(f"{instance['url']}/api/generate", body, timeout=60).close()
    until(lambda: loaded(slow_box, "gpu1"), "the supervisor has seen it")
    go_on(held)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 7 and "a client has qwen3:8b loaded on gpu1" in err, (out, err)
    assert list(loaded(slow_box, "gpu1")) == ["qwen3:8b"], "it is the client's"


def test_a_terminal_shows_how_far_it_is_and_ctrl_c_what_was_found(slow_box: Place) -> None:
    with on_terminal(slow_box, "tune", "qwen3:8b", "--on", "gpu1", "--simulated", columns=60) as terminal:
        terminal.wait_for("num_ctx 40960: loading", 30)
        terminal.wait_for("spills", 60)
        terminal.forget()
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "Not finished: nothing has worked so far (1 load" in terminal.text
