"""NVML through a stand-in for pynvml: every value on its own, lost cards, MIG, missing drivers."""

from __future__ import annotations

import sys
import types

import pytest

from ollamux.gpu import nvml

A, B = "GPU-8f3c2a90-1111-2222-3333-444455556666", "GPU-0a0b0c0d-1111-2222-3333-444455556666"
GIB = 1024**3


class NVMLError(Exception):
    def __init__(self, value, text="Some Error"):
        super().__init__(text)
        self.value = value


class Driver(types.ModuleType):
    """A pynvml with two cards; `errors` maps a function, or a function and a card, to an NVML error code."""

    nvmlMemory_v2 = 2
    NVMLError = NVMLError

    def __init__(self):
        super().__init__("pynvml")
        self.cards = [A, B]
        self.errors = {}
        self.slices = {}
        self.bytes = False
        self.opened = self.closed = 0

    def check(self, name, handle=None):
        for key in (name, (name, handle), ("*", handle)):
            if key in self.errors:
                raise NVMLError(self.errors[key])

    def say(self, text):
        return text.encode() if self.bytes else text

    def nvmlInit(self):
        self.check("nvmlInit")
        self.opened += 1

    def nvmlShutdown(self):
        self.closed += 1

    def nvmlDeviceGetCount(self):
        self.check("nvmlDeviceGetCount")
        return len(self.cards)

    def nvmlSystemGetDriverVersion(self):
        self.check("nvmlSystemGetDriverVersion")
        return self.say("580.95.05")

    def nvmlSystemGetCudaDriverVersion(self):
        self.check("nvmlSystemGetCudaDriverVersion")
        return 13000

    def nvmlDeviceGetHandleByIndex(self, index):
        self.check("nvmlDeviceGetHandleByIndex", self.cards[index])
        return self.cards[index]

    def nvmlDeviceGetUUID(self, handle):
        self.check("nvmlDeviceGetUUID", handle)
        return self.say(handle)

    def nvmlDeviceGetName(self, handle):
        self.check("nvmlDeviceGetName", handle)
        return self.say("NVIDIA GeForce RTX 3090")

    def nvmlDeviceGetPciInfo(self, handle):
        self.check("nvmlDeviceGetPciInfo", handle)
        return types.SimpleNamespace(busId=self.say("00000000:65:00.0"))

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        self.check("nvmlDeviceGetMemoryInfo", handle)
        if version is not None:
            self.check("nvmlDeviceGetMemoryInfo_v2", handle)
        return types.SimpleNamespace(total=24 * GIB, used=GIB if version else 2 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle):
        self.check("nvmlDeviceGetUtilizationRates", handle)
        return types.SimpleNamespace(gpu=87, memory=3)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        self.check("nvmlDeviceGetTemperature", handle)
        return 54

    def nvmlDeviceGetPowerUsage(self, handle):
        self.check("nvmlDeviceGetPowerUsage", handle)
        return 99500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        self.check("nvmlDeviceGetEnforcedPowerLimit", handle)
        return 350000

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle):
        self.check("nvmlDeviceGetCurrPcieLinkGeneration", handle)
        return 4

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle):
        self.check("nvmlDeviceGetCurrPcieLinkWidth", handle)
        return 16

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        self.check("nvmlDeviceGetComputeRunningProcesses", handle)
        return [
            types.SimpleNamespace(pid=4311, usedGpuMemory=GIB),
            types.SimpleNamespace(pid=4312, usedGpuMemory=None),
            types.SimpleNamespace(pid=4313, usedGpuMemory=(1 << 64) - 1),
        ]

    def nvmlDeviceGetMigMode(self, handle):
        self.check("nvmlDeviceGetMigMode", handle)
        return [1 if handle in self.slices else 0, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, number):
        if number not in self.slices[handle]:
            raise NVMLError(6)
        return self.slices[handle][number]


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(nvml, "_session", nvml._Session())
    return driver


