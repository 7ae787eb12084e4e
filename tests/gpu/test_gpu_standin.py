"""The real binding, the real helper and the real table, against a driver that answers as a file says.

Each scene in standin/scenes is what the driver says, with the table that it gives beside it; the tables are written
anew with OLLAMUX_REWRITE_GOLDEN=1, to be read before they are kept.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from standin_rig import SCENES, Driver, built

from ollamux.gpu import client
from ollamux.gpu.model import Gpu, GpuProcess
from ollamux.gpu.spawn import helper_spawn

ALL = sorted(path.stem for path in SCENES.glob("*.state"))
UUID = "GPU-8f3c2a90-51d7-4c3e-9b06-000000000000"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("standin") / "new")


@pytest.fixture(scope="session")
def old_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("standin") / "old", old=True)


@pytest.fixture
def driver(tmp_path: Path, library: Path) -> Driver:
    return Driver(tmp_path, library)


def steady(text: str) -> str:
    """Take out what differs from run to run: the age of a sample, the host, the version."""
    text = re.sub(r"\d+(\.\d+)? s ago", "0 s ago", text)
    text = re.sub(r"ollamux \d\S+ ", "ollamux VERSION ", text)
    return "\n".join(line.rstrip() for line in text.replace(os.uname().nodename, "HOST").splitlines()) + "\n"


@pytest.mark.parametrize("scene", ALL)
def test_a_scene_gives_its_table(driver: Driver, scene: str) -> None:
    driver.plays(scene)

    table = "".join(
        f"[{columns} columns{', wide' if wide else ''}]\n"
        + steady(driver.ollamux("status", "gpus", *(("-o", "wide") if wide else ()), columns=columns))
        for columns, wide in ((80, False), (220, True))
    )

    golden = SCENES / f"{scene}.txt"
    if os.environ.get("OLLAMUX_REWRITE_GOLDEN") == "1":
        golden.write_text(table, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == table


@pytest.mark.parametrize("scene", ALL)
def test_no_value_of_a_scene_is_made_up(driver: Driver, scene: str) -> None:
    """What the driver does not say is null: never 0, never "N/A"."""
    driver.plays(scene)
    said = dict[str, dict[str, str]]()
    for line in (SCENES / f"{scene}.state").read_text().splitlines():
        scope, key, value = line.split(" ", 2)
        said.setdefault(scope, {})[key] = value

    status = json.loads(driver.ollamux("status", "gpus", "-o", "json"))

    numbers = {
        "temperature_c": "temperature", "utilization_percent": "utilization.gpu", "clock_sm_mhz": "clock.sm",
        "clock_memory_max_mhz": "clock.memory.max", "pcie_gen": "pcie.gen", "pcie_width_max": "pcie.width.max",
        "memory_used_bytes": "memory.used", "memory_total_bytes": "memory.total", "ecc_uncorrected": "ecc.uncorrected",
    }  # fmt: skip
    for gpu in status["gpus"]:
        scope = next((at for at, keys in said.items() if keys.get("uuid") == gpu["uuid"]), None)
        if scope is None or gpu["state"] != "ok":
            continue
        for name, key in numbers.items():
            value = said[scope].get(key, "na")
            assert gpu[name] == (int(value) if value.isdigit() else None), (gpu["uuid"], name)


@pytest.fixture
def reader(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[client.GpuReader]:
    for name in ("LD_LIBRARY_PATH", "STANDIN_NVML"):
        monkeypatch.setenv(name, driver.env[name])
    made = client.GpuReader()
    made.start(helper_spawn("nvml"))
    yield made
    made.stop()
    while made.leftovers():
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)


def sample(reader: client.GpuReader) -> tuple[Gpu, ...]:
    """Ask the same helper once more."""
    assert reader.ask(0.0)
    while (found := reader.on_readable(0.0)) is None:
        assert reader.fileno() >= 0, reader.trouble
        client._readable(reader.fileno(), 60)
    return found.gpus


def test_a_card_that_falls_off_the_bus_keeps_its_name(driver: Driver, reader: client.GpuReader) -> None:
    driver.plays("two-cards")
    whole = sample(reader)
    driver.says((SCENES / "two-cards.state").read_text().replace("1 uuid", "1 state lost\n1 uuid"))

    one, two = sample(reader)

    assert (one.state, two.state) == ("ok", "lost")
    assert (two.uuid, two.name, two.temperature_c) == (whole[1].uuid, "NVIDIA RTX A2000 12GB", None)
    driver.plays("two-cards")
    assert [gpu.state for gpu in sample(reader)] == ["ok", "ok"]


def test_a_card_that_the_driver_no_longer_lists_is_not_forgotten(driver: Driver, reader: client.GpuReader) -> None:
    driver.plays("two-cards")
    sample(reader)
    driver.says((SCENES / "two-cards.state").read_text().replace("system count 2", "system count 1"))

    one, gone = sample(reader)

    assert (one.state, gone.state, gone.index, gone.name) == ("ok", "lost", None, "NVIDIA RTX A2000 12GB")
    assert "no longer lists it" in (gone.lost_reason or "")


def test_a_card_is_lost_by_the_number_that_it_has_now(driver: Driver, reader: client.GpuReader) -> None:
    """Where one is gone the driver numbers the others anew."""
    driver.plays("two-cards")
    first, second = (gpu.uuid for gpu in sample(reader))
    lines = (SCENES / "two-cards.state").read_text().replace("system count 2", "system count 1").splitlines()
    left = "\n".join(line.replace("1 ", "0 ", 1) for line in lines if not line.startswith("0 ")) + "\n"
    driver.says(left)
    assert [(gpu.uuid, gpu.index, gpu.state) for gpu in sample(reader)] == [(second, 0, "ok"), (first, None, "lost")]

    driver.says("0 handle lost\n" + left)

    found = {gpu.uuid: gpu for gpu in sample(reader)}
    assert (found[second].state, "fallen off the bus" in (found[second].lost_reason or "")) == ("lost", True)
    assert "no longer lists it" in (found[first].lost_reason or "")


@pytest.mark.parametrize("word", ["na", "unknown-error", "denied"])
def test_a_card_that_does_not_tell_its_uuid_for_a_moment_is_neither_lost_nor_another(
    driver: Driver, reader: client.GpuReader, word: str
) -> None:
    driver.plays("two-cards")
    whole = sample(reader)
    driver.says(f"0 uuid {word}\n" + (SCENES / "two-cards.state").read_text())

    one, two = sample(reader)

    assert (one.uuid, one.name, one.state, one.temperature_c) == (UUID, whole[0].name, "unknown", None)
    assert "does not tell its UUID" in (one.lost_reason or "")
    assert two.state == "ok"
    driver.plays("two-cards")
    assert [(gpu.uuid, gpu.state) for gpu in sample(reader)] == [(gpu.uuid, "ok") for gpu in whole]


def test_a_card_that_never_told_its_uuid_is_not_said_to_be_well(driver: Driver) -> None:
    driver.says("1 uuid na\n" + (SCENES / "two-cards.state").read_text())

    one, two = json.loads(driver.ollamux("status", "gpus", "-o", "json"))["gpus"]

    assert (one["state"], two["state"], two["index"], two["name"]) == ("ok", "unknown", 1, "NVIDIA RTX A2000 12GB")


NUMBERS = (
    *("temperature", "utilization.gpu", "power.draw", "power.limit", "power.default", "clock.sm", "clock.sm.max"),
    *("pcie.gen", "pcie.width", "pcie.gen.max", "pcie.width.max", "persistence", "compute.mode"),
)


def test_a_number_that_is_none_is_null_and_proves_nothing(driver: Driver) -> None:
    """-1 is how NVML says "not available"; in its unsigned numbers that is the largest there is."""
    told = [f"0 {key} {(1 << 32) - 1}" for key in NUMBERS]
    told += [f"0 {key} {(1 << 64) - 1}" for key in ("memory.total", "memory.used", "throttle", "ecc.uncorrected")]
    told += ["0 ecc.mode 1", f"0 remapped {' '.join([str((1 << 32) - 1)] * 4)}", "0 compute.capability -1.-1"]
    driver.says("\n".join(told) + "\n" + (SCENES / "two-cards.state").read_text())

    gpu = json.loads(driver.ollamux("status", "gpus", "-o", "json"))["gpus"][0]

    known = {name for name, value in gpu.items() if value is not None}
    identity = {"index", "uuid", "vendor", "name", "pci", "state", "instances", "age_s", "ecc"}
    assert known == {*identity, "clock_memory_mhz", "clock_memory_max_mhz"}
    assert "defective" not in driver.ollamux("status", "gpus")


def test_a_link_of_no_lanes_is_not_known_and_frost_is_below_zero(driver: Driver) -> None:
    changes = ("0 pcie.width 0", "0 pcie.gen 0", f"0 temperature {(1 << 32) - 5}")
    driver.says("\n".join(changes) + "\n" + (SCENES / "two-cards.state").read_text())

    gpu = json.loads(driver.ollamux("status", "gpus", "-o", "json"))["gpus"][0]

    assert (gpu["pcie_gen"], gpu["pcie_width"], gpu["temperature_c"]) == (None, None, -5)


def test_what_could_not_be_told_at_first_is_asked_again(driver: Driver, reader: client.GpuReader) -> None:
    text = (SCENES / "two-cards.state").read_text()
    driver.says("0 pcie.gen.max unknown-error\n" + text)
    assert sample(reader)[0].pcie_gen_max is None

    driver.says(text)

    assert sample(reader)[0].pcie_gen_max == 4


def test_what_changes_is_asked_for_each_time(driver: Driver, reader: client.GpuReader) -> None:
    driver.plays("two-cards")
    sample(reader)
    text = (SCENES / "two-cards.state").read_text()
    driver.says(text.replace("0 temperature 54", "0 temperature 91").replace("0 throttle 0x4", "0 throttle 0x60"))

    one = sample(reader)[0]

    assert one.temperature_c == 91
    assert one.throttle_reasons == ("sw_thermal_slowdown", "hw_thermal_slowdown")


@pytest.mark.parametrize("word", ["hang", "crash"])
@pytest.mark.parametrize("where", ["system init", "0 temperature"])
def test_a_driver_that_hangs_or_crashes_takes_only_the_helper(driver: Driver, word: str, where: str) -> None:
    driver.says(f"{where} {word}\n" + (SCENES / "two-cards.state").read_text())

    status = json.loads(driver.ollamux("status", "gpus", "-o", "json"))

    assert status["gpus"] == []
    what = "has crashed" if word == "crash" else "has not answered for"
    assert what in status["host"]["gpus_error"]


def test_a_driver_of_long_ago_tells_what_it_knows(
    tmp_path: Path, old_library: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.says((SCENES / "two-cards.state").read_text() + "0 processes 4311:7 77:na\n0 remapped 0 0 0 0\n")
    monkeypatch.setenv("STANDIN_NVML", driver.env["STANDIN_NVML"])

    seen = []
    for library in (str(old_library), driver.env["LD_LIBRARY_PATH"]):
        monkeypatch.setenv("LD_LIBRARY_PATH", library)
        seen.append(client.read_once("nvml", timeout_s=60).gpus[0])

    before, now = seen
    reserved = 300 * 1024**2  # the first version of the call counts it as used
    assert before.memory_used_bytes == now.memory_used_bytes + reserved
    assert (
        before.processes
        == now.processes
        == (GpuProcess(pid=4311, memory_bytes=7), GpuProcess(pid=77, memory_bytes=None))
    )
    differ = {name for name in Gpu.__slots__ if getattr(before, name) != getattr(now, name)}
    assert differ == {
        "memory_used_bytes",
        "memory_reserved_bytes",
        "remapped_rows",
        "remap_pending",
        "remap_failed",
    }


def test_R68_a_driver_that_was_replaced_and_loaded_is_read_without_a_reboot(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the old module did not load: a process keeps the library that it has opened for as long as it lives."""
    old, new = built(tmp_path / "old", release="1"), built(tmp_path / "new", release="2")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(old))
    monkeypatch.setenv("STANDIN_NVML", driver.env["STANDIN_NVML"])
    made = client.GpuReader()
    made.start(helper_spawn("nvml"))
    driver.says("system init no-driver\n")
    assert sample(made) == ()
    (new / "libnvidia-ml.so.1").rename(old / "libnvidia-ml.so.1")
    driver.says("system module 2\n" + (SCENES / "two-cards.state").read_text())
    assert sample(made) == ()
    assert made.last.error_key == "mismatch"

    found = sample(made)

    made.stop()
    assert ([gpu.state for gpu in found], made.last.error, made.trouble) == (["ok", "ok"], None, None)


