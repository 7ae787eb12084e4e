"""Models are read from stores that may hang."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from ollamux.cli import needing
from ollamux.cli.ground import Ground
from ollamux.domain.errors import TimedOutError
from ollamux.domain.placed import Placement
from ollamux.domain.spec import FleetSpec, InstanceSpec, ModelSpec, Pinning
from ollamux.gpu.model import Inventory


def test_a_store_that_does_not_answer_is_told_and_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hangs, asked = Event(), []

    def read(store: Path, name: str) -> None:
        asked.append(name)
        hangs.wait()

    monkeypatch.setattr(needing, "read_model", read)
    monkeypatch.setattr(needing, "STORE_PATIENCE_S", 0.05)
    spec = InstanceSpec(name="a", port=1, pinning=Pinning.CPU, store=str(tmp_path), ollama="/nowhere/ollama")
    ground = Ground(
        fleet=FleetSpec(instances=(spec,)),
        specs=(spec,),
        usual=spec,
        view=None,
        standing=Placement(),
        inventory=Inventory(),
        cards=(),
        seats=(),
        simulated=False,
    )
    needs = needing.Needs(ground, needing.Settings())
    try:
        for name in ("m", "n"):
            with pytest.raises(TimedOutError, match=f"the store {tmp_path} did not answer within 0.05 s"):
                needs.wish(ModelSpec(name=name), spec)
        assert asked == ["m"]
    finally:
        hangs.set()
