"""AMD cards from small trees like those of the amdgpu driver."""

from __future__ import annotations

import pytest

from ollamux.gpu.helper import merged
from ollamux.gpu.model import GpuProcess, Inventory
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
    "hwmon/hwmon3/power1_cap_default": "203000000",
    "max_link_speed": "16.0 GT/s PCIe",
    "max_link_width": "16",
    "hwmon/hwmon3/freq1_input": "2105000000",
    "hwmon/hwmon3/freq1_label": "sclk",
    "hwmon/hwmon3/freq2_input": "1000000000",
    "hwmon/hwmon3/freq2_label": "mclk",
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
    assert (gpu.pcie_gen_max, gpu.pcie_width_max, gpu.power_default_w) == (4, 16, 203.0)
    assert (gpu.clock_sm_mhz, gpu.clock_memory_mhz) == (2105, 1000)


VEGA = {
    "vendor": "0x1002",
    "device": "0x687f",
    "uevent": "DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:687F\nPCI_SUBSYS_ID=1043:04C4\nPCI_SLOT_NAME=0000:09:00.0",
    "unique_id": "0123456789abcdef",
    "product_name": "",
    "mem_info_vram_total": "8573157376",
    "mem_info_vram_used": "1490378752",
    "gpu_busy_percent": "4",
    "current_link_speed": "8.0 GT/s PCIe",
    "current_link_width": "16",
    "max_link_speed": "8.0 GT/s PCIe",
    "max_link_width": "16",
}
"""A Radeon RX Vega, from testdata/fixtures.ttar of github.com/prometheus/procfs, which leaves out its sensors."""


def test_a_recorded_card(tmp_path) -> None:
    put(tmp_path, "card0", VEGA)

    [gpu] = read_inventory(tmp_path).gpus

    assert (gpu.uuid, gpu.name, gpu.pci) == ("GPU-0123456789abcdef", "AMD GPU 0x687f", "0000:09:00.0")
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes) == (8573157376, 1490378752)
    assert (gpu.utilization_percent, gpu.pcie_gen, gpu.pcie_width, gpu.pcie_gen_max, gpu.pcie_width_max) == (
        4,
        3,
        16,
        3,
        16,
    )
    assert (gpu.temperature_c, gpu.power_w, gpu.clock_sm_mhz, gpu.state) == (None, None, None, "ok")


LINKS = {
    # github.com/nokyan/resources/issues/512: the card, its switch's port to it (no figures there), and to the slot.
    "a card for 5.0 x16 in a slot for 4.0 x8": (
        [("32.0", 16, "32.0", 16), ("Unknown", 0, "Unknown", 0), ("16.0", 8, "32.0", 16)],
        (4, 8, 5, 16),
    ),
    # github.com/Umio-Yasuno/amdgpu_top/issues/33: the kernel says "limited by 8.0 GT/s PCIe x16 link at 0000:00:03.1".
    "an RX 6800 on a board for 3.0": (
        [("16.0", 16, "16.0", 16), ("16.0", 16, "16.0", 16), ("8.0", 16, "16.0", 16), ("8.0", 16, "8.0", 16)],
        (3, 16, 3, 16),
    ),
    "a bridge that is none of PCI Express": ([("8.0", 16, "8.0", 16), (None, None, None, None)], (3, 16, 3, 16)),
}


@pytest.mark.parametrize(("way", "link"), LINKS.values(), ids=LINKS.keys())
def test_the_link_is_that_of_the_slot_whatever_the_card_brings(tmp_path, way, link) -> None:
    place = tmp_path / "devices/pci0000:00"
    files = ("current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
    for number, figures in reversed(list(enumerate(way))):
        place /= f"0000:{9 - number:02x}:00.0"
        place.mkdir(parents=True)
        for name, figure in zip(files, figures, strict=True):
            if figure is not None:
                (place / name).write_text(f"{figure} GT/s PCIe\n" if "speed" in name else f"{figure}\n")
    for name, text in VEGA.items():
        if "link" not in name:
            (place / name).write_text(text)
    (tmp_path / "drm/card0").mkdir(parents=True)
    (tmp_path / "drm/card0/device").symlink_to(place)

    [gpu] = read_inventory(tmp_path / "drm").gpus

    assert (gpu.pcie_gen, gpu.pcie_width, gpu.pcie_gen_max, gpu.pcie_width_max) == link


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
        ("max_link_speed", "pcie_gen_max"),
        ("max_link_width", "pcie_width_max"),
        ("hwmon/hwmon3/power1_cap_default", "power_default_w"),
        ("hwmon/hwmon3/freq1_input", "clock_sm_mhz"),
        ("hwmon/hwmon3/freq2_label", "clock_memory_mhz"),
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


def write(path, text) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_processes_of_each_card(tmp_path) -> None:
    drm, kfd = tmp_path / "drm", tmp_path / "kfd"
    put(drm, "card0", FULL)
    put(drm, "card1", FULL | {"uevent": "PCI_SLOT_NAME=0000:83:00.0", "unique_id": "2"})
    for node, number, place in ((0, 0, 0), (1, 5023, 0x03 << 8), (2, 61000, 0x83 << 8)):
        write(kfd / f"topology/nodes/{node}/gpu_id", f"{number}\n")
        write(kfd / f"topology/nodes/{node}/properties", f"cpu_cores_count 0\nlocation_id {place}\ndomain 0\n")
    write(kfd / "proc/4311/vram_5023", "8500000000\n")
    write(kfd / "proc/4311/vram_61000", "0\n")
    write(kfd / "proc/4311/pasid", "32770\n")
    write(kfd / "proc/77/vram_61000", "12\n")
    write(kfd / "proc/78/vram_61000", "odd\n")
    write(kfd / "proc/79/vram_999", "12\n")

    one, two = read_inventory(drm, kfd=kfd).gpus

    assert one.processes == (GpuProcess(pid=4311, memory_bytes=8500000000),)
    assert two.processes == (GpuProcess(pid=77, memory_bytes=12),)
    assert [gpu.processes for gpu in read_inventory(drm, kfd=tmp_path / "nowhere").gpus] == [(), ()]


def test_cards_of_other_makers_are_named(tmp_path) -> None:
    put(tmp_path, "card0", {"vendor": "0x8086", "device": "0x56a0", "uevent": "PCI_SLOT_NAME=0000:03:00.0"})
    put(tmp_path, "card1", {"vendor": "0x1a03", "device": "0x2000"})  # what draws the console of a server

    inventory = read_inventory(tmp_path)

    assert (inventory.source, inventory.gpus) == ("none", ())
    assert inventory.unsupported == ("Intel GPU 0x56a0 (0000:03:00.0)",)
    nvidia = Inventory(source="none", error="no driver")
    assert merged(nvidia, inventory) == Inventory(source="none", error="no driver", unsupported=inventory.unsupported)