def test_two_healthy_cards(driver) -> None:
    inventory = nvml.read_inventory()
    assert (inventory.source, inventory.driver, inventory.cuda, inventory.error) == ("nvml", "580.95.05", "13.0", None)
    one, two = inventory.gpus
    assert (one.uuid, one.index, one.name, one.pci) == (A, 0, "NVIDIA GeForce RTX 3090", "0000:65:00.0")
    assert (one.memory_total_bytes, one.memory_used_bytes) == (24 * GIB, GIB)
    assert (one.utilization_percent, one.temperature_c, one.power_w, one.power_limit_w) == (87, 54, 99.5, 350.0)
    assert (one.pcie_gen, one.pcie_width, one.state) == (4, 16, "ok")
    assert [(process.pid, process.memory_bytes) for process in one.processes] == [
        (4311, GIB),
        (4312, None),
        (4313, None),
    ]
    assert (two.uuid, two.index) == (B, 1)


def test_bytes_of_older_bindings(driver) -> None:
    plain = nvml.read_inventory()
    driver.bytes = True
    assert nvml.read_inventory() == plain


ASKED = {
    "nvmlDeviceGetName": {"name": ""},
    "nvmlDeviceGetPciInfo": {"pci": None},
    "nvmlDeviceGetMemoryInfo": {"memory_total_bytes": None, "memory_used_bytes": None},
    "nvmlDeviceGetMemoryInfo_v2": {"memory_used_bytes": 2 * GIB},
    "nvmlDeviceGetUtilizationRates": {"utilization_percent": None},
    "nvmlDeviceGetTemperature": {"temperature_c": None},
    "nvmlDeviceGetPowerUsage": {"power_w": None},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w": None},
    "nvmlDeviceGetCurrPcieLinkGeneration": {"pcie_gen": None},
    "nvmlDeviceGetCurrPcieLinkWidth": {"pcie_width": None},
    "nvmlDeviceGetComputeRunningProcesses": {"processes": ()},
    "nvmlDeviceGetMigMode": {},
}


@pytest.mark.parametrize("code", [3, 4, 13, 999])
@pytest.mark.parametrize("name", ASKED)
def test_each_value_fails_alone(driver, name, code) -> None:
    whole = nvml.read_inventory().gpus
    driver.errors[(name, A)] = code
    nvml._session.library = None  # what was once known of a card stays known until the library is opened anew
    one, two = nvml.read_inventory().gpus
    assert two == whole[1]
    for field in type(one).__slots__:
        assert getattr(one, field) == ASKED[name].get(field, getattr(whole[0], field)), field


@pytest.mark.parametrize("name", [name for name in ASKED if not name.endswith("_v2")])
def test_functions_an_old_binding_lacks(driver, name) -> None:
    Driver.saved = getattr(Driver, name)
    delattr(Driver, name)
    try:
        assert [gpu.state for gpu in nvml.read_inventory().gpus] == ["ok", "ok"]
    finally:
        setattr(Driver, name, Driver.saved)
        del Driver.saved


def test_versions_fail_alone(driver) -> None:
    driver.errors = {"nvmlSystemGetDriverVersion": 999, "nvmlSystemGetCudaDriverVersion": 999}
    inventory = nvml.read_inventory()
    assert (inventory.driver, inventory.cuda, len(inventory.gpus)) == (None, None, 2)