def test_a_mig_device_can_be_named_in_a_configuration(driver: Driver) -> None:
    driver.plays("mig")
    config = driver.root / "ollamux.toml"
    part = "MIG-5c1a0e41-0000-5000-8000-000000000001"
    config.write_text(f'version = 1\n[instances.a]\ngpus = ["{part}"]\nport = 11500\nollama = "/bin/true"\n')

    driver.ollamux("config", "check", "--here", code=0)

    config.write_text(config.read_text().replace(part, part.replace("0001", "0009")))
    driver.ollamux("config", "check", "--here", code=5)


def test_a_mig_device_that_cannot_be_asked_for_once_is_not_lost(driver: Driver, reader: client.GpuReader) -> None:
    driver.plays("mig")
    assert [gpu.state for gpu in sample(reader)] == ["ok"] * 4
    text = (SCENES / "mig.state").read_text()

    driver.says("0.1 uuid unknown-error\n" + text)
    assert [gpu.state for gpu in sample(reader)] == ["ok", "ok", "unknown", "ok"]
    assert sample(reader)[2].uuid == "MIG-5c1a0e41-0000-5000-8000-000000000001"
    driver.says("0.1 uuid na\n" + text)
    assert [gpu.uuid[:4] for gpu in sample(reader)] == ["GPU-", "MIG-", "GPU-"], "one that is not there is not told"


def test_the_driver_is_asked_for_what_stays_the_same_only_once(driver: Driver, reader: client.GpuReader) -> None:
    driver.plays("two-cards")
    first = sample(reader)[0]
    driver.says((SCENES / "two-cards.state").read_text().replace("0 name NVIDIA GeForce RTX 3090", "0 name other"))

    assert sample(reader)[0].name == first.name
    assert first.uuid == UUID
