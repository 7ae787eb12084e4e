"""A real server without a GPU, pinned to a card that only the stand-in driver shows: it falls to the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from standin_rig import SCENES, built

from .box import Box

pytestmark = pytest.mark.real_ollama


@pytest.fixture
def cards(tmp_path: Path) -> dict[str, str]:
    """Return the environment in which the driver shows two cards."""
    scene = SCENES / "two-cards.state"
    return {"LD_LIBRARY_PATH": str(built(tmp_path / "library")), "STANDIN_NVML": str(scene)}


def test_a_fallback_to_the_cpu_is_told_at_the_start_with_the_line_that_proves_it(
    box: Box, cards: dict[str, str]
) -> None:
    box.configure({"a": {"gpus": [0]}, "b": {"gpus": []}})

    up = box.run("up", "-d", "--config", str(box.config), env=box.env | cards)

    card = "GPU 0 (NVIDIA GeForce RTX 3090)"
    told = f"ollama found no GPU and fell back to the CPU instead of {card}"
    assert up.returncode == 6
    assert f"but degraded: {told}" in up.stderr
    found = box.instance("a")
    assert (found["phase"], found["health"], found["pinning"]) == ("READY", "degraded", "cpu")
    assert found["generation"] == 2, "one restart, in case the driver was only late"
    proof = next(reason for reason in box.reasons("a") if reason.startswith(f"{told}; the log says: "))
    assert "library=cpu" in proof and proof.partition("the log says: ")[2] in box.log("a")
    assert box.instance("b")["health"] == "ok", "what is meant for the CPU has not fallen"
    doctor = box.run("doctor", "--config", str(box.config), env=box.env | cards)
    assert "instance-degraded" in doctor.stdout
