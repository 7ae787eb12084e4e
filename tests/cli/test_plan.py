"""`ollamux plan`: without a supervisor, on the cards of a simulation, on narrow screens, and with what is broken."""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import jsonschema
import pytest
from cli_rig import Place, is_plain_error
from status_schema import FLAG, TIME, UUID, WHOLE, nullable, one_of, some, thing

TEXT = {"type": "string"}
LAYER = thing(
    number=nullable(WHOLE),
    kind=one_of("attention", "sliding", "recurrent", "draft", "output"),
    on_card=FLAG,
    weights_bytes=WHOLE,
    kv_bytes=WHOLE,
    state_bytes=WHOLE,
)
MODEL = thing(
    name=TEXT,
    digest=TEXT,
    architecture=TEXT,
    parameters=WHOLE,
    quantization=nullable(TEXT),
    context_length=WHOLE,
    parallel=WHOLE,
    kv_type=one_of("f16", "q8_0", "q4_0"),
    flash_attention=FLAG,
    batch=WHOLE,
    layers=thing(total=WHOLE, offloaded=WHOLE, each=some(LAYER)),
    weights_bytes=WHOLE,
    kv_bytes=WHOLE,
    state_bytes=WHOLE,
    compute_bytes=WHOLE,
    projector_bytes=WHOLE,
    overhead_bytes=WHOLE,
    host_bytes=WHOLE,
    total_bytes=WHOLE,
    least_total_bytes=WHOLE,
    predicted_bytes=nullable(WHOLE),
    estimated_total_bytes=WHOLE,
    measured_total_bytes=nullable(WHOLE),
    measured=nullable(
        thing(
            used=one_of("all", "part", "nothing"),
            card=TEXT,
            total_bytes=WHOLE,
            process_bytes=nullable(WHOLE),
            context_length=WHOLE,
            parallel=WHOLE,
            kv_type=TEXT,
            batch=WHOLE,
            layers_offloaded=nullable(WHOLE),
            time=TIME,
        )
    ),
    source=one_of("metadata", "calibrated", "bound"),
    notes=some(TEXT),
)
CARD = {"anyOf": [UUID, {"const": "host"}]}
PLACED = thing(model=TEXT, instance=nullable(TEXT), cards=some(CARD), bytes=WHOLE, present=FLAG, pinned=FLAG)
PLAN = thing(
    schema=one_of("ollamux.plan/1"),
    version=TEXT,
    time=TIME,
    simulated=FLAG,
    models=some(MODEL),
    cards=some(
        thing(
            uuid=CARD,
            name=TEXT,
            total_bytes=WHOLE,
            headroom_bytes=WHOLE,
            others_bytes=WHOLE,
            planned_bytes=WHOLE,
            kept_bytes=WHOLE,
        )
    ),
    placement=some(PLACED),
    kept=some(PLACED),
    spans=some(
        thing(instance=nullable(TEXT), members=some(TEXT), cards=some(UUID), link=TEXT, nvlinks=nullable(WHOLE))
    ),
    notes=some(TEXT),
    unplaced=some(
        thing(
            model=TEXT,
            reason=TEXT,
            would_fit_if=some(thing(change=TEXT, value={"type": ["integer", "string"]}, total_bytes=WHOLE)),
        )
    ),
)
USAGE, NOT_RUNNING, NOT_FOUND, DEGRADED, REFUSED = 2, 3, 5, 6, 7


def test_json_keeps_its_contract(simulation: Place) -> None:
    found = simulation.ok("plan", "qwen3:8b", "llama3.2:3b", "--simulated", "-o", "json").json
    jsonschema.validate(found, PLAN)
    model = found["models"][0]
    parts = ("weights_bytes", "kv_bytes", "compute_bytes", "projector_bytes", "overhead_bytes")
    assert model["total_bytes"] == sum(model[part] for part in parts)
    assert model["weights_bytes"] == sum(layer["weights_bytes"] for layer in model["layers"]["each"])
    assert len(found["cards"]) == 3 and len(found["placement"]) == 2
    crowded = simulation.run(
        "plan", "qwen3:8b", "--gpu", "1", "--ctx", "40000", "--parallel", "4", "--simulated", "-o", "json"
    )
    jsonschema.validate(crowded.json, PLAN)
    assert crowded.code == DEGRADED
    assert {change["change"] for change in crowded.json["unplaced"][0]["would_fit_if"]} >= {"context_length", "layers"}


