"""Ten boxes with what people want of them, each with its picture: where the models go, what has no place and why.

After a deliberate change: OLLAMUX_REWRITE_GOLDEN=1 pytest -n0 tests/cli/test_ten_boxes.py, and read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from ollamux.cli.ground import Ground
from ollamux.cli.needing import Settings
from ollamux.cli.planning import Planner
from ollamux.domain.placed import PlacedPin, Placement
from ollamux.domain.plan import Plan, PlanCard
from ollamux.domain.seats import Seat
from ollamux.domain.snapshot import LinkView
from ollamux.domain.spans import Links
from ollamux.domain.spec import EVERY_CARD, FleetSpec, GpuRef, GpuRefKind, InstanceSpec, ModelSpec, Pinning, PinSpec
from ollamux.gpu.model import Inventory
from ollamux.render.pen import Pen
from ollamux.render.plan import draw_plan
from ollamux.simulation.catalogue import CATALOGUE
from ollamux.simulation.store import install

GOLDEN = Path(__file__).parent / "boxes.txt"
GIB = 1024**3
SPEC = InstanceSpec(name="x", port=1, pinning=Pinning.GPUS)
MODELS = (
    *("qwen3:8b", "qwen3:14b", "qwen3:32b", "llama3.2:3b", "llama3.3:70b", "qwen2.5:72b", "gemma3:27b"),
    "nomic-embed-text:latest",
)


@dataclass(frozen=True, kw_only=True)
class Box:
    """Cards as (name, GiB), what is wanted of them, and how they are configured and joined."""

    cards: Sequence[tuple[str, int]]
    models: Sequence[ModelSpec]
    settings: InstanceSpec = SPEC
    preload: Any = ()
    placed: Sequence[PlacedPin] = ()
    joined: Any = ()
    others: int = 0
    fits: bool = True


def want(name: str, ctx: int | None = None, replicas: int = 1, *prefer: str) -> ModelSpec:
    return ModelSpec(name=name, ctx=ctx, replicas=replicas, prefer=prefer)


BOXES = {
    "one card, three models": Box(
        cards=[("GeForce RTX 4090", 24)],
        models=[want("qwen3:8b", 16384), want("llama3.2:3b"), want("nomic-embed-text")],
    ),
    "two cards, a model on each, and a small one wherever it fits": Box(
        cards=[("GeForce RTX 3090", 24)] * 2,
        models=[want("qwen3:14b", 16384, 2), want("nomic-embed-text", None, EVERY_CARD)],
    ),
    "a model larger than a card, over the two that NVLink joins": Box(
        cards=[("GeForce RTX 3090", 24)] * 4,
        models=[want("llama3.3:70b", 4096), want("qwen3:8b", 8192, 2)],
        joined=[((1, 3), "nvlink", 4), ((0, 1), "host-bridge", None), ((2, 3), "host-bridge", None)],
    ),
    "unequal cards, used for what they can hold": Box(
        cards=[("GeForce RTX 3090", 24), ("RTX A2000 12GB", 12), ("GeForce RTX 4090", 24), ("RTX A6000", 48)],
        models=[want("qwen3:32b", 16384), want("qwen3:14b", 8192), want("qwen3:8b", 8192), want("gemma3:27b", 8192)],
    ),
    "eight cards: two models over several, small ones on all": Box(
        cards=[("A100-SXM4-40GB", 40)] * 8,
        models=[want("llama3.3:70b", 32768), want("qwen2.5:72b", 16384), want("llama3.2:3b", 8192, EVERY_CARD)],
        joined=[(pair, "nvlink", 12) for pair in combinations(range(8), 2)],
    ),
    "more than there is room for": Box(
        cards=[("Tesla P40", 24)] * 2,
        models=[want("qwen3:32b", 16384, 2), want("qwen3:14b", 8192), want("gemma3:27b", 32768)],
        settings=replace(SPEC, num_parallel=4),
        fits=False,
    ),
    "small cards: over two of them what one does not hold": Box(
        cards=[("GeForce RTX 3060", 12)] * 3,
        models=[want("gemma3:27b", 8192), want("llama3.2:3b", 8192)],
        joined=[((0, 1), "switch", None), ((1, 2), "system", None), ((0, 2), "system", None)],
    ),
    "a quantised cache, much headroom, and others on the cards": Box(
        cards=[("GeForce RTX 4070", 12)] * 2,
        models=[want("qwen3:8b", 32768, 2)],
        settings=replace(SPEC, kv_cache_type="q8_0", headroom_bytes=2 * GIB),
        others=GIB // 2,
    ),
    "what is kept there already counts": Box(
        cards=[("GeForce RTX 3090", 24), ("GeForce RTX 3090", 24)],
        models=[want("qwen3:8b", 16384, 2), want("qwen3:14b", 16384)],
        preload={0: (PinSpec(name="qwen3:8b", num_ctx=16384),), 1: (PinSpec(name="nomic-embed-text"),)},
    ),
    "one more model: the others stay where they are": Box(
        cards=[("GeForce RTX 3090", 24)] * 3,
        models=[want("qwen3:8b", 8192), want("qwen3:14b", 8192), want("llama3.2:3b", 8192), want("qwen3:32b", 4096)],
        placed=[
            PlacedPin(instance="gpu2", model="qwen3:8b", num_ctx=8192),
            PlacedPin(instance="gpu0", model="qwen3:14b", num_ctx=8192),
        ],
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for spec in CATALOGUE.values():
        if spec.name in MODELS:
            install(root, spec)
    return root


def planned(box: Box, store: Path) -> Plan:
    specs = [
        replace(
            box.settings,
            name=f"gpu{number}",
            port=11435 + number,
            gpus=(GpuRef(kind=GpuRefKind.INDEX, value=str(number)),),
            store=str(store),
            ollama="/nowhere/ollama",
            preload=dict(box.preload).get(number, ()),
        )
        for number in range(len(box.cards))
    ]
    headroom = GIB if box.settings.headroom_bytes is None else box.settings.headroom_bytes
    cards = tuple(
        PlanCard(
            uuid=f"GPU-{number}",
            mark=str(number),
            name=f"NVIDIA {name}",
            total_bytes=size * GIB,
            headroom_bytes=headroom,
            others_bytes=box.others,
        )
        for number, (name, size) in enumerate(box.cards)
    )
    ground = Ground(
        fleet=FleetSpec(instances=tuple(specs), models=tuple(box.models)),
        specs=tuple(specs),
        usual=specs[0],
        view=None,
        standing=Placement(pins=tuple(box.placed)),
        inventory=Inventory(),
        cards=cards,
        seats=tuple(
            Seat(name=spec.name, instance=spec.name, cards=(card.uuid,), slots=3)
            for spec, card in zip(specs, cards, strict=True)
        ),
        simulated=False,
        look_at_links=lambda: links(box),
    )
    return replace(Planner(ground, Settings()).plan(box.models, lenient=False), version="0", time="")


def links(box: Box) -> Links:
    found = {}
    for one, other in combinations(range(len(box.cards)), 2):
        kind, nvlinks = next((way for pair, *way in box.joined if set(pair) == {one, other}), ("system", None))
        names = f"GPU-{one}", f"GPU-{other}"
        found[frozenset(names)] = LinkView(a=names[0], b=names[1], kind=kind, nvlinks=nvlinks)
    return found


def pictures() -> dict[str, str]:
    found: dict[str, str] = {}
    for part in GOLDEN.read_text(encoding="utf-8").split("=== ")[1:]:
        title, _, picture = part.partition("\n\n")
        found[title] = picture.rstrip("\n")
    return found


@pytest.mark.parametrize("title", BOXES)
def test_ten_boxes_with_their_pictures(title: str, store: Path) -> None:
    plan = planned(BOXES[title], store)
    drawn = draw_plan(Pen(width=100, color=False, unicode=True), plan).rstrip("\n")
    if os.environ.get("OLLAMUX_REWRITE_GOLDEN"):
        known = pictures() if GOLDEN.exists() else {}
        known[title] = drawn
        text = "\n\n".join(f"=== {name}\n\n{known[name]}" for name in BOXES if name in known)
        GOLDEN.write_text(text + "\n", encoding="utf-8")
    assert drawn == pictures()[title]
    assert (plan.unplaced == ()) is BOXES[title].fits


@pytest.mark.parametrize("title", BOXES)
def test_no_card_holds_more_than_its_room_and_replicas_are_apart(title: str, store: Path) -> None:
    plan = planned(BOXES[title], store)
    for card in plan.cards:
        assert plan.planned_bytes(card.uuid) + plan.kept_bytes(card.uuid) <= card.room_bytes
    for model in plan.models:
        cards = [uuid for placed in plan.placement if placed.model == model.name for uuid, _ in placed.shares]
        assert len(cards) == len(set(cards))


def test_few_moves(store: Path) -> None:
    plan = planned(BOXES["one more model: the others stay where they are"], store)
    where = {placed.model: placed.instance for placed in plan.placement}
    assert (where["qwen3:8b"], where["qwen3:14b"]) == ("gpu2", "gpu0")
    assert where["qwen3:32b"] == "gpu1"
