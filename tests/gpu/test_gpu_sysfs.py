"""AMD cards from small trees like those of the amdgpu driver."""

from __future__ import annotations

import pytest

from ollamux.gpu.sysfs import read_inventory

GIB = 1024**3
FULL = {
    "vendor": "0x1002",
    "device": "0x73bf",
    "uevent": "DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_SLOT_NAME=0000:03:00.0",
    "unique_id": "72f4a1b2c3d4e5f6",
    "product_name": "AMD Radeon RX 6800",
    "mem_info_vram_total": str(16 * GIB),
    "mem_info_vram_used": str(2 * GIB),
    "gpu_busy_percent": "42",
    "current_link_speed": "16.0 GT/s PCIe",
    "current_link_width": "16",
    "hwmon/hwmon3/temp1_input": "54000",
    "hwmon/hwmon3/power1_average": "99500000",
    "hwmon/hwmon3/power1_cap": "203000000",
}


def put(root, card, values):
    for name, text in values.items():
        path = root / card / "device" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_one_card(tmp_path) -> None:
    put(tmp_path, "card0", FULL)
    (tmp_path / "card0-DP-1").mkdir()
    (tmp_path / "renderD128").mkdir()
    inventory = read_inventory(tmp_path)
    [gpu] = inventory.gpus
    assert inventory.source == "sysfs"
    assert (gpu.uuid, gpu.vendor, gpu.index, gpu.pci) == ("GPU-72f4a1b2c3d4e5f6", "amd", 0, "0000:03:00.0")
    assert (gpu.name, gpu.memory_total_bytes, gpu.memory_used_bytes) == ("AMD Radeon RX 6800", 16 * GIB, 2 * GIB)
    assert (gpu.utilization_percent, gpu.temperature_c, gpu.power_w, gpu.power_limit_w) == (42, 54, 99.5, 203.0)
    assert (gpu.pcie_gen, gpu.pcie_width, gpu.state) == (4, 16, "ok")


def test_cards_are_numbered_by_address_not_by_name(tmp_path) -> None:
    put(tmp_path, "card0", FULL | {"uevent": "PCI_SLOT_NAME=0000:83:00.0", "unique_id": "2"})
    put(tmp_path, "card1", FULL | {"vendor": "0x10de"})
    put(tmp_path, "card2", FULL)
    assert [(gpu.index, gpu.pci) for gpu in read_inventory(tmp_path).gpus] == [(0, "0000:03:00.0"), (1, "0000:83:00.0")]


@pytest.mark.parametrize("serial", ["0", "", "junk", None])
def test_a_card_without_a_serial(tmp_path, serial) -> None:
    values = {name: text for name, text in FULL.items() if name != "unique_id"}
    put(tmp_path, "card0", values if serial is None else values | {"unique_id": serial})
    assert read_inventory(tmp_path).gpus[0].uuid == "AMD-0000:03:00.0"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("mem_info_vram_used", "memory_used_bytes"),
        ("gpu_busy_percent", "utilization_percent"),
        ("current_link_speed", "pcie_gen"),
        ("current_link_width", "pcie_width"),
        ("hwmon/hwmon3/temp1_input", "temperature_c"),
        ("hwmon/hwmon3/power1_average", "power_w"),
        ("hwmon/hwmon3/power1_cap", "power_limit_w"),
        ("uevent", "pci"),
    ],
)
def test_each_value_is_missing_alone(tmp_path, name, field) -> None:
    put(tmp_path, "card0", {key: text for key, text in FULL.items() if key != name})
    put(tmp_path / "odd", "card0", FULL | {name: "not a number"})
    for root in (tmp_path, tmp_path / "odd"):
        [gpu] = read_inventory(root).gpus
        assert getattr(gpu, field) is None
        assert gpu.name == "AMD Radeon RX 6800"


def test_the_newer_name_of_power_and_a_nameless_card(tmp_path) -> None:
    values = {key: text for key, text in FULL.items() if key not in ("hwmon/hwmon3/power1_average", "product_name")}
    put(tmp_path, "card0", values | {"hwmon/hwmon3/power1_input": "15000000"})
    [gpu] = read_inventory(tmp_path).gpus
    assert (gpu.power_w, gpu.name) == (15.0, "AMD GPU 0x73bf")


def test_no_cards(tmp_path) -> None:
    put(tmp_path, "card0", {"vendor": "0x1002"})
    assert (read_inventory(tmp_path).source, read_inventory(tmp_path).gpus) == ("none", ())
    assert read_inventory(tmp_path / "nowhere").gpus == ()
