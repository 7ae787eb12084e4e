"""Loads on simulated cards, whose overhead is another than the estimate's: what they took is what plans say then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.request
from typing import Any

import pytest
from cli_rig import Place, until

MIB = 1024**2
CONTEXT_BYTES = 312 * MIB
"""What a context takes of a simulated card."""
ROUNDED = 64 * 1024
"""A log tells hundredths of a MiB."""


def load(place: Place, instance: int, model: str, **options: Any) -> None:
    """Load a model and wait until the supervisor has written down what it took."""
    url = place.status("--simulated")["instances"][instance]["url"]
    before = len(written(place))
    body = json.dumps({"model": model, "prompt": "", "keep_alive": -1, "options": options}).encode()
    with urllib.request.urlopen(f"{url}/api/generate", body, timeout=60) as answer:
        assert answer.status == 200
    until(lambda: len(written(place)) > before, f"what {model} takes is written down", 40)


def written(place: Place) -> list[Any]:
    path = place.state / "simulated" / "measured.json"
    return list(json.loads(path.read_text())["loads"]) if path.exists() else []


def planned(place: Place, model: str, *words: str) -> Any:
    return place.run("plan", model, "--simulated", "-o", "json", *words).json["models"][0]


def held(place: Place, model: str) -> int:
    """Return what the driver says that the runner of a model holds."""
    runners = [one for one in place.status("--simulated")["processes"] if one["kind"] == "runner"]
    assert len(runners) == 1, model
    return int(runners[0]["memory_bytes"])


def test_a_plan_after_a_load_says_what_it_took(place: Place) -> None:
    place.simulate(4, "-q")  # the first and the last are of one kind
    before = planned(place, "qwen3:8b", "--gpu", "0")
    assert (before["source"], before["measured"], before["measured_total_bytes"]) == ("metadata", None, None)

    load(place, 0, "qwen3:8b")

    truth = held(place, "qwen3:8b")
    [row] = written(place)
    after = planned(place, "qwen3:8b", "--gpu", "0")
    assert (after["source"], after["measured_total_bytes"], after["total_bytes"]) == ("calibrated", truth, truth)
    assert after["estimated_total_bytes"] == before["total_bytes"] != truth
    assert after["overhead_bytes"] == pytest.approx(CONTEXT_BYTES, abs=ROUNDED)
    [model] = place.status("--simulated")["models"]
    sizes = {each["kind"]: each["bytes"] for each in model["buffers"] if each["on_gpu"]}
    assert (after["weights_bytes"], after["kv_bytes"]) == (sizes["weights"], sizes["kv"])
    assert after["compute_bytes"] == sizes["compute"]
    assert row["ps_bytes"] == model["size_vram_bytes"] == sum(sizes.values())
    drawn = place.ok("plan", "qwen3:8b", "--gpu", "0", "--simulated", env={"COLUMNS": "80"}).out
    off = (before["total_bytes"] - truth) / truth * 100
    assert "Estimate" in drawn and "Measured" in drawn and f"{off:+.1f} %" in drawn
    for columns in ("40", "60", "80"):
        drawn = place.run("plan", "qwen3:8b", "--simulated", env={"COLUMNS": columns}).out
        assert max(map(len, drawn.splitlines())) <= int(columns)
    kinds = [card["name"] for card in place.ok("plan", "qwen3:8b", "--simulated", "-o", "json").json["cards"]]
    for number, kind in enumerate(kinds):
        found = planned(place, "qwen3:8b", "--gpu", str(number))
        assert (found["source"] == "calibrated") is (kind == kinds[0]), kind
        assert found["total_bytes"] == (truth if kind == kinds[0] else before["total_bytes"])


def test_what_another_context_took_makes_the_plan_better(place: Place) -> None:
    place.simulate(1, "-q")
    load(place, 0, "llama3.2:3b", num_ctx=8192)
    for context in (6144, 16384, 30000):
        words = ("llama3.2:3b", "--ctx", str(context))
        plain = place.state / "simulated" / "measured.json"
        kept = plain.read_text()
        corrected = planned(place, *words)
        plain.unlink()
        estimate = planned(place, *words)
        plain.write_text(kept)
        assert corrected["source"] == "metadata" and corrected["measured"]["used"] == "part"
        load(place, 0, "llama3.2:3b", num_ctx=context)
        truth = planned(place, *words)
        assert truth["source"] == "calibrated"
        assert corrected["overhead_bytes"] == pytest.approx(truth["overhead_bytes"], abs=ROUNDED)
        assert corrected["overhead_bytes"] == pytest.approx(CONTEXT_BYTES, abs=ROUNDED)
        wrong, before = (abs(one["total_bytes"] - truth["total_bytes"]) for one in (corrected, estimate))
        assert wrong < before / 2, (context, corrected, estimate, truth)


def test_another_version_or_a_damaged_file_leaves_the_estimate(place: Place) -> None:
    place.simulate(1, "-q")
    estimate = planned(place, "llama3.2:3b")
    load(place, 0, "llama3.2:3b")
    path = place.state / "simulated" / "measured.json"
    assert planned(place, "llama3.2:3b")["source"] == "calibrated"
    for change in (('"version": "0.32.15"', '"version": "0.32.14"'), ('"digest": "', '"digest": "0')):
        kept = path.read_text()
        assert change[0] in kept
        path.write_text(kept.replace(*change))
        assert planned(place, "llama3.2:3b") == estimate
        path.write_text(kept)
    path.write_text("{}")
    found = place.ok("plan", "llama3.2:3b", "--simulated", "-o", "json")
    assert found.json["models"][0] == estimate and "measured.json" in found.err


def test_a_damaged_file_is_told_and_begun_anew_and_outlives_the_supervisor(place: Place) -> None:
    place.simulate(1, "-q")
    path = place.state / "simulated" / "measured.json"
    path.write_text('{"schema": 99}')
    url = place.status("--simulated")["instances"][0]["url"]
    body = json.dumps({"model": "llama3.2:3b", "prompt": "", "keep_alive": -1}).encode()
    with urllib.request.urlopen(f"{url}/api/generate", body, timeout=60):
        pass

    def begun() -> bool:
        with contextlib.suppress(FileNotFoundError):  # it is put aside before there is another one
            return b'"loads"' in path.read_bytes()
        return False

    until(begun, "it is begun anew", 40)
    assert path.with_name("measured.json.bad").read_text() == '{"schema": 99}'
    assert "begin anew" in place.ok("events", "--simulated", "-n", "100").out
    place.ok("down", "-q", "--simulated")
    [row] = written(place)
    assert row["model"] == "llama3.2:3b" and row["shares"][0]["process_bytes"] > 1 << 30


def test_what_a_load_put_where_is_known_after_the_supervisor_was_killed(place: Place) -> None:
    place.simulate(2, "-q")
    load(place, 0, "llama3.2:3b")
    load(place, 0, "qwen3:8b", num_ctx=4096)
    load(place, 1, "qwen3:8b", num_gpu=20)

    def models() -> dict[tuple[str, str], Any]:
        found = place.status("--simulated")["models"]
        kept = ("layers", "layers_asked", "buffers")
        return {(one["instance"], one["name"]): {key: one[key] for key in kept} for one in found}

    before = models()
    assert before["gpu0", "llama3.2:3b"]["layers"] == {"offloaded": 29, "total": 29}
    assert before["gpu0", "qwen3:8b"]["layers"] == {"offloaded": 37, "total": 37}
    assert before["gpu1", "qwen3:8b"]["layers"] == {"offloaded": 20, "total": 37}
    assert before["gpu1", "qwen3:8b"]["layers_asked"] == 20
    assert {one["health"] for one in place.status("--simulated")["instances"]} == {"ok"}, "as it was asked for"
    pid = place.status("--simulated")["supervisor"]["pid"]

    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the supervisor is gone")
    place.ok("up", "--simulate", "2", "--config", str(place.root / "cards.toml"), "-d", "-q")

    until(lambda: models() == before, f"all is known again: {before}", 40)
    assert all(one["adopted"] for one in place.status("--simulated")["instances"])
