"""Facts for the tests of the rules: a machine on which nothing is wrong, and changes to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ollamux.doctor.facts import Config, Facts, Host, Libraries, Program, Service, Store
from ollamux.doctor.see_gpus import views
from ollamux.domain.snapshot import HostView, InstanceView, Status, SupervisorView
from ollamux.domain.spec import FleetSpec, GpuRef, GpuRefKind, InstanceSpec, Pinning
from ollamux.gpu.model import Gpu, Inventory

GIB = 1024**3
CARD = Gpu(
    uuid="GPU-8f3c2a90",
    index=0,
    name="NVIDIA GeForce RTX 3090",
    pci="0000:17:00.0",
    memory_total_bytes=24 * GIB,
    utilization_percent=80,
    pcie_gen=4,
    pcie_width=16,
    pcie_gen_max=4,
    pcie_width_max=16,
    persistence=True,
    compute_mode="default",
    compute_capability="8.6",
    throttle_reasons=(),
    ecc_uncorrected=0,
    remap_pending=False,
    remap_failed=False,
)
SPEC = InstanceSpec(
    name="gpu0",
    port=11435,
    pinning=Pinning.GPUS,
    gpus=(GpuRef(kind=GpuRefKind.INDEX, value="0"),),
    store="/srv/models",
)
LIBRARIES = Libraries(folder="/usr/lib/ollama", cuda=("cuda_v12", "cuda_v13"), has_runner=True)
PROGRAM = Program(
    name="ollama", path="/usr/bin/ollama", version_text="0.32.15", version=(0, 32, 15), libraries=LIBRARIES
)
HOST = Host(
    system="debian",
    memory_bytes=64 * GIB,
    cgroup="/user.slice",
    cgroup_memory_bytes=None,
    cgroup_oom_kills=0,
    oom_kills=0,
    nvidia_cards=1,
    nvidia_module="580.95.05",
    sleeps=0,
    idle_action=None,
    may_sleep=False,
)
STORE = Store(path="/srv/models", real_path="/srv/models", instances=("gpu0",), free_bytes=200 * GIB)
SERVICE = Service(active=False, enabled=False)
INVENTORY = Inventory(source="nvml", driver="580.95.05", cuda="13.0")
VIEW = InstanceView(
    name="gpu0",
    wanted="up",
    phase="READY",
    health="ok",
    reason=None,
    next_action=None,
    next_at=None,
    since=None,
    pid=4300,
    generation=1,
    restarts=0,
    adopted=False,
    exit=None,
    host="127.0.0.1",
    port=11435,
    url="http://127.0.0.1:11435",
    ollama_version="0.32.15",
    gpus=("GPU-8f3c2a90",),
    pinning="proven",
    rss_bytes=None,
)
SUPERVISOR = SupervisorView(
    pid=4242, state="running", started_at="", config="/c.toml", config_changed=False, uptime_s=1.0, version="0"
)


def status(**view: Any) -> Status:
    """What a supervisor says of its one instance."""
    host = HostView(name="box", driver=None, cuda=None, gpus_source="nvml", gpus_error=None)
    return Status(
        version="0", time="", simulated=False, supervisor=SUPERVISOR, host=host, instances=(replace(VIEW, **view),)
    )


def machine(
    *,
    card: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    program: dict[str, Any] | None = None,
    host: dict[str, Any] | None = None,
    store: dict[str, Any] | None = None,
    inventory: dict[str, Any] | None = None,
    more: tuple[InstanceSpec, ...] = (),
    **facts: Any,
) -> Facts:
    """Return the facts of a sound machine with some of them changed; what is not named is as it should be."""
    fleet = FleetSpec(instances=(replace(SPEC, **(spec or {})), *more))
    seen = replace(INVENTORY, **{"gpus": (replace(CARD, **(card or {})),), **(inventory or {})})
    known: dict[str, Any] = {
        "config": Config(path="/c.toml", fleet=fleet),
        "inventory": seen,
        "gpus": views(seen, fleet),
        "status": status(),
        "programs": (replace(PROGRAM, **(program or {})),),
        "on_path": (PROGRAM,),
        "service": SERVICE,
        "stores": (replace(STORE, **(store or {})),),
        "host": replace(HOST, **(host or {})),
    }
    return Facts(**{**known, **facts})


SOUND = machine()
