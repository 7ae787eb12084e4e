"""`plan --apply` and `placement = "auto"` on simulated cards: what is placed is loaded there, kept, seldom moved."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_rig import Place, is_plain_error, until

from tests.ports import free_ports

USAGE, NOT_RUNNING, NOT_FOUND, DEGRADED, REFUSED = 2, 3, 5, 6, 7
Q, L, N = "qwen3:8b", "llama3.2:3b", "nomic-embed-text"


class Box:
    """A simulation whose configuration changes: cards of 24, 12, 24 and 48 GiB, one instance each."""

    def __init__(self, place: Place) -> None:
        self.place = place
        place.env["OLLAMUX_SIMULATION_SPEED"] = "10"
        self.file = place.root / "box.toml"
        self.ports = free_ports(4)

    def write(self, models: str, *, auto: bool = False, count: int = 3, extra: str = "", **keys: str) -> None:
        """Write the configuration; `extra` goes to the defaults, `keys` to an instance."""
        lines = ["version = 1", f'placement = "{"auto" if auto else "manual"}"', "[defaults]", extra]
        lines += ["[defaults.health]", 'interval = "200ms"']
        for number in range(count):
            name = f"gpu{number}"
            lines += [f"[instances.{name}]", f"gpus = [{number}]", f"port = {self.ports[number]}", keys.get(name, "")]
        self.file.write_text("\n".join([*lines, models, ""]))

    def up(self, models: str, *, count: int = 3, **rest: Any) -> None:
        self.write(models, count=count, **rest)
        self.place.ok("up", "--simulate", str(count), "--config", str(self.file), "-d")

    def reload(self, models: str, **rest: Any) -> None:
        self.write(models, **rest)
        self.place.ok("reload", "--simulated")

    def apply(self, *words: str) -> Any:
        found = self.place.run("plan", *words, "--apply", "--simulated", "-o", "json")
        return found.json if found.code in (0, DEGRADED) else found

    def pins(self) -> dict[str, set[str]]:
        """Return the models that a plan keeps on each instance."""
        found: dict[str, set[str]] = {}
        for row in self.place.run("models", "ls", "--simulated", "-o", "json").json["models"]:
            for pin in row["pins"]:
                if pin["by"] == "placement" and pin["state"] == "kept":
                    found.setdefault(pin["instance"], set()).add(row["name"].removesuffix(":latest"))
        return found

    def pids(self) -> dict[str, int]:
        return {one["name"]: one["pid"] for one in self.place.status("--simulated")["instances"]}

    def loads(self) -> int:
        """Return how often something was loaded so far."""
        return self.place.ok("events", "--simulated", "-n", "1000").out.count("is loaded and kept")

    def wait_placed(self, wanted: dict[str, set[str]]) -> None:
        until(lambda: self.pins() == wanted, f"placed as {wanted}: {self.pins()}", 30.0)


@pytest.fixture
def box(place: Place) -> Iterator[Box]:
    yield Box(place)
    place.run("down", "--simulated")


def test_what_is_planned_is_loaded_and_kept_and_a_second_time_changes_nothing(box: Box) -> None:
    box.up(f'[models."{Q}"]\nctx = 16384\nreplicas = 2\n[models."{L}"]')
    found = box.apply()
    where = {(one["model"], one["instance"]) for one in found["placement"]}
    assert len(where) == 3 and len({instance for model, instance in where if model == Q}) == 2
    assert {outcome["words"] for outcome in found["applied"]} == {
        f"{Q} is loaded and kept",
        f"{L} is loaded and kept",
    }
    wanted: dict[str, set[str]] = {}
    for model, instance in where:
        wanted.setdefault(instance, set()).add(model)
    assert box.pins() == wanted
    contexts = {(one["name"], one["context_length"]) for one in box.place.status("--simulated")["models"]}
    assert (Q, 16384) in contexts
    before, loads = box.pids(), box.loads()

    again = box.apply()

    assert {(one["model"], one["instance"]) for one in again["placement"]} == where
    assert all(one["present"] for one in again["placement"])
    assert box.pins() == wanted and box.loads() == loads and box.pids() == before


def test_what_the_next_plan_leaves_out_is_let_go_and_the_rest_is_not_touched(box: Box) -> None:
    box.up("", gpu2=f'preload = ["{N}"]')
    box.apply(Q, L)
    kept = box.pins()
    loads = box.loads()

    box.apply(Q)

    wanted = {name: models - {L} for name, models in kept.items() if models - {L}}
    box.wait_placed(wanted)
    until(lambda: L not in {one["name"] for one in box.place.status("--simulated")["models"]}, "it is unloaded")
    assert box.loads() == loads
    assert f"{N}:latest" in {one["name"] for one in box.place.status("--simulated")["models"]}


def test_what_is_kept_there_anyway_has_its_room_in_the_picture(box: Box) -> None:
    box.up("", gpu1=f'preload = ["{Q}"]', extra="context_length = 16384")
    found = box.place.ok("plan", L, "--simulated", "-o", "json").json
    (kept,) = found["kept"]
    assert (kept["model"], kept["instance"], kept["pinned"]) == (Q, "gpu1", True)
    assert [card["kept_bytes"] for card in found["cards"]] == [0, kept["bytes"], 0]
    picture = box.place.ok("plan", L, "--simulated").out
    assert "(kept there)" in picture
    twice = box.place.ok("plan", Q, "--simulated", "-o", "json").json
    assert [(one["instance"], one["pinned"]) for one in twice["placement"]] == [("gpu1", True)] and not twice["kept"]


def test_what_is_kept_anyway_with_another_context_counts_and_that_is_told(box: Box) -> None:
    models = f'[models."{L}"]\nctx = 16384'
    box.up(models, gpu1=f'preload = [{{ name = "{L}", num_ctx = 4096 }}]')
    found = box.place.ok("plan", "--simulated", "-o", "json").json
    assert [(one["instance"], one["pinned"]) for one in found["placement"]] == [("gpu1", True)]
    assert f"gpu1 keeps {L} anyway, with a context of 4096: it counts, though 16384 is wanted" in found["notes"]


def test_the_larger_headroom_holds_on_a_card_that_two_share(box: Box) -> None:
    second = f'share_gpu = true\n[instances.second]\ngpus = [0]\nport = {box.ports[3]}\nheadroom = "6GiB"'
    box.write("", gpu0=f"{second}\nshare_gpu = true", count=1)
    box.place.ok("up", "--simulate", "1", "--config", str(box.file), "-d")
    (card,) = box.place.ok("plan", Q, "--simulated", "-o", "json").json["cards"]
    assert card["headroom_bytes"] == 6 * 1024**3


def test_it_lasts_over_down_and_a_killed_supervisor_and_can_be_ended_by_hand(box: Box) -> None:
    box.up("")
    box.apply(L)
    (name,) = box.pins()
    supervisor = box.place.status("--simulated")["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: box.place.status("--simulated")["supervisor"] is None, "the supervisor is gone")
    box.up("")
    box.wait_placed({name: {L}})
    box.place.ok("down", "--simulated")
    box.up("")
    box.wait_placed({name: {L}})

    box.place.ok("models", "unpin", L, "--simulated")

    assert box.pins() == {}
    kept = json.loads((box.place.state / "simulated" / "placement.json").read_text())
    assert kept["pins"] == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("plan", "--apply"), USAGE, "the configuration wants none"),
        (("plan", Q, "--no-wait"), USAGE, "belong to --apply"),
        (("plan", Q, "--apply", "--kv", "q8_0"), USAGE, "kv_cache_type"),
        (("plan", Q, "--apply", "--parallel", "2"), USAGE, "num_parallel"),
        (("plan", "nope", "--apply"), NOT_FOUND, "nope"),
    ],
)
def test_what_cannot_be_applied_is_told(simulation: Place, words: tuple[str, ...], code: int, said: str) -> None:
    found = simulation.run(*words, "--simulated")
    assert found.code == code and said in found.err and is_plain_error(found.err), found


def test_without_a_supervisor_nothing_is_applied(place: Place) -> None:
    place.config("a")
    found = place.run("plan", Q, "--apply")
    assert found.code == NOT_RUNNING and is_plain_error(found.err)


def test_why_replicas_have_no_place_is_true(box: Box) -> None:
    box.up("", count=2, extra="max_loaded_models = 1")

    def why(models: str) -> dict[str, str]:
        box.reload(models, count=2, extra="max_loaded_models = 1")
        found = box.place.run("plan", "--simulated", "-o", "json").json["unplaced"]
        return {one["model"]: one["reason"] for one in found}

    assert why(f'[models."{L}"]\nreplicas = 5') == {
        L: "3 of 5 replicas have none: there are no further cards that would hold another one"
    }
    drawn = " ".join(box.place.run("plan", "--simulated").out.split())
    assert f"{L} has too few cards: 3 of 5 replicas have none: " in drawn
    full = "there is memory for it, but the instances there load no more models (max_loaded_models)"
    assert why(f'[models."{L}"]\n[models."{N}"]\nreplicas = 2') == {N: f"1 of 2 replicas has none: {full}"}
    box.reload(f'[models."{L}"]', count=1)
    found = box.place.run("plan", "--gpu", "1", "--simulated", "-o", "json").json["unplaced"]
    assert [one["reason"] for one in found] == ["no instance that is up has one of these cards"]


# By itself


def test_auto_places_at_start_and_again_after_a_reload_and_moves_only_what_must_move(box: Box) -> None:
    box.up(f'[models."{L}"]\nreplicas = "all"', auto=True)
    box.wait_placed({"gpu0": {L}, "gpu1": {L}, "gpu2": {L}})
    before, loads = box.pids(), box.loads()

    box.reload(f'[models."{L}"]\nreplicas = "all"\n[models."{Q}"]\nprefer = "gpu2"', auto=True)

    box.wait_placed({"gpu0": {L}, "gpu1": {L}, "gpu2": {L, Q}})
    assert box.loads() == loads + 1 and box.pids() == before
    refused = box.place.run("plan", Q, "--apply", "--simulated")
    assert refused.code == REFUSED and 'placement = "auto"' in refused.err
    refused = box.place.run("models", "unpin", L, "--simulated")
    assert refused.code == REFUSED and "take [models" in refused.err

    box.reload("", auto=False)

    assert box.pins()["gpu2"] == {L, Q}, "what was placed stays until something else is"


def test_auto_moves_models_off_an_instance_that_is_stopped_and_leaves_them_where_they_went(box: Box) -> None:
    box.up(f'[models."{Q}"]\nprefer = "gpu1"', auto=True)
    box.wait_placed({"gpu1": {Q}})

    box.place.ok("stop", "gpu1", "--simulated")

    until(lambda: box.pins() and "gpu1" not in box.pins(), "it has moved", 30.0)
    box.place.ok("start", "gpu1", "--simulated")
    box.wait_placed({"gpu1": {Q}})


def test_auto_says_what_has_no_place_and_what_is_in_no_store(box: Box) -> None:
    box.up('[models."nope"]\n[models."qwen3:8b"]\nctx = 40960', auto=True, count=2, extra="num_parallel = 16")
    until(lambda: "nope has no place" in box.place.ok("events", "--simulated").out, "it is told", 30.0)
    told = box.place.ok("events", "--simulated").out
    assert "qwen3:8b has no place (it needs at least" in told and "there is no model nope" in told
    listed = box.place.run("models", "ls", "--simulated")
    assert listed.code == DEGRADED and "! no place" in listed.out and "no place: it needs at least" in listed.out
    found = box.place.run("plan", "--simulated", "-o", "json")
    assert found.code == DEGRADED
    assert {one["model"] for one in found.json["unplaced"]} == {"nope", Q}
    assert {change["change"] for one in found.json["unplaced"] for change in one["would_fit_if"]} >= {"parallel"}


def test_a_missing_model_is_fetched_where_the_configuration_says_so(box: Box) -> None:
    box.up('[models."qwen3:0.6b"]', auto=True, extra='pull = "missing"')
    until(lambda: any("qwen3:0.6b" in models for models in box.pins().values()), "it was fetched and placed", 60.0)


def test_what_no_table_wants_any_more_is_let_go(box: Box) -> None:
    box.up(f'[models."{L}"]', auto=True)
    until(box.pins, "it is placed", 30.0)
    box.reload("", auto=True)
    box.wait_placed({})

    box.reload(f'[models."{L}"]', auto=False)
    box.apply()
    assert box.pins()
    box.reload("", auto=False)
    told = box.place.ok("plan", "--apply", "--simulated")
    assert "what was placed is let go" in told.out
    box.wait_placed({})
    until(lambda: not box.place.status("--simulated")["models"], "it is unloaded")


def test_auto_moves_models_off_a_card_that_is_lost_and_lets_nothing_go_where_all_are(box: Box) -> None:
    box.up(f'[models."{Q}"]\nprefer = "gpu0"', auto=True, count=2)
    box.wait_placed({"gpu0": {Q}})

    box.place.ok("sim", "gpu-lost", "0", "--simulated")

    box.wait_placed({"gpu1": {Q}})
    box.place.ok("sim", "gpu-lost", "1", "--simulated")
    until(lambda: "no placement: there is no card" in box.place.ok("events", "--simulated").out, "it is told", 30.0)
    assert set(box.pins()) == {"gpu1"}


def test_M16_nothing_is_moved_while_the_driver_does_not_answer(box: Box) -> None:
    models = f'[models."{Q}"]\nprefer = "gpu0"'
    box.up(models, auto=True)
    box.wait_placed({"gpu0": {Q}})
    loads = box.loads()
    box.place.ok("sim", "nvml-hang", "--simulated")

    box.reload(models + f'\n[models."{L}"]\nprefer = "gpu2"', auto=True)

    until(lambda: "no placement: the cards cannot be read: " in box.place.ok("events", "--simulated").out, "told", 30.0)
    assert box.pins() == {"gpu0": {Q}} and box.loads() == loads
    by_hand = box.place.run("plan", "--apply", "--simulated")
    assert by_hand.code == DEGRADED and "the cards cannot be read" in by_hand.err and is_plain_error(by_hand.err)
    box.place.ok("sim", "clear", "--simulated")
    box.reload(models + f'\n[models."{L}"]\nprefer = "gpu1"', auto=True)
    box.wait_placed({"gpu0": {Q}, "gpu1": {L}})
    assert box.loads() == loads + 1


# Over several cards


def source(box: Box, name: str) -> str:
    """Return what a plan has its figures of a model from."""
    models = box.place.ok("plan", "--simulated", "-o", "json").json["models"]
    return str(next(model["source"] for model in models if model["name"] == name))


def test_a_model_larger_than_every_card_gets_an_instance_over_those_joined_best(box: Box) -> None:
    models = f'[models."{Q}"]\nctx = 40960\n[models."{L}"]'
    box.up(models, auto=False, count=4, extra="num_parallel = 8")
    plan = box.place.ok("plan", "--simulated", "-o", "json").json
    (span,) = plan["spans"]
    assert span["members"] == ["gpu2", "gpu3"] and span["instance"] == "gpu2-gpu3" and span["link"] == "host-bridge"
    picture = box.place.ok("plan", "--simulated").out
    assert "larger than every card" in picture and "ollamux plan --apply adds" in " ".join(picture.split())
    before = box.pids()

    box.apply()

    until(lambda: box.pins().get("gpu2-gpu3") == {Q}, "it is loaded over two cards", 30.0)
    status = box.place.status("--simulated")
    over = next(one for one in status["instances"] if one["name"] == "gpu2-gpu3")
    assert over["gpus"] == span["cards"] and over["phase"] == "READY" and over["port"] not in box.ports
    assert {name: pid for name, pid in box.pids().items() if name in before} == before
    until(lambda: source(box, Q) == "calibrated", "it was measured")
    again = box.place.ok("plan", "--simulated", "-o", "json").json
    assert again["spans"] == [] and {one["instance"] for one in again["placement"]} >= {"gpu2-gpu3"}
    held = {process["gpu"]: process["memory_bytes"] for process in box.place.status("--simulated")["processes"]}
    assert sum(held[uuid] for uuid in over["gpus"]) == next(
        model["measured_total_bytes"] for model in again["models"] if model["name"] == Q
    )

    box.place.ok("down", "--simulated")
    box.up(models, auto=False, count=4, extra="num_parallel = 8")
    until(lambda: box.pins().get("gpu2-gpu3") == {Q}, "it is there again", 30.0)
    box.apply(L)
    until(lambda: "gpu2-gpu3" not in box.pids(), "nobody needs it any more", 30.0)


def test_an_upgrade_goes_on_with_an_added_instance(box: Box) -> None:
    box.up(f'[models."{Q}"]\nctx = 40960', count=2, extra="num_parallel = 4")
    box.apply()
    until(lambda: box.pins().get("gpu0-gpu1") == {Q}, "it is loaded over two cards", 30.0)
    before, loads = box.pids(), box.loads()

    box.place.ok("upgrade", "--simulated")

    until(lambda: box.pins() == {"gpu0-gpu1": {Q}}, "it is kept as before", 30.0)
    assert box.pids() == before and box.loads() == loads


def test_an_added_instance_leaves_its_port_to_one_that_is_configured(box: Box) -> None:
    models = f'[models."{Q}"]\nctx = 40960'
    box.up(models, count=2, extra="num_parallel = 4")
    box.apply()
    until(lambda: box.pins().get("gpu0-gpu1") == {Q}, "it is loaded over two cards", 30.0)
    port = next(one["port"] for one in box.place.status("--simulated")["instances"] if one["name"] == "gpu0-gpu1")

    box.reload(f"[instances.late]\ngpus = []\nport = {port}\n{models}", count=2, extra="num_parallel = 4")

    ports = {one["name"]: (one["port"], one["phase"]) for one in box.place.status("--simulated")["instances"]}
    assert ports["late"] == (port, "READY") and ports["gpu0-gpu1"][0] != port, ports
    until(lambda: box.pins().get("gpu0-gpu1") == {Q}, "it is loaded again", 30.0)


def test_a_damaged_placement_is_none(box: Box, tmp_path: Path) -> None:
    from ollamux.supervisor.placements import kept_placement

    file = tmp_path / "placement.json"
    spans = [
        json.dumps([{"name": name, "members": ["a", "b"], "port": port}]) for name, port in (("../x", 1), ("x", 0))
    ]
    whole = ['{"schema": "ollamux.placement/1", "pins": [], "unplaced": [], "spans": ' + each + "}" for each in spans]
    for text in (
        *whole,
        "",
        "{",
        "[]",
        '{"schema": "ollamux.placement/1"}',
        '{"schema": "ollamux.placement/1", "pins": 3}',
    ):
        file.write_text(text)
        assert kept_placement(str(tmp_path)) is None