@pytest.mark.parametrize("name", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetTemperature", "*"])
@pytest.mark.parametrize("code", [15, 16])
def test_a_lost_card_keeps_its_name(driver, name, code) -> None:
    nvml.read_inventory()
    driver.errors[(name, A)] = code
    one, two = nvml.read_inventory().gpus
    assert (one.uuid, one.index, one.state, one.memory_used_bytes) == (A, 0, "lost", None)
    assert one.memory_total_bytes == 24 * GIB
    assert "reboot" in one.lost_reason
    assert two.state == "ok"
    driver.errors.clear()
    assert [gpu.state for gpu in nvml.read_inventory().gpus] == ["ok", "ok"]


def test_a_card_lost_before_it_was_seen(driver) -> None:
    driver.errors[("nvmlDeviceGetHandleByIndex", A)] = 999
    one, two = nvml.read_inventory().gpus
    assert (one.uuid, one.index, one.state) == ("lost-0", 0, "lost")
    assert (two.uuid, two.index) == (B, 1)


def test_a_card_that_the_driver_no_longer_lists(driver) -> None:
    nvml.read_inventory()
    driver.cards = [B]
    here, gone = nvml.read_inventory().gpus
    assert (here.uuid, here.index, here.state) == (B, 0, "ok")
    assert (gone.uuid, gone.index, gone.state) == (A, None, "lost")


def test_a_card_of_another_job_is_not_ours(driver) -> None:
    driver.errors[("nvmlDeviceGetHandleByIndex", A)] = 4
    assert [(gpu.uuid, gpu.index) for gpu in nvml.read_inventory().gpus] == [(B, 1)]


def test_mig_slices_follow_their_card(driver) -> None:
    driver.slices = {A: {0: "MIG-1", 2: "MIG-2"}}
    card, one, two, other = nvml.read_inventory().gpus
    assert [gpu.uuid for gpu in (card, one, two, other)] == [A, "MIG-1", "MIG-2", B]
    assert (one.mig_parent, one.index, one.pci, one.utilization_percent) == (A, 0, "0000:65:00.0", None)
    assert one.memory_total_bytes == 24 * GIB
    driver.errors[("nvmlDeviceGetUUID", "MIG-1")] = 999
    seen = nvml.read_inventory().gpus
    assert [(gpu.uuid, gpu.state) for gpu in seen] == [(A, "ok"), ("MIG-1", "unknown"), ("MIG-2", "ok"), (B, "ok")]
    driver.slices = {}
    assert [gpu.uuid for gpu in nvml.read_inventory().gpus] == [A, B]


@pytest.mark.parametrize(
    ("code", "source", "words"),
    [
        (12, "none", "install"),
        (9, "none", "modprobe"),
        (18, "nvml", "reboot"),
        (4, "nvml", "/dev/nvidia"),
        (999, "nvml", "container"),
        (20, "nvml", "nvidia-smi"),
    ],
)
@pytest.mark.parametrize("name", ["nvmlInit", "nvmlDeviceGetCount"])
def test_C14_no_driver_says_what_to_do(driver, code, source, words, name) -> None:
    driver.errors[name] = code
    inventory = nvml.read_inventory()
    assert (inventory.source, inventory.gpus) == (source, ())
    assert words in inventory.error


def test_the_library_is_opened_once_and_again_after_trouble(driver) -> None:
    nvml.read_inventory()
    nvml.read_inventory()
    assert (driver.opened, driver.closed) == (1, 0)
    driver.errors["nvmlDeviceGetCount"] = 18
    nvml.read_inventory()
    assert (driver.opened, driver.closed) == (1, 1)
    driver.errors.clear()
    assert len(nvml.read_inventory().gpus) == 2
    assert driver.opened == 2


def test_no_binding_at_all(driver, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    inventory = nvml.read_inventory()
    assert inventory.source == "none"
    assert "nvidia-ml-py" in inventory.error


def test_the_real_binding_has_every_function_that_is_asked_for() -> None:
    import pynvml  # noqa: TID251

    for name in dir(Driver):
        if name.startswith("nvml"):
            assert hasattr(pynvml, name), name
    for name, code in [("GPU_IS_LOST", 15), ("LIB_RM_VERSION_MISMATCH", 18), ("LIBRARY_NOT_FOUND", 12)]:
        assert getattr(pynvml, f"NVML_ERROR_{name}") == code
    assert isinstance(pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST).value, int)
