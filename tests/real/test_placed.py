"""Models that are placed on real servers, which compute on the CPU: the host's memory is the only card there is."""

from __future__ import annotations

import json

import pytest

from .box import QUICK, Box, generate, until

pytestmark = pytest.mark.real_ollama


def loaded(box: Box) -> dict[str, set[tuple[str, int]]]:
    """Return what each instance keeps for ever, with its context."""
    return {
        name: {(row["name"], row["context_length"]) for row in box.ps(name) if row["expires_at"] > "2200"}
        for name in box.ports
    }


def test_what_is_planned_is_loaded_and_kept_and_a_second_time_changes_nothing(box: Box, model: str) -> None:
    wanted = {"models": {"tiny": {"ctx": 1024}, "other": {"prefer": "b"}}}
    box.configure({"a": {}, "b": {}}, top=wanted, health=QUICK, context_length=512)
    box.up()
    plan = json.loads(box.ok("plan", "-o", "json"))
    assert [card["uuid"] for card in plan["cards"]] == ["host"] and plan["unplaced"] == []
    assert {one["model"]: one["instance"] for one in plan["placement"]}["other"] == "b"
    told = box.ok("plan", "--apply")
    assert "tiny is loaded and kept" in told and "other is loaded and kept" in told
    where = {one["model"]: one["instance"] for one in plan["placement"]}
    expected: dict[str, set[tuple[str, int]]] = {"a": set(), "b": set()}
    expected[where["tiny"]].add(("tiny:latest", 1024))
    expected["b"].add(("other:latest", 512))
    assert loaded(box) == expected
    runners = {name: box.runners(name) for name in box.ports}

    box.ok("plan", "--apply")

    assert loaded(box) == expected and {name: box.runners(name) for name in box.ports} == runners


def test_auto_places_by_itself_keeps_it_and_follows_the_configuration(box: Box, model: str) -> None:
    top = {"placement": "auto", "models": {"tiny": {"ctx": 1024, "prefer": "a"}}}
    box.configure({"a": {}, "b": {}}, top=top, health=QUICK, context_length=512)
    box.up()
    until(lambda: loaded(box) == {"a": {("tiny:latest", 1024)}, "b": set()}, "placed", 60, shown=box.told)
    generate(box.ports["a"], keep_alive="1s")
    until(lambda: loaded(box)["a"], "pinned again after a client's own keep_alive", 150, shown=box.told)

    top["models"]["other"] = {"prefer": "b"}  # type: ignore[index]
    top["models"]["tiny"]["prefer"] = "b"  # type: ignore[index]
    box.configure({"a": {}, "b": {}}, top=top, health=QUICK, context_length=512)
    box.ok("reload")

    both = {("tiny:latest", 1024), ("other:latest", 512)}
    until(lambda: loaded(box) == {"a": set(), "b": both}, "moved", 60, shown=box.told)
    until(lambda: box.runners("a") == [], "let go where it was", shown=box.told)
