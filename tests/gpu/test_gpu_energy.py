"""The energy of cards: counted by the driver where it can, else from samples of power; of a simulated box, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from standin_rig import SCENES, Driver, built

from ollamux.domain.energy import Energy
from ollamux.gpu import client, meter, simulated_energy
from ollamux.gpu.helper import ENERGY, REQUEST
from ollamux.gpu.model import Gpu, Inventory
from ollamux.gpu.simulated import Usage, create_folders, fault_path, sample, write_cards, write_usage
from ollamux.gpu.simulated_energy import count_energy, read_energy

UUID = "GPU-8f3c2a90-51d7-4c3e-9b06-000000000000"
SLICE = "MIG-8f3c2a90-0000-4000-8000-000000000001"
TWO = (SCENES / "two-cards.state").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("standin") / "energy")


@pytest.fixture
def driver(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver(tmp_path, library)
    for name in ("LD_LIBRARY_PATH", "STANDIN_NVML"):
        monkeypatch.setenv(name, made.env[name])
    return made


@pytest.fixture
def measuring() -> Iterator[meter.Meter]:
    made = meter.Meter("nvml", None)
    yield made
    made.close()


def told(inventory: Inventory) -> list[float | None]:
    return [gpu.energy_j for gpu in inventory.gpus]


def test_the_driver_tells_millijoules_or_nothing_and_only_where_it_is_asked(driver: Driver) -> None:
    driver.says(TWO + "0 energy 1234567890123\n1 energy na\n")
    assert told(client.read_once("nvml", None, 20, request=ENERGY)) == [1234567890.123, None]
    assert told(client.read_once("nvml", None, 20, request=REQUEST)) == [None, None]
    driver.says(TWO + "0 energy 5000\n1 state lost\n")
    assert told(client.read_once("nvml", None, 20, request=ENERGY)) == [5.0, None]


def test_a_slice_has_no_counter_of_its_own(driver: Driver) -> None:
    text = (SCENES / "mig.state").read_text(encoding="utf-8")
    driver.says(text + "".join(f"{index} energy 7000\n" for index in range(4)))
    found = client.read_once("nvml", None, 20, request=ENERGY).gpus
    assert {gpu.energy_j for gpu in found if gpu.mig_parent is not None} == {None}
    assert 7.0 in {gpu.energy_j for gpu in found if gpu.mig_parent is None}


def test_a_counter_is_asked_at_both_ends_alone(driver: Driver, measuring: meter.Meter) -> None:
    driver.says(TWO + "0 energy 5000\n")
    measuring.begin([UUID])
    assert not measuring.is_sampling
    driver.says(TWO + "0 energy 9500\n")
    energy = measuring.end()[UUID]
    assert energy is not None and (energy.joules, energy.source) == (4.5, "counter")


def test_without_a_counter_power_is_sampled(
    driver: Driver, measuring: meter.Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "SAMPLE_S", 0.0)
    driver.says(TWO.replace("0 power.draw ", "0 power.draw 40000\n0 was "))
    measuring.begin([UUID])
    assert measuring.is_sampling
    for _ in range(5):
        measuring.tick()
    energy = measuring.end()[UUID]
    assert energy is not None and energy.source == "power"
    assert energy.joules == pytest.approx(40.0 * energy.seconds)


def test_a_driver_that_hangs_or_crashes_tells_no_energy_and_holds_nobody_up(
    driver: Driver, measuring: meter.Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.says(TWO + "0 energy crash\n")
    measuring.begin([UUID])
    assert measuring.end() == {UUID: None}
    other = meter.Meter("nvml", None)
    driver.says("system count hang\n")
    monkeypatch.setattr(other._reader, "_first_deadline_s", 0.3)
    other.begin([UUID])
    assert other.end() == {UUID: None}
    other.close()


# A simulated box

CARD = Gpu(uuid=UUID, index=0, name="X", memory_total_bytes=1 << 34, power_limit_w=100.0)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    create_folders(tmp_path)
    write_cards(tmp_path, [CARD, Gpu(uuid=SLICE, index=0, mig_parent=UUID, memory_total_bytes=1 << 30)])
    return tmp_path


def power(box: Path) -> float:
    return sample(box)[0].power_w or 0.0


def test_a_simulated_counter_is_the_power_added_up(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(simulated_energy.time, "monotonic", lambda: now[0])

    def use(*, busy: bool) -> None:
        count_energy(box)
        write_usage(box, Usage(pid=os.getpid(), name="runner", memory={UUID: 1 << 30}, busy=busy))

    assert told(read_energy(box)) == [0.0, None]
    idle, now[0] = power(box), now[0] + 10
    use(busy=True)
    busy, now[0] = power(box), now[0] + 3
    use(busy=False)
    held, now[0] = power(box), now[0] + 2

    assert idle < held < busy < 100.0
    assert told(read_energy(box))[0] == pytest.approx(10 * idle + 3 * busy + 2 * held)


def test_a_box_whose_count_is_broken_begins_anew_and_a_lost_card_tells_nothing(box: Path) -> None:
    count_energy(box)
    for junk in ("", "[]", '{"at": "x"}', '{"at": 1, "joules": 7}'):
        (box / "energy.json").write_text(junk)
        assert (told(read_energy(box))[0] or 0.0) < 60.0
    fault_path(box, "gpu-lost", UUID).touch()
    assert told(read_energy(box)) == [None, None]


def test_the_meter_reads_a_simulated_box(box: Path) -> None:
    measuring = meter.Meter("simulated", box)
    measuring.begin([UUID, SLICE])
    found = measuring.end()
    measuring.close()
    assert found[SLICE] is None
    energy = found[UUID]
    assert isinstance(energy, Energy) and energy.joules <= power(box) * energy.seconds * 1.5 + 1.0
