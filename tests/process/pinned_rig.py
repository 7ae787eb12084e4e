"""One instance on the first of the two cards of a driver that can be told what to say: the stand-in of tests/gpu."""

from __future__ import annotations

from typing import Any

from process_box import Box, wait_for
from standin_rig import SCENES, Driver

UUID = "GPU-8f3c2a90-51d7-4c3e-9b06-000000000000"
OTHER = "GPU-8f3c2a91-51d7-4c3e-9b06-000000000001"
TEXT = (SCENES / "two-cards.state").read_text()
DEVICE = (
    f'time=2026-01-01T00:00:00.000Z level=INFO source=types.go:42 msg="inference compute" id=0 filter_id={UUID} '
    'library=CUDA compute=8.6 name=CUDA0 description="NVIDIA GeForce RTX 3090" libdirs=ollama,cuda_v13 driver=13.0 '
    'pci_id=0000:17:00.0 type=discrete total="24.0 GiB" available="23.6 GiB"'
)
CPU = (
    'time=2026-01-01T00:00:00.000Z level=INFO source=types.go:60 msg="inference compute" id=cpu library=cpu compute="" '
    'name=cpu description=cpu libdirs=ollama driver="" pci_id="" type="" total="23.4 GiB" available="22.1 GiB"'
)
SAMPLES = {"ollamux.supervisor.gpus.SAMPLE_INTERVAL_S": 0.1}


class Pinned:
    """A box with one instance, `a`, on the first of the two cards of a driver that can be told what to say."""

    def __init__(self, box: Box, driver: Driver) -> None:
        self.box, self.driver = box, driver
        box.env |= {name: driver.env[name] for name in ("LD_LIBRARY_PATH", "STANDIN_NVML")}
        driver.says(TEXT)

    def up(self, *, line: str = DEVICE, policies: dict[str, str] | None = None) -> dict[str, Any]:
        self.box.config(instances={"a": {"gpus": [0], "on": policies or {}}})
        self.box.set("a", "device-lines", line)
        self.box.up(haste=SAMPLES)
        return self.box.instance("a")

    def says(self, *lines: str) -> None:
        """Let the driver say these things in place of what it said of them."""
        for line in lines:
            scope, key, _ = line.split(" ", 2)
            assert any(known.startswith(f"{scope} {key} ") for known in TEXT.splitlines()) or key in (
                "processes",
                "state",
            )
        self.driver.says("\n".join(lines) + "\n" + TEXT)

    def degraded(self, words: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            one = self.box.instance("a")
            return one if one["health"] == "degraded" and words in one["reason"] else None

        return wait_for(found, f"a is degraded: {words}")

    def well(self) -> dict[str, Any]:
        return wait_for(lambda: (one := self.box.instance("a")) and one["health"] == "ok" and one, "a is well")

    def told(self, words: str) -> int:
        return sum(words in reason for reason in self.box.reasons())
