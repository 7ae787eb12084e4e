"""Memory of a card that comes back late: a respawn waits for it, for a while, and says for what."""

from __future__ import annotations

import os
import signal

import pytest
from process_box import Box, Supervisor, alive, wait_for

from ollamux.gpu.simulated import Usage, fault_path, write_usage
from ollamux.simulation.box import create_box, default_cards

GIB = 1 << 30
CARD = default_cards(2)[1]
DEVICE = (
    f'time=2026-01-01T00:00:00.000Z level=INFO source=types.go:42 msg="inference compute" id=0 filter_id={CARD.uuid} '
    f'library=CUDA compute=8.6 name=CUDA0 description="{CARD.name}" libdirs=ollama,cuda_v13 driver=13.0 '
    f'pci_id={CARD.pci} type=discrete total="24.0 GiB" available="23.6 GiB"'
)
SAMPLES = {"ollamux.supervisor.gpus.SAMPLE_INTERVAL_S": 0.2, "ollamux.supervisor.vram.LOOK_S": 0.05}


class Cards:
    """A box with two simulated cards and one instance `a` of the fake server, pinned to the second."""

    def __init__(self, box: Box) -> None:
        self.box = box
        box.state, box.runtime, box.logs = (path / "simulated" for path in (box.state, box.runtime, box.logs))
        self.folder = box.state / "box"
        create_box(self.folder, default_cards(2))
        for folder in (box.state, box.state.parent):
            folder.chmod(0o700)
        self.haste = SAMPLES

    def up(self, *, haste: dict[str, float] | None = None) -> Supervisor:
        box = self.box
        config = box.config(instances={"a": {"gpus": [1]}})
        box.set("a", "device-lines", DEVICE)
        words = ("--simulated", "--config", str(config))
        supervisor = box.start(*words, haste=self.haste | (haste or {}))
        wait_for(lambda: box.listens(supervisor.pid), "it listens")
        box.wait_ready()
        return supervisor

    def fault(self, name: str, target: str | None = CARD.uuid) -> None:
        fault_path(self.folder, name, target).write_text("")

    def clear(self, name: str, target: str | None = CARD.uuid) -> None:
        fault_path(self.folder, name, target).unlink()

    def take(self, pid: int, size: int) -> None:
        """Let a process hold memory of the card, and wait until the supervisor has seen it."""
        write_usage(self.folder, Usage(pid=pid, name="llama-server", memory={CARD.uuid: size}))
        wait_for(lambda: pid in [one["pid"] for one in self.box.status()["processes"] if one["gpu"]], "it is seen")


@pytest.fixture
def cards(box: Box) -> Cards:
    return Cards(box)


def runner_of(box: Box) -> int:
    return wait_for(lambda: box.runners("a"), "its runner")[0]


def test_R4_a_respawn_waits_until_the_memory_is_back(cards: Cards) -> None:
    box = cards.box
    box.set("a", "runners", 1)
    cards.up(haste={"ollamux.supervisor.vram.LIMIT_S": 3600, "ollamux.supervisor.vram.ANSWER_S": 3600})
    runner = runner_of(box)
    cards.take(runner, 6 * GIB)
    cards.fault("vram-late")

    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    wait_for(lambda: "6.0 GiB" in (box.instance("a")["reason"] or ""), "it says what it waits for")

    waiting = box.instance("a")
    assert waiting["phase"] == "WAITING"
    assert waiting["reason"].endswith(
        f"waits for 6.0 GiB on GPU 1 to be freed (pid {runner} is gone, the driver still counts it)"
    )
    assert "killed by SIGKILL" in waiting["reason"], "the end of the earlier one is not forgotten"
    assert (waiting["next_action"], waiting["health"]) == ("start anyway", "unknown")
    assert len(box.starts("a")) == 1
    cards.clear("vram-late")
    box.wait_started("a", 2)
    assert box.instance("a")["restarts"] == 1


def test_R4_the_driver_is_asked_at_the_end_and_not_at_its_next_turn(cards: Cards) -> None:
    box = cards.box
    box.set("a", "runners", 1)
    cards.up(haste={"ollamux.supervisor.gpus.SAMPLE_INTERVAL_S": 3600, "ollamux.supervisor.vram.LIMIT_S": 3600})
    runner = runner_of(box)
    write_usage(cards.folder, Usage(pid=runner, name="llama-server", memory={CARD.uuid: 2 * GIB}))
    cards.fault("vram-late")

    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    wait_for(lambda: "waits for 2.0 GiB" in (box.instance("a")["reason"] or ""), "though it was never seen alive")
    cards.clear("vram-late")
    box.wait_started("a", 2)


