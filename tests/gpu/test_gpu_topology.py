"""How cards are joined: from a driver that answers as a file says, through the real binding, helper and command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from standin_rig import SCENES, Driver, built

from ollamux.gpu import client
from ollamux.gpu.codec import inventory_from_json, inventory_to_json
from ollamux.gpu.helper import TOPOLOGY, merged
from ollamux.gpu.model import Gpu, Inventory, Link
from ollamux.gpu.simulated_links import board_links
from ollamux.simulation.box import default_cards

GIB = 1024**3


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("topology") / "new")


@pytest.fixture
def driver(tmp_path: Path, library: Path) -> Driver:
    return Driver(tmp_path, library)


def uuid(index: int) -> str:
    return f"GPU-8f3c2a90-51d7-4c3e-9b06-{index:012d}"


def box(count: int, *more: str, levels: dict[tuple[int, int], str] | None = None) -> str:
    """Return what a driver says of so many cards; more lines of a key come first, and the first one counts."""
    lines = [*more, "system driver 580.95.05", "system cuda 13000", f"system count {count}"]
    for index in range(count):
        lines += [
            f"{index} uuid {uuid(index)}",
            f"{index} name NVIDIA GeForce RTX 3090",
            f"{index} pci 00000000:{0x10 + index:02X}:00.0",
            f"{index} memory.total {24 * GIB}",
            f"{index} memory.used 0",
        ]
        for other in range(index + 1, count):
            level = (levels or {}).get((index, other), "30")
            lines.append(f"{index}+{other} topology {level}")
    return "\n".join(lines) + "\n"


def nvlinks(one: int, other: int, *numbers: int) -> list[str]:
    """Return the lines of links that join two cards, as both ends tell them."""
    ends = ((one, other), (other, one))
    return [f"{a} nvlink.{number} 00000000:{0x10 + b:02X}:00.0" for number in numbers for a, b in ends]


def links(driver: Driver) -> list[tuple[int, int, str, int | None]]:
    plain: dict[str, Any] = json.loads(driver.ollamux("status", "topology", "-o", "json"))
    assert "instances" not in plain and "processes" not in plain
    place = {gpu["uuid"]: number for number, gpu in enumerate(plain["gpus"])}
    return [(place[each["a"]], place[each["b"]], each["kind"], each["nvlinks"]) for each in plain["links"]]


def test_every_level_has_its_kind(driver: Driver) -> None:
    levels = {(0, 1): "0", (0, 2): "10", (0, 3): "20", (1, 2): "30", (1, 3): "40", (2, 3): "50"}
    driver.says(box(4, levels=levels))
    kinds = [(0, 1, "same-board"), (0, 2, "switch"), (0, 3, "switches"), (1, 2, "host-bridge"), (1, 3, "socket")]
    assert links(driver) == [(*kind, None) for kind in [*kinds, (2, 3, "system")]]


def test_nvlinks_are_counted_by_pair_and_win(driver: Driver) -> None:
    off = ["0 nvlink.9 off", "2 nvlink.0 off", "3 nvlink.0 off"]
    driver.says(box(4, *nvlinks(0, 1, 0, 1, 2, 3), *off))
    found = links(driver)
    assert found[0] == (0, 1, "nvlink", 4)
    assert found[1:] == [(a, b, "host-bridge", 0) for a, b in ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3))]
    table = " ".join(driver.ollamux("status", "topology").split())
    assert "NV4" in table and "GPU 0 and 1 (4 NVLinks between them; equal cards; 48.0 GiB together)" in table


def test_cards_on_a_switch_of_nvlinks_are_joined_by_all_of_them(driver: Driver) -> None:
    fabric = [f"{card} nvlink.{n} 00000000:C{n}:00.0" for card in range(3) for n in range(3 if card < 2 else 2)]
    types = [f"{card} nvlink.{n}.type 2" for card in range(3) for n in range(3)]
    driver.says(box(3, *fabric, *types, levels={(a, b): "50" for a in range(3) for b in range(3)}))
    assert links(driver) == [(0, 1, "nvlink", 3), (0, 2, "nvlink", 2), (1, 2, "nvlink", 2)]


def test_a_link_to_a_card_that_is_kept_from_us_joins_nothing(driver: Driver) -> None:
    driver.says(box(2, "0 nvlink.0 00000000:99:00.0", "1 nvlink.0 00000000:98:00.0"))
    assert links(driver) == [(0, 1, "host-bridge", 0)]


@pytest.mark.parametrize("word", ["na", "denied", "unknown-error", "7"])
def test_what_the_driver_does_not_tell_is_unknown_each_on_its_own(driver: Driver, word: str) -> None:
    driver.says(box(3, *nvlinks(1, 2, 0, 1), levels={(0, 1): word, (1, 2): word}))
    assert links(driver) == [(0, 1, "unknown", 0), (0, 2, "host-bridge", 0), (1, 2, "nvlink", 2)]


def test_a_lost_card_has_links_that_nobody_knows(driver: Driver) -> None:
    driver.says(box(3, "1 state lost"))
    assert links(driver) == [(0, 1, "unknown", None), (0, 2, "host-bridge", None), (1, 2, "unknown", None)]
    assert "GPU 0 and 2" in driver.ollamux("status", "topology")


@pytest.mark.parametrize(("word", "said"), [("hang", "has not answered for"), ("crash", "has crashed")])
def test_a_driver_that_hangs_over_a_pair_takes_only_the_helper(driver: Driver, word: str, said: str) -> None:
    driver.says(box(2, levels={(0, 1): word}))
    plain = json.loads(driver.ollamux("status", "topology", "-o", "json"))
    assert plain["links"] == [] and said in plain["host"]["gpus_error"]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_cards_have_no_links(driver: Driver, count: int) -> None:
    driver.says(box(count))
    assert links(driver) == []
    assert "needs two of them" in driver.ollamux("status", "topology")


def test_without_a_driver_nothing_is_joined_and_the_reason_told(driver: Driver) -> None:
    driver.says("system init no-driver\n")
    assert "driver is not loaded" in driver.ollamux("status", "topology", columns=200)


def test_a_mig_device_is_part_of_its_card(driver: Driver) -> None:
    driver.plays("mig")
    plain = json.loads(driver.ollamux("status", "topology", "-o", "json"))
    whole = {gpu["uuid"] for gpu in plain["gpus"] if gpu["mig_parent"] is None}
    assert {link[end] for link in plain["links"] for end in "ab"} <= whole


@pytest.mark.parametrize("count", [8, 16])
def test_a_box_of_many_cards_is_legible_at_60_columns(driver: Driver, count: int) -> None:
    half = count // 2
    levels = {
        (a, b): "50" if a < half <= b else "10" if a // 2 == b // 2 else "40"
        for a in range(count)
        for b in range(count)
    }
    driver.says(box(count, levels=levels))
    for columns in (60, 80, 200):
        table = driver.ollamux("status", "topology", columns=columns)
        assert max(map(len, table.splitlines())) <= columns
        assert "across" in table and "switch" in table and "socket" in table
        assert "Best pair" in table and "…" not in table
        rows = [line for line in table.splitlines() if line[:4].strip().isdigit()]
        assert len(rows) == count


def test_a_sample_is_not_made_slower_by_links(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_LIBRARY_PATH", "STANDIN_NVML"):
        monkeypatch.setenv(name, driver.env[name])
    # Whoever asks for a pair of these cards would crash.
    driver.says(box(2, "0 nvlink.0 crash", levels={(0, 1): "crash"}))
    assert client.read_once("nvml", timeout_s=60).links is None
    assert "crashed" in (client.read_once("nvml", timeout_s=60, request=TOPOLOGY).error or "")


def test_links_go_through_the_helper_unchanged() -> None:
    link = Link(a="GPU-1", b="GPU-2", kind="nvlink", nvlinks=4)
    for found in (Inventory(links=(link,)), Inventory(links=()), Inventory()):
        assert inventory_from_json(inventory_to_json(found)) == found
    assert "links" not in inventory_to_json(Inventory())


def test_beside_amd_cards_the_links_of_the_others_stay() -> None:
    link = Link(a="GPU-1", b="GPU-2", kind="switch", nvlinks=None)
    nvidia = Inventory(source="nvml", gpus=(Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2")), links=(link,))
    amd = Inventory(source="sysfs", gpus=(Gpu(uuid="AMD-1", vendor="amd"),))
    assert merged(nvidia, amd).links == (link,)
    assert merged(Inventory(), amd).links is None


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 64])
def test_a_simulated_box_is_joined_as_boards_are(count: int) -> None:
    found = board_links(default_cards(count))
    kinds = {link.kind for link in found}
    assert len(found) == count * (count - 1) // 2
    assert ("system" in kinds) == (count > 4)
    assert ("nvlink" in kinds) == (count > 8)
    assert all((link.kind == "nvlink") == bool(link.nvlinks) for link in found)


def test_scenes_of_old_still_play(driver: Driver) -> None:
    assert SCENES.is_dir()
    driver.plays("two-cards")
    assert links(driver) == [(0, 1, "unknown", None)]
    assert "is not known" in driver.ollamux("status", "topology")