@pytest.mark.parametrize("columns", ["40", "60", "80", "120"])
def test_nothing_is_wider_than_the_screen(simulation: Place, columns: str) -> None:
    words = ("plan", "qwen3:8b", "nomic-embed-text", "--gpu", "1", "--ctx", "40000", "--parallel", "2", "--simulated")
    found = simulation.run(*words, env={"COLUMNS": columns})
    assert found.code == DEGRADED and "SIMULATED" in found.out and "\x1b" not in found.out
    assert max(map(len, found.out.splitlines())) <= int(columns)
    assert "q8_0" in found.out and "no card" in found.out


def test_plain_where_the_locale_is(simulation: Place) -> None:
    found = simulation.ok("plan", "qwen3:8b", "--simulated", env={"LC_ALL": "C"})
    assert found.out.isascii() and "#" in found.out


def test_colour_on_a_terminal_and_not_with_no_color(simulation: Place) -> None:
    for extra, colour in (({}, True), ({"NO_COLOR": "1"}, False)):
        master, slave = pty.openpty()
        try:
            process = simulation.popen("plan", "qwen3:8b", "--simulated", stdout=slave, env=extra)
            _, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
            assert (b"\x1b[" in os.read(master, 65536)) is colour
        finally:
            os.close(master)
            os.close(slave)


def test_cards_by_name(simulation: Place) -> None:
    uuid = simulation.ok("plan", "qwen3:8b", "--simulated", "-o", "json").json["cards"][2]["uuid"]
    by_uuid = simulation.ok("plan", "qwen3:8b", "--simulated", "-o", "json", "--gpu", uuid[:12]).json
    assert [card["uuid"] for card in by_uuid["cards"]] == [uuid]
    missing = simulation.run("plan", "qwen3:8b", "--simulated", "--gpu", "77")
    assert missing.code == NOT_FOUND and is_plain_error(missing.err) and "77" in missing.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), USAGE, "no model is named"),
        (("m", "--kv", "q5"), USAGE, "no type 'q5'"),
        (("m", "--ctx", "0"), USAGE, "--ctx: 0"),
        (("m", "--parallel", "9999"), USAGE, "--parallel: 9999"),
        (("m", "-o", "yaml"), USAGE, "no form 'yaml'"),
        (("m", "--gpu", "rtx"), USAGE, "--gpu"),
        (("m", "--gpu", "9" * 5000), USAGE, "--gpu"),
        (("m", "--config", "none.toml"), NOT_FOUND, "none.toml"),
        (("m", "--simulated"), NOT_RUNNING, "no simulation"),
        (("../../etc/passwd",), NOT_FOUND, "no name"),
        (("m",), NOT_FOUND, "there is no model m"),
    ],
)
def test_what_is_wrong_is_told(place: Place, words: tuple[str, ...], code: int, said: str) -> None:
    found = place.run("plan", *words)
    assert (found.code, found.out) == (code, "") and said in found.err
    assert is_plain_error(found.err)


def write_store(root: Path, *, cut: bool = False) -> Path:
    """Write a store with one model in it; `cut` takes away the end of its weights."""
    from ollamux.simulation.store import seed_store

    seed_store(root)
    if cut:
        for blob in (root / "blobs").iterdir():
            if blob.stat().st_size > 1 << 30:
                os.truncate(blob, 1 << 20)
    return root


def test_a_store_without_supervisor_configuration_or_card(place: Place) -> None:
    store = write_store(place.root / "store")
    found = place.ok("plan", "llama3.2:3b", "-o", "json", env={"OLLAMA_MODELS": str(store)}).json
    jsonschema.validate(found, PLAN)
    assert found["simulated"] is False and found["models"][0]["context_length"] == 8192
    place.config("a", a='num_parallel = 3\ncontext_length = 2048\nkv_cache_type = "q8_0"')
    found = place.ok("plan", "llama3.2:3b", "-o", "json").json["models"][0]
    assert (found["context_length"], found["parallel"], found["kv_type"]) == (2048, 3, "q8_0")


def test_weights_that_are_not_whole(place: Place) -> None:
    store = write_store(place.root / "store", cut=True)
    found = place.run("plan", "llama3.2:3b", env={"OLLAMA_MODELS": str(store)})
    assert found.code == DEGRADED and is_plain_error(found.err)
    assert "ends too early" in found.err and "ollamux pull llama3.2:3b" in found.err


def test_a_quantised_cache_without_flash_attention_is_refused(place: Place) -> None:
    write_store(place.root / "store")
    place.config("a", a="flash_attention = false")
    found = place.run("plan", "llama3.2:3b", "--kv", "q8_0")
    assert found.code == REFUSED and "needs flash attention" in found.err


def test_progress_is_not_in_a_pipe(simulation: Place) -> None:
    found = simulation.ok("plan", "qwen3:8b", "--simulated", "-o", "json")
    assert found.err == "" and json.loads(found.out)