def test_R4_a_driver_that_keeps_the_memory_is_not_waited_for_for_ever(cards: Cards) -> None:
    box = cards.box
    box.set("a", "runners", 1)
    cards.up(haste={"ollamux.supervisor.vram.LIMIT_S": 0.5, "ollamux.supervisor.vram.ANSWER_S": 3600})
    runner = runner_of(box)
    cards.take(runner, 3 * GIB)
    cards.fault("vram-late")

    assert box.ask("restart", names=["a"])["exit"] == 0, "who asked waits with it"

    assert len(box.starts("a")) == 2
    said = [reason for reason in box.reasons() if reason.startswith("starts although")]
    assert said == [
        "starts although 3.0 GiB on GPU 1 were not freed within 0.5 s of its end"
        f" (pid {runner} is gone, the driver still counts it); the driver may keep them until the card is reset"
    ]
    for pid in box.runners("a"):
        os.kill(pid, signal.SIGKILL)
    box.ask("restart", names=["a"])
    assert len(box.starts("a")) == 3
    assert len([reason for reason in box.reasons() if "starts although" in reason]) == 1, "what it kept is old news"


def test_R4_memory_of_strangers_holds_nobody_back(cards: Cards) -> None:
    box = cards.box
    box.set("a", "runners", 1)
    cards.up(haste={"ollamux.supervisor.vram.LIMIT_S": 3600, "ollamux.supervisor.vram.ANSWER_S": 3600})
    stranger = box.stranger("/bin/sleep", "3600")
    cards.take(stranger.pid, 20 * GIB)
    cards.take(runner_of(box), 1 * GIB)

    for count in (2, 3):
        os.kill(box.instance("a")["pid"], signal.SIGKILL)
        box.wait_started("a", count)

    assert not [reason for reason in box.reasons() if "to be freed" in reason]


def test_R66_a_driver_that_does_not_answer_holds_nobody_back(cards: Cards) -> None:
    box = cards.box
    box.set("a", "runners", 1)
    cards.up(haste={"ollamux.supervisor.vram.LIMIT_S": 3600, "ollamux.gpu.client.DEADLINE_S": 3600})
    cards.take(runner_of(box), 6 * GIB)
    cards.fault("vram-late")
    cards.fault("nvml-hang", None)

    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    box.wait_started("a", 2)
    assert not [reason for reason in box.reasons() if "to be freed" in reason or "starts although" in reason]


def test_an_instance_that_holds_nothing_is_not_looked_at(cards: Cards) -> None:
    box = cards.box
    cards.up(haste={"ollamux.supervisor.vram.ANSWER_S": 3600, "ollamux.supervisor.gpus.SAMPLE_INTERVAL_S": 3600})

    os.kill(box.instance("a")["pid"], signal.SIGKILL)

    box.wait_started("a", 2)
    assert "WAITING" not in box.changes("a")[2:]


def test_a_stop_while_it_waits_for_memory_is_a_stop(cards: Cards) -> None:
    box = cards.box
    box.set("a", "runners", 1)
    supervisor = cards.up(haste={"ollamux.supervisor.vram.LIMIT_S": 3600})
    cards.take(runner_of(box), 6 * GIB)
    cards.fault("vram-late")
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    wait_for(lambda: "6.0 GiB" in (box.instance("a")["reason"] or ""))

    assert box.ask("stop", names=["a"])["exit"] == 0

    assert box.instance("a")["phase"] == "STOPPED"
    assert box.rounds_at_rest() < 100, "nobody waits, nobody looks"
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_R26_a_card_is_waited_for_that_an_instance_of_another_name_had_in_an_earlier_life(cards: Cards) -> None:
    box = cards.box
    box.set("a", "ignore-term")
    supervisor = cards.up()
    left = box.instance("a")["pid"]
    supervisor.kill()
    box.config(instances={"b": {"gpus": [1]}})
    box.set("b", "device-lines", DEVICE)

    haste = cards.haste | {"ollamux.supervisor.recovery.END_AFTER_S": 1.0}
    supervisor = box.start("--simulated", "--config", str(box.config_path), haste=haste)
    wait_for(lambda: box.listens(supervisor.pid), "it listens")

    told = f"waits until an earlier run of a (pid {left}) has let go of its GPU"
    wait_for(lambda: box.instance("b")["reason"] == told, "b says what it waits for")
    assert box.starts("b") == []
    box.wait_phase("b", "READY")
    assert not alive(left)


def test_R4_a_wait_for_memory_outlives_an_upgrade(cards: Cards) -> None:
    box = cards.box
    box.set("a", "runners", 1)
    cards.up(haste={"ollamux.supervisor.vram.LIMIT_S": 3600, "ollamux.supervisor.vram.ANSWER_S": 3600})
    cards.take(runner_of(box), 6 * GIB)
    cards.fault("vram-late")
    os.kill(box.instance("a")["pid"], signal.SIGKILL)
    wait_for(lambda: "6.0 GiB" in (box.instance("a")["reason"] or ""))
    before = box.instance("a")["reason"]

    done = box.ollamux("upgrade", "--simulated")

    assert done.returncode == 0, done.stderr
    seen = box.rounds()
    wait_for(lambda: box.rounds() > seen + 30, "it looks at the card again and again")
    found = box.instance("a")
    assert (found["phase"], found["reason"], len(box.starts("a"))) == ("WAITING", before, 1)
    cards.clear("vram-late")
    assert box.wait_started("a", 2)["restarts"] == 1
