"""Find the devices a server may use, as ollama's discovery does: masks, libraries, and the short-lived children.

No recording holds a line about a GPU. The lines written here follow ollama's source (discover/types.go and
discover/runner.go at v0.32.15 and v0.24.0) and are unverified on hardware.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ollamux.gpu.model import Gpu
from ollamux.gpu.simulated import CUDA, sample, visible_cards
from ollamux.simulation import environment, faults
from ollamux.simulation.golang import binary_size
from ollamux.simulation.logs import Log
from ollamux.simulation.memory import card_facts, free_bytes, usable_bytes
from ollamux.simulation.process import program, spawn
from ollamux.simulation.runners import free_port

MASKS = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HSA_OVERRIDE_GFX_VERSION",
)
_HOST_TOTAL = "23.5 GiB"
_HOST_FREE = "23.1 GiB"
_WATCHDOG_S = 30.0
_PROBE_S = 0.012


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as the server knows it from its start on: `name` is "CUDA0", `filter_id` the user's own token."""

    card: Gpu
    library: str
    ordinal: int
    filter_id: str

    @property
    def name(self) -> str:
        """Return the name llama.cpp gives it."""
        return f"{self.library}{self.ordinal}"


class Discovery:
    """Looks for devices once. `kill` ends its child when the server has to stop meanwhile."""

    def __init__(self, log: Log, box: Path | None, instance: str | None) -> None:
        self.log, self.box, self.instance = log, box, instance
        self.speed = environment.speed()
        self._child: int | None = None

    def kill(self) -> None:
        """End the child that is at work."""
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)

    def run(self) -> tuple[Device, ...]:
        """Run the children, then tell the devices and return them."""
        self.log.info("discovering", "discovering available GPUs...")
        overrides = {name: environment.variable(name) for name in MASKS if environment.variable(name)}
        if overrides:
            self.log.warning("overrode", "user overrode visible devices", **overrides)
            self.log.warning("unset", "if GPUs are not correctly discovered, unset and try again")
        found = () if not self._probed() else self.find()
        self._tell(found)
        return found

    def _probed(self) -> bool:
        """Run the short-lived children; false where they do not answer in time or are missing."""
        programs = environment.programs()
        port = str(free_port())
        if not self.log.era.has_llama_server:
            argv = [*program(programs, "bin/ollama", "ollama"), "runner", "--ollama-engine", "--port", port]
            self.log.info("start-runner", "starting runner", cmd=" ".join(argv))
            return self._child_answers(argv)
        binary = program(programs, "lib/ollama/llama-server", "llama_server")
        if programs is not None and not Path(binary[0]).exists():
            self.log.info(
                "discovery-failure",
                "failure during llama-server GPU discovery",
                OLLAMA_LIBRARY_PATH=f"[{programs / 'bin'}]",
                extra_envs="map[]",
                error=missing_text(programs),
                detail="",
            )
            return False
        offline = ["--offline", "--verbose"]
        first = [*binary, "--port", port, "--host", "127.0.0.1", "--no-webui", *offline]
        probe = [*program(programs, "bin/ollama", "ollama"), "gpu-discover", "--lib-dir", str(Path(binary[0]).parent)]
        return all(map(self._child_answers, (first, [*binary, "--list-devices", *offline], probe)))

    def _child_answers(self, argv: Sequence[str]) -> bool:
        if environment.programs() is None:
            return True
        asked, tell = os.pipe()
        hear, said = os.pipe()
        null = os.open("/dev/null", os.O_WRONLY)
        self._child = spawn(argv, os.environ, stdin=asked, stdout=said, stderr=null)
        for fd in (asked, said, null):
            os.close(fd)
        try:
            time.sleep(_PROBE_S / self.speed)
            os.write(tell, b"system_info:\n")
            answered = bool(select.select([hear], [], [], _WATCHDOG_S)[0])
        except BrokenPipeError:
            answered = True
        finally:
            pid, self._child = self._child, None
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(tell)
            os.close(hear)
        if not answered:
            self._timed_out(str(Path(argv[0]).parent))
        return answered

    def _timed_out(self, library: str) -> None:
        common = {"OLLAMA_LIBRARY_PATH": f"[{library}]", "extra_envs": "map[]"}
        late = "context deadline exceeded"
        if not self.log.era.has_llama_server:
            error = "failed to finish discovery before timeout"
            self.log.info("discovery-failure", "failure during GPU discovery", **common, error=error, detail="")
            return
        self.log.warning("watchdog", "llama-server GPU discovery watchdog timed out", **common, error=late)
        message = "failure during llama-server GPU discovery"
        self.log.info("discovery-failure", message, **common, error=late, detail="")

    def find(self) -> tuple[Device, ...]:
        """Return the devices that masks, libraries and faults leave, best first."""
        if self.box is None or faults.is_active(self.box, "cpu-fallback", self.instance):
            return ()
        cards = sample(self.box)
        wanted = environment.variable("OLLAMA_LLM_LIBRARY").lower()
        mask = environment.variable("CUDA_VISIBLE_DEVICES")
        found: list[Device] = []
        if not wanted or wanted.startswith("cuda"):
            found += _devices("CUDA", visible_cards(cards, mask), mask)
        if not wanted or wanted.startswith("rocm"):
            found += self._rocm(cards, mask)
        if wanted in ("", "vulkan") and environment.flag("OLLAMA_VULKAN", self.log.era.has_llama_server):
            found += _vulkan(cards, {device.card.uuid for device in found})
        if faults.is_active(self.box, "wrong-gpu", self.instance):
            found = _swapped(found, cards)
        return tuple(sorted(found, key=lambda device: -free_bytes(device.card)))

    def _rocm(self, cards: Sequence[Gpu], cuda_mask: str) -> list[Device]:
        masks = [environment.variable(f"{name}_VISIBLE_DEVICES") for name in ("ROCR", "HIP")]
        masks.append(environment.variable("GPU_DEVICE_ORDINAL"))
        masks.append(cuda_mask if cuda_mask.lstrip("-").replace(",", "").isdigit() else "")
        mask = next((text for text in masks if text), "")
        return _devices("ROCm", visible_cards(cards, mask, "amd"), mask)

    def _tell(self, devices: Sequence[Device]) -> None:
        # Order and names of the values: discover/types.go at v0.32.15.
        new = self.log.era.has_llama_server
        for device in devices:
            self.log.info(
                "compute",
                "inference compute",
                id=device.ordinal if new else device.card.uuid,
                filter_id=device.filter_id,
                library=device.library,
                compute=card_facts(device.card)[0] if device.library != "Vulkan" else "0.0",
                name=device.name,
                description=device.card.name,
                libdirs={"CUDA": "ollama,cuda_v13", "ROCm": "ollama,rocm_v7_2"}.get(device.library, "ollama,vulkan"),
                driver={"CUDA": CUDA, "ROCm": "60342.13"}.get(device.library, "0.0"),
                pci_id=device.card.pci or "",
                type="discrete",
                total=binary_size(usable_bytes(device.card)),
                available=binary_size(free_bytes(device.card)),
            )
        if not devices:
            self.log.info(
                "compute",
                "inference compute",
                id="cpu",
                library="cpu",
                compute="",
                name="cpu",
                description="cpu",
                libdirs="ollama",
                driver="",
                pci_id="",
                type="",
                total=_HOST_TOTAL,
                available=_HOST_FREE,
            )


