"""Cards and samples as values. A missing measurement is None, each on its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process on a card; `memory_bytes` is None where the driver does not tell."""

    pid: int
    memory_bytes: int | None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device that an instance can be pinned to, with its newest sample.

    `index` is the number nvidia-smi shows (PCI bus order); a MIG slice has the index of its card and `mig_parent` set.
    `pci` is normalised to lower case with a four-digit domain, "0000:65:00.0". `state` is "ok", "lost" or "unknown".
    `lost_reason` says in plain words why it is not ok. What the driver reserves is not in what is used, as nvidia-smi
    tells it, and None where the driver counts it as used. Clocks are in MHz. `throttle_reasons` are nvidia-smi's
    words for what holds the clocks down now, none as `()`. ECC errors are counted since the driver was loaded; a
    remapped row of memory that is pending takes effect at the next reset, one that failed means that the card should
    be replaced.
    `energy_j` counts from when the driver was loaded, and is read only where somebody asks for it.
    """

    uuid: str
    index: int | None = None
    vendor: str = "nvidia"
    name: str = ""
    pci: str | None = None
    mig_parent: str | None = None
    state: str = "ok"
    lost_reason: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    pcie_gen: int | None = None
    pcie_width: int | None = None
    pcie_gen_max: int | None = None
    pcie_width_max: int | None = None
    power_default_w: float | None = None
    clock_sm_mhz: int | None = None
    clock_sm_max_mhz: int | None = None
    clock_memory_mhz: int | None = None
    clock_memory_max_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    persistence: bool | None = None
    compute_mode: str | None = None
    compute_capability: str | None = None
    ecc: bool | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    processes: tuple[GpuProcess, ...] = ()

    def unread(self, state: str, reason: str) -> Gpu:
        """Return what stays true of a device that can no longer be read: no sample, and why there is none."""
        return Gpu(
            uuid=self.uuid,
            index=self.index,
            vendor=self.vendor,
            name=self.name,
            pci=self.pci,
            mig_parent=self.mig_parent,
            memory_total_bytes=self.memory_total_bytes,
            state=state,
            lost_reason=reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How the cards with the UUIDs `a` and `b` reach each other: a kind of `ollamux.domain.links`.

    `nvlinks` is how many NVLinks between them are active, None where the driver does not tell.
    """

    a: str
    b: str
    kind: str
    nvlinks: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All devices at one moment. `source` is "nvml", "sysfs", "simulated" or "none".

    `error` says in plain words why the cards could not be read (no driver, mismatch, hang), or None; `error_key` names
    the kind and never changes: "missing", "not-loaded", "mismatch", "denied", "lost", "odd", "silent" or "unread".
    Cards are in nvidia-smi order; MIG slices follow their card. `unsupported` names the cards of other makers, which no
    instance can be pinned to. `links` is None where nobody asked how the cards are joined.
    """

    source: str = "none"
    driver: str | None = None
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    error: str | None = None
    error_key: str | None = None
    unsupported: tuple[str, ...] = ()
    links: tuple[Link, ...] | None = None


MISMATCH = "mismatch"
"""The `error_key` of a driver whose library and kernel module differ."""

NO_DRIVER = frozenset({"missing", "not-loaded"})
"""The `error_key` of a machine without NVIDIA's driver, as one without its cards has none."""

UNLISTED = "the driver no longer lists it; reboot if it should be there"

NO_GPUS = Inventory()
