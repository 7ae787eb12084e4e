"""A plan is written as the schema says."""

from __future__ import annotations

from ollamux.domain.plan import LayerNeed, ModelNeed, Placed, Plan, PlanCard, Remedy, Span, Unplaced, as_json


def need(name: str, size: int, least: int | None = None) -> ModelNeed:
    return ModelNeed(
        name=name,
        digest="d",
        architecture="llama",
        parameters=1,
        quantization=None,
        context_length=8192,
        parallel=1,
        kv_type="f16",
        flash_attention=True,
        batch=512,
        least_bytes=size if least is None else least,
        layers=(
            LayerNeed(number=0, kind="attention", weights_bytes=size, kv_bytes=0, state_bytes=0, on_card=True),
            LayerNeed(number=None, kind="output", weights_bytes=0, kv_bytes=0, state_bytes=0, on_card=False),
        ),
        weights_bytes=size,
        kv_bytes=0,
        state_bytes=0,
        compute_bytes=0,
        projector_bytes=0,
        overhead_bytes=0,
        host_bytes=5,
        source="metadata",
    )


def card(number: int, size: int, headroom: int = 0) -> PlanCard:
    return PlanCard(uuid=f"GPU-{number}", mark=str(number), name="card", total_bytes=size, headroom_bytes=headroom)


def test_as_json() -> None:
    one, two = need("a", 5), need("b", 50)
    placed = (Placed(model="a", instance=None, shares=(("GPU-0", 5),)),)
    remedy = Remedy(what="kv_type", value="q8_0", total_bytes=8)
    plan = Plan(
        version="1",
        time="t",
        simulated=False,
        models=(one, two),
        cards=(card(0, 10, 1),),
        placement=placed,
        unplaced=(Unplaced(model="b", reason="too large", remedies=(remedy,)),),
        spans=(Span(instance="a-b", members=("a", "b"), cards=("GPU-0", "GPU-1"), link="nvlink", nvlinks=4),),
        kept=(Placed(model="c", instance="gpu0", shares=(("GPU-0", 2),), present=True, pinned=True),),
    )
    plain = as_json(plan)
    assert plain["schema"] == "ollamux.plan/1"
    assert plain["cards"] == [
        {
            "uuid": "GPU-0",
            "name": "card",
            "total_bytes": 10,
            "headroom_bytes": 1,
            "others_bytes": 0,
            "planned_bytes": 5,
            "kept_bytes": 2,
        }
    ]
    assert plain["placement"] == [
        {"model": "a", "instance": None, "cards": ["GPU-0"], "bytes": 5, "present": False, "pinned": False}
    ]
    assert plain["kept"][0]["model"] == "c" and plain["kept"][0]["pinned"] is True
    assert plain["spans"] == [
        {"instance": "a-b", "members": ["a", "b"], "cards": ["GPU-0", "GPU-1"], "link": "nvlink", "nvlinks": 4}
    ]
    assert plain["unplaced"][0]["would_fit_if"] == [{"change": "kv_type", "value": "q8_0", "total_bytes": 8}]
    model = plain["models"][0]
    assert (model["layers"]["total"], model["layers"]["offloaded"]) == (2, 1)
    assert model["total_bytes"] == 5 and model["measured_total_bytes"] is None and model["quantization"] is None