def _devices(library: str, cards: Sequence[Gpu], mask: str) -> list[Device]:
    tokens = [token.strip() for token in mask.split(",")] if mask.strip() else []
    return [
        Device(card=card, library=library, ordinal=i, filter_id=tokens[i] if i < len(tokens) else "")
        for i, card in enumerate(cards)
    ]


def _vulkan(cards: Sequence[Gpu], known: set[str]) -> list[Device]:
    """Vulkan heeds no CUDA mask: every other card is there again, the trap of ollama 0.30 and later."""
    mask = environment.variable("GGML_VK_VISIBLE_DEVICES")
    whole = [card for card in cards if card.mig_parent is None and card.state != "lost"]
    if mask:
        numbers = [int(token) for token in mask.split(",") if token.strip().isdigit()]
        whole = [whole[number] for number in numbers if number < len(whole)]
    taken = known | {card.mig_parent for card in cards if card.uuid in known and card.mig_parent}
    return _devices("Vulkan", [card for card in whole if card.uuid not in taken], "")


def _swapped(devices: Sequence[Device], cards: Sequence[Gpu]) -> list[Device]:
    """Put another card behind every device, with the token the user gave."""
    used = {device.card.uuid for device in devices}
    others = [card for card in cards if card.uuid not in used and card.state == "ok" and card.mig_parent is None]
    others = [card for card in others if not any(other.mig_parent == card.uuid for other in cards)]
    pairs = zip(devices, others, strict=False)
    return [
        Device(card=card, library=device.library, ordinal=device.ordinal, filter_id=device.filter_id)
        for device, card in pairs
    ] or list(devices)


def missing_text(programs: Path) -> str:
    """Return the error about a missing llama-server, as recorded."""
    bin_, root = programs / "bin", programs
    folders = [bin_, root / "lib/ollama", bin_ / "build/lib/ollama", bin_ / "dist/linux-amd64/lib/ollama"]
    folders += [bin_ / "dist/linux_amd64/lib/ollama"]
    here = Path(environment.home() or "/")
    folders += [here / "lib/ollama", here / "linux-amd64/lib/ollama", here / "linux_amd64/lib/ollama"]
    checked = ", ".join(str(folder / "llama-server") for folder in folders)
    advice = "Run 'cmake -S llama/server --preset cpu && cmake --build --preset cpu' first"
    return f"llama-server binary not found (checked: {checked}). {advice}"
