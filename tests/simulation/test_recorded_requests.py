"""The simulation answers what real servers were recorded to answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from simulation_rig import OLD, RECORDINGS, VERSIONS, Rig, Served, until

LONG = "the people " * 3000
_LONG_BODIES: dict[str, dict[str, Any]] = {
    "long-prompt": {"prompt": LONG, "stream": False, "options": {"num_predict": 3}},
    "long-prompt-notrunc": {"prompt": LONG, "stream": False, "truncate": False},
    "long-chat": {"messages": [{"role": "user", "content": LONG}], "stream": False, "options": {"num_predict": 3}},
    "long-embed": {"input": LONG},
    "long-embed-notrunc": {"input": LONG, "truncate": False},
}
_HEADERS = {
    "foreign-host": {"Host": "evil.example.com"},
    "foreign-origin": {"Origin": "https://evil.example.com"},
    "host-localname": {"Host": "box.local:11434"},
    "host-lanip": {"Host": "192.168.1.7:11434"},
}
# The list of cloud models is not the business of a simulation; right after an unload real servers gave either answer.
_LEFT_OUT = {"recs", "ps-right-after-unload"}


def recorded(version: str, name: str) -> list[dict[str, Any]]:
    lines = (RECORDINGS / f"v{version}" / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


def shape(value: Any, key: str = "") -> Any:
    """Return the form of an answer: names and types, and the values that are no measurements."""
    if isinstance(value, dict):
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        if value and isinstance(value[0], dict) and "name" in value[0]:
            value = sorted(value, key=lambda item: item["name"])
        return [shape(item) for item in value[:1]]
    if key in ("done", "done_reason", "finish_reason", "stop_reason", "role", "object", "type", "total_tokens"):
        return value
    if key in ("prompt_tokens", "completion_tokens", "eval_count", "context_length", "family", "parameter_size"):
        return value
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def forms(body: str, kind: str) -> Any:
    if "ndjson" in kind:
        return [shape(json.loads(line)) for line in body.splitlines()]
    if "event-stream" in kind:
        events = [line.removeprefix("data: ") for line in body.splitlines() if line]
        return [shape(json.loads(event)) if event.startswith("{") else event for event in events]
    return shape(json.loads(body)) if body.startswith("{") else body


def replay(served: Served, case: dict[str, Any]) -> None:
    name, request = case["name"], case["request"]
    body = request["body"]
    if name in _LONG_BODIES:
        body = {"model": "tiny", **_LONG_BODIES[name]}
    if name == "ps-after-expiry":
        until(lambda: served.ps() == [], "the model expires")
    answer = served.ask(request["method"], request["path"], body, headers=_HEADERS.get(name))
    text = answer.body.decode()
    assert answer.status == case["status"], (name, text)
    for header in ("Content-Type", "Allow", "Location", "Transfer-Encoding"):
        assert answer.headers.get(header) == case["headers"].get(header), (name, header)
    if case["status"] >= 400 and "request_id" not in text:
        assert text == case["body"], name
    elif "Transfer-Encoding" in case["headers"] and name.startswith("long"):
        assert set(answer.json) >= {"model", "done", "done_reason"}
    elif "error" in case["body"] and "ndjson" in case["headers"].get("Content-Type", ""):
        assert text == case["body"], name
    else:
        kind = case["headers"].get("Content-Type", "")
        assert forms(text, kind) == forms(case["body"], kind), name
    assert text.endswith("\n") == case["body"].endswith("\n") or len(case["body"]) > 1000, name


@pytest.mark.parametrize("version", VERSIONS)
def test_good_requests_and_errors_are_answered_as_recorded(rig: Rig, version: str) -> None:
    served = rig.cpu(version)
    for name in ("requests.jsonl", "errors.jsonl"):
        for case in recorded(version, name):
            if case["name"] not in _LEFT_OUT:
                replay(served, case)


@pytest.mark.parametrize("version", VERSIONS)
def test_memory_of_a_loaded_model_is_that_of_the_real_server_to_the_byte(rig: Rig, version: str) -> None:
    real = json.loads((RECORDINGS / f"v{version}" / "ps-loaded.json").read_text())["models"][0]
    served = rig.cpu(version)
    assert served.generate("tiny").json["done_reason"] == "load"
    (model,) = served.ps()
    for name in ("name", "model", "size", "size_vram", "context_length", "details"):
        assert model[name] == real[name]
    assert list(model) == list(real)


@pytest.mark.parametrize("version", VERSIONS)
def test_show_and_tags_tell_what_the_real_server_tells(rig: Rig, version: str) -> None:
    folder = RECORDINGS / f"v{version}"
    served = rig.cpu(version)
    real, ours = json.loads((folder / "show.json").read_text()), served.ask("POST", "/api/show", {"model": "tiny"}).json
    assert list(ours) == list(real)
    for name in ("template", "parameters", "capabilities"):
        assert ours[name] == real[name]
    if version == OLD:
        assert ours["details"]["parent_model"].endswith(ours["details"]["parent_model"][-64:])
        del ours["model_info"]["general.quantization_version"]
    else:
        assert ours["details"] == real["details"]
    assert ours["model_info"] == real["model_info"]
    by_name = sorted(ours["tensors"], key=lambda tensor: tensor["name"])
    assert by_name == sorted(real["tensors"], key=lambda tensor: tensor["name"])
    real_tags = json.loads((folder / "tags.json").read_text())["models"]
    ours_tags = served.ask("GET", "/api/tags").json["models"]
    details = {model["name"]: model["details"] for model in ours_tags}
    assert details == {model["name"]: model["details"] for model in real_tags}
    assert list(ours_tags[0]) == list(real_tags[0])


def test_the_queue_is_full_in_the_recorded_words(rig: Rig) -> None:
    real = json.loads((RECORDINGS / "v0.32.15" / "queue-full.json").read_text())
    served = rig.cpu(OLLAMA_MAX_QUEUE="0")
    answer = served.generate("tiny")
    assert (answer.status, answer.body.decode()) == (503, real["body"])
