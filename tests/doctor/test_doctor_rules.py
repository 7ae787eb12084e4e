"""Each rule by itself: when it fires, when it must not, and that it says nothing where nothing is known."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from typing import Any

import pytest
from doctor_values import CARD, GIB, HOST, LIBRARIES, PROGRAM, SERVICE, SOUND, SPEC, machine, status

from ollamux.doctor.facts import Config, Facts, Host, Obstacle, Outdated, Server, Stranger
from ollamux.doctor.findings import IDS, Finding, Severity, ranked
from ollamux.doctor.rules import judge
from ollamux.domain.snapshot import InstanceModelView
from ollamux.domain.spec import FleetSpec, GpuRef, GpuRefKind, Pinning, PinSpec
from ollamux.supervisor.view import gpu_view


def pins(*names: str) -> tuple[PinSpec, ...]:
    return tuple(PinSpec(name=name) for name in names)


BROKEN, WARNING, HINT = Severity.BROKEN, Severity.WARNING, Severity.HINT
MIB = 1024**2
OTHER = replace(PROGRAM, name="/opt/ollama/bin/ollama", path="/opt/ollama/bin/ollama", version_text="0.24.0")
OLD_ERA = {"version_text": "0.24.0", "version": (0, 24, 0)}
PASCAL = {"compute_capability": "6.1", "name": "NVIDIA GeForce GTX 1080"}
NO_CARD: dict[str, object] = {"gpus": ()}
STRANGER = Stranger(pid=77, gpu="GPU-8f3c2a90", name="python", user="eve", memory_bytes=9 * GIB)
TAKEN = Obstacle(instance="gpu0", host="127.0.0.1", port=11435, holder="pid 77 (nginx, user eve)", pid=77)
RIVAL = Server(pid=88, user="eve", packaged=False, store="/srv/models", prunes=True)
OLD = Outdated(instance="gpu0", program="/usr/bin/ollama", running="0.24.0", on_disk="0.32.15")
MISSING = GpuRef(kind=GpuRefKind.INDEX, value="7")


def loaded(on_gpu: int, name: str = "qwen3:8b") -> InstanceModelView:
    """Return a model of 8 GiB, so much of which is on the card."""
    return InstanceModelView(
        name=name, size_bytes=8 * GIB, size_vram_bytes=on_gpu, context_length=4096, expires_at=None
    )


def driver(key: str) -> dict[str, object]:
    return {"gpus": (), "driver": None, "cuda": None, "error": "the driver says no", "error_key": key}


COMMANDS = {"sudo", "kill", "ollamux", "curl", "chmod", "ls", "ps", "nvidia-smi", "findmnt", "du"}
FIRES: list[tuple[str, Severity, Facts]] = [
    ("driver-mismatch", BROKEN, machine(inventory=driver("mismatch"))),
    ("driver-silent", BROKEN, machine(inventory=driver("silent"))),
    ("driver-not-loaded", BROKEN, machine(inventory=driver("not-loaded"))),
    ("driver-not-loaded", WARNING, machine(inventory=driver("not-loaded"), spec={"pinning": Pinning.CPU, "gpus": ()})),
    ("driver-missing", BROKEN, machine(inventory=driver("missing"), host={"nvidia_cards": None})),
    ("driver-missing", WARNING, machine(inventory=driver("missing"), config=Config(missing=True))),
    ("driver-denied", BROKEN, machine(inventory=driver("denied"))),
    ("driver-odd", BROKEN, machine(inventory=driver("odd"))),
    ("driver-odd", BROKEN, machine(inventory=driver("lost"))),
    ("gpus-unread", WARNING, machine(inventory=driver("unread"))),
    ("driver-too-old", BROKEN, machine(inventory={"driver": "535.288.01"})),
    ("driver-too-old", BROKEN, machine(inventory={"driver": "565.57.01"}, card=PASCAL)),
    ("driver-too-old", BROKEN, machine(inventory={"driver": "515.43"}, program=OLD_ERA)),
    (
        "driver-too-old",
        BROKEN,
        machine(
            inventory={"driver": "570.1"}, program={"libraries": replace(LIBRARIES, cuda=("cuda_v13",)), **OLD_ERA}
        ),
    ),
    ("driver-too-old", BROKEN, machine(inventory={"driver": "470.256.02"}, config=Config(missing=True))),
    ("ollama-missing", BROKEN, machine(program={"path": None, "problem": "it was not found", "libraries": None})),
    ("runner-missing", BROKEN, machine(program={"libraries": replace(LIBRARIES, has_runner=False)})),
    ("cuda-libraries-missing", BROKEN, machine(program={"libraries": replace(LIBRARIES, cuda=())})),
    ("ollama-unsupported", WARNING, machine(program={"version_text": "0.12.3", "version": (0, 12, 3)})),
    ("server-outdated", WARNING, machine(outdated=(OLD,))),
    ("server-outdated", WARNING, machine(outdated=(replace(OLD, on_disk=None),))),
    ("ollama-several", WARNING, machine(on_path=(PROGRAM, OTHER))),
    ("ollama-replaceable", WARNING, machine(program={"replaceable": ("/opt", "everybody")})),
    ("config-invalid", BROKEN, machine(config=Config(path="/c.toml", problem="c.toml:3: no such key"))),
    ("config-missing", HINT, machine(config=Config(missing=True))),
    ("config-idle", WARNING, machine(spec={"enabled": False})),
    ("supervisor-silent", BROKEN, machine(silence=("pid 7 is stopped", "kill -CONT 7"))),
    ("card-missing", BROKEN, machine(spec={"gpus": (MISSING,)})),
    ("card-lost", BROKEN, machine(card={"state": "lost", "lost_reason": "it has fallen off the bus"})),
    (
        "card-lost",
        WARNING,
        machine(card={"state": "lost", "lost_reason": "off the bus"}, spec={"pinning": Pinning.CPU, "gpus": ()}),
    ),
    ("card-unknown", WARNING, machine(card={"state": "unknown", "lost_reason": "no answer"})),
    ("card-memory-defective", BROKEN, machine(card={"remap_failed": True})),
    ("card-unsupported", BROKEN, machine(card={"compute_capability": "3.7"})),
    ("card-unsupported", BROKEN, machine(card=PASCAL, program={"libraries": replace(LIBRARIES, cuda=("cuda_v13",))})),
    (
        "card-unsupported",
        HINT,
        machine(card={"compute_capability": "3.7"}, spec={"pinning": Pinning.CPU, "gpus": ()}),
    ),
    ("card-shared", BROKEN, machine(more=(replace(SPEC, name="gpu1", port=11436),))),
    ("card-compute-mode", BROKEN, machine(card={"compute_mode": "prohibited"})),
    ("card-compute-mode", WARNING, machine(card={"compute_mode": "exclusive_process"})),
    ("card-memory-reset", WARNING, machine(card={"remap_pending": True})),
    ("card-memory-errors", WARNING, machine(card={"ecc_uncorrected": 3})),
    ("card-thermal", WARNING, machine(card={"throttle_reasons": ("hw_thermal_slowdown",)})),
    ("card-power", WARNING, machine(card={"throttle_reasons": ("hw_power_brake_slowdown",)})),
    ("card-slowdown", WARNING, machine(card={"throttle_reasons": ("hw_slowdown",)})),
    ("card-strangers", WARNING, machine(strangers=(STRANGER,))),
    ("card-strangers", WARNING, machine(strangers=(replace(STRANGER, memory_bytes=None),))),
    ("link-narrow", WARNING, machine(card={"pcie_width": 4})),
    ("link-slow", WARNING, machine(card={"pcie_gen": 1})),
    ("persistence-off", HINT, machine(card={"persistence": False})),
    ("ollama-service", WARNING, machine(service=replace(SERVICE, active=True))),
    (
        "ollama-service",
        BROKEN,
        machine(service=replace(SERVICE, active=True), obstacles=(replace(TAKEN, packaged=True),)),
    ),
    ("ollama-service", HINT, machine(service=replace(SERVICE, enabled=True))),
    ("ollama-service", WARNING, machine(service=replace(SERVICE, enabled=True), spec={"port": 11434})),
    ("port-taken", BROKEN, machine(obstacles=(TAKEN,))),
    ("port-taken", BROKEN, machine(obstacles=(replace(TAKEN, holder=None, pid=None),))),
    ("address-missing", BROKEN, machine(obstacles=(replace(TAKEN, address_missing=True),))),
    ("instance-failed", BROKEN, machine(status=status(phase="FAILED", reason="exited with 1"))),
    ("instance-failed", BROKEN, machine(status=status(phase="UNHEALTHY", health="failing"))),
    ("instance-failed", BROKEN, machine(status=status(phase="STUCK", reason="it hangs in the kernel"))),
    ("instance-degraded", WARNING, machine(status=status(health="degraded", reason="it computes on the CPU"))),
    ("instance-degraded", WARNING, machine(status=status(health="degraded", models=(loaded(GIB),)))),
    ("store-unreadable", BROKEN, machine(store={"state": "closed", "obstacle": "/srv/models/blobs"})),
    ("store-unreadable", BROKEN, machine(store={"state": "not a folder"})),
    ("store-missing", BROKEN, machine(store={"state": "missing", "makeable": False, "obstacle": "/srv"})),
    ("store-full", BROKEN, machine(store={"free_bytes": GIB - 1})),
    ("store-full", WARNING, machine(store={"free_bytes": 5 * GIB - 1})),
    ("store-prune", WARNING, machine(servers=(RIVAL,))),
    ("store-read-only", WARNING, machine(store={"writable": False})),
    ("store-open", WARNING, machine(store={"open_to": "everybody"})),
    ("api-key-set", BROKEN, machine(spec={"env": (("LLAMA_API_KEY", "x"),)})),
    ("kv-cache-attention", BROKEN, machine(spec={"kv_cache_type": "q8_0", "flash_attention": False})),
    ("kv-cache-attention", BROKEN, machine(spec={"kv_cache_type": "q4_0"}, card={"compute_capability": "5.2"})),
    (
        "kv-cache-attention",
        WARNING,
        machine(spec={"kv_cache_type": "q8_0", "flash_attention": False}, program=OLD_ERA),
    ),
    ("flash-attention", WARNING, machine(spec={"flash_attention": True}, card={"compute_capability": "5.2"})),
    ("flash-attention", WARNING, machine(spec={"flash_attention": True}, card={"compute_capability": "7.2"})),
    ("bf16-model", HINT, machine(spec={"preload": pins("gemma3:4b-it-bf16")}, card={"compute_capability": "7.5"})),
    ("fp16-model", HINT, machine(spec={"preload": pins("llama3:8b-fp16")}, card=PASCAL)),
    ("headroom-small", WARNING, machine(spec={"headroom_bytes": 256 * MIB})),
    ("preload-crowded", WARNING, machine(spec={"preload": pins("a", "b", "c"), "max_loaded_models": 2})),
    ("memory-plan", WARNING, machine(host={"memory_bytes": GIB})),
    ("cgroup-memory", WARNING, machine(host={"cgroup_memory_bytes": 2 * GIB})),
    ("oom-kills", WARNING, machine(host={"cgroup_oom_kills": 2})),
    ("oom-kills", HINT, machine(host={"oom_kills": 1})),
    ("exposed-host", WARNING, machine(spec={"host": "0.0.0.0"})),
    ("exposed-origins", WARNING, machine(spec={"env": (("OLLAMA_ORIGINS", "*"),)})),
    (
        "exposed-service",
        WARNING,
        machine(service=replace(SERVICE, active=True, environment=(("OLLAMA_HOST", "0.0.0.0:11434"),))),
    ),
    ("suspend-happened", WARNING, machine(host={"sleeps": 3})),
    ("suspend-idle", WARNING, machine(host={"idle_action": "suspend"})),
    ("suspend-possible", HINT, machine(host={"may_sleep": True})),
]

QUIET: list[tuple[str, Facts]] = [
    (
        "driver-not-loaded",
        machine(inventory=driver("not-loaded"), config=Config(missing=True), host={"nvidia_cards": 0}),
    ),
    ("driver-missing", machine(inventory=driver("missing"), config=Config(missing=True), host={"nvidia_cards": None})),
    ("driver-too-old", machine(inventory={"driver": "550.54.14"})),
    ("driver-too-old", machine(inventory={"driver": "570.26"}, card=PASCAL)),
    ("driver-too-old", machine(inventory={"driver": "525.60.13"}, program=OLD_ERA)),
    ("driver-too-old", machine(inventory={"driver": None})),
    (
        "driver-too-old",
        machine(inventory={"driver": "540.4.0"}, program={"libraries": replace(LIBRARIES, cuda=("cuda_jetpack6",))}),
    ),
    ("driver-too-old", machine(inventory={"driver": "470.1"}, program={"version": None, "libraries": None})),
    ("driver-too-old", machine(inventory={"driver": "470.1", **NO_CARD})),
    ("driver-too-old", machine(inventory={"driver": "470.1"}, card={"vendor": "amd"})),
    ("driver-too-old", machine(inventory={"driver": "470.1"}, spec={"pinning": Pinning.CPU, "gpus": ()})),
    ("runner-missing", machine(program={"libraries": None})),
    ("runner-missing", machine(program={"libraries": replace(LIBRARIES, has_runner=False), **OLD_ERA})),
    ("runner-missing", machine(program={"libraries": replace(LIBRARIES, has_runner=False), "version": None})),
    ("cuda-libraries-missing", machine(program={"libraries": replace(LIBRARIES, cuda=("libggml-cuda.so",))})),
    (
        "cuda-libraries-missing",
        machine(program={"libraries": replace(LIBRARIES, cuda=())}, spec={"pinning": Pinning.CPU, "gpus": ()}),
    ),
    ("ollama-unsupported", machine(program={"version_text": "0.0.0", "version": None})),
    ("ollama-several", machine(on_path=(PROGRAM, replace(OTHER, version_text="0.32.15")))),
    ("ollama-several", machine(on_path=(PROGRAM, replace(OTHER, version_text=None)))),
    ("ollama-several", machine(on_path=(PROGRAM, OTHER), spec={"ollama": "/usr/bin/ollama"})),
    ("card-missing", machine(inventory=driver("mismatch"))),
    ("card-missing", machine(card={"state": "lost", "lost_reason": "off the bus"})),
    ("card-missing", machine(spec={"gpus": (MISSING,), "enabled": False})),
    ("card-shared", machine(spec={"share_gpu": True}, more=(replace(SPEC, name="b", port=9, share_gpu=True),))),
    ("card-unsupported", machine(card={"compute_capability": None})),
    ("card-unsupported", machine(card=PASCAL)),
    ("card-unsupported", machine(card={"compute_capability": "5.0"})),
    ("card-thermal", machine(card={"throttle_reasons": ("sw_power_cap", "gpu_idle")})),
    ("card-strangers", machine(strangers=(replace(STRANGER, memory_bytes=40 * MIB),))),
    ("card-strangers", machine(strangers=(replace(STRANGER, gpu="GPU-of-nobody"),))),
    ("card-strangers", machine(strangers=(STRANGER,), spec={"pinning": Pinning.CPU, "gpus": ()})),
    ("link-narrow", machine(card={"pcie_width_max": None, "pcie_width": 4})),
    ("link-narrow", machine(card={"pcie_width": None})),
    ("link-slow", machine(card={"pcie_gen": 1, "utilization_percent": 0})),
    ("link-slow", machine(card={"pcie_gen": 1, "utilization_percent": None})),
    ("link-slow", machine(card={"pcie_gen_max": None, "pcie_gen": 1})),
    ("persistence-off", machine(card={"persistence": None})),
    ("persistence-off", machine(card={"persistence": False, "vendor": "amd"})),
    ("ollama-service", machine(service=None)),
    ("exposed-service", machine(service=replace(SERVICE, environment=(("OLLAMA_HOST", "0.0.0.0"),)))),
    *(
        ("exposed-service", machine(service=replace(SERVICE, active=True, environment=(("OLLAMA_HOST", told),))))
        for told in ("127.0.0.1:11434", "http://localhost:11434", "[::1]:11434", "127.0.0.1", "::1", "localhost")
    ),
    ("instance-failed", machine(status=status(phase="FAILED", wanted="down"))),
    ("instance-failed", machine(status=status(phase="WAITING"))),
    ("store-missing", machine(store={"state": "missing", "makeable": True})),
    ("store-full", machine(store={"free_bytes": 5 * GIB})),
    ("store-full", machine(store={"free_bytes": None})),
    ("store-full", machine(store={"free_bytes": 0, "writable": False})),
    ("store-prune", machine(servers=(replace(RIVAL, prunes=False),))),
    ("store-prune", machine(servers=(replace(RIVAL, store=None),), store={"real_path": None})),
    ("store-prune", machine(servers=(replace(RIVAL, store="/home/eve/models"),))),
    ("kv-cache-attention", machine(spec={"kv_cache_type": "q8_0", "flash_attention": True})),
    ("kv-cache-attention", machine(spec={"kv_cache_type": "q8_0"})),
    ("kv-cache-attention", machine(spec={"kv_cache_type": "q8_0"}, card={"compute_capability": None})),
    ("kv-cache-attention", machine(spec={"kv_cache_type": "f16", "flash_attention": False})),
    ("flash-attention", machine(spec={"flash_attention": True}, card={"compute_capability": "7.0"})),
    ("flash-attention", machine(spec={"flash_attention": True}, card={"compute_capability": None})),
    ("bf16-model", machine(spec={"preload": pins("gemma3:4b-it-bf16")})),
    ("bf16-model", machine(spec={"preload": pins("gemma3:4b")}, card={"compute_capability": "7.5"})),
    ("fp16-model", machine(spec={"preload": pins("llama3:8b-fp16")}, card={"compute_capability": "6.0"})),
    ("headroom-small", machine(spec={"headroom_bytes": 457 * MIB})),
    ("headroom-small", machine(spec={"headroom_bytes": MIB, "pinning": Pinning.CPU, "gpus": ()})),
    ("preload-crowded", machine(spec={"preload": pins("a", "b"), "max_loaded_models": 2})),
    ("preload-crowded", machine(spec={"preload": pins("a", "b"), "max_loaded_models": None})),
    ("memory-plan", machine(host={"memory_bytes": None})),
    ("cgroup-memory", machine(host={"cgroup_memory_bytes": 3 * GIB})),
    ("oom-kills", machine(host={"cgroup_oom_kills": None, "oom_kills": None})),
    ("exposed-host", machine(spec={"host": "0.0.0.0", "allow_lan": True})),
    ("exposed-origins", machine(spec={"env": (("OLLAMA_ORIGINS", "https://a.example"),)})),
    ("suspend-happened", machine(host={"sleeps": 3, "nvidia_cards": 0}, inventory=NO_CARD)),
    ("suspend-idle", machine(host={"idle_action": "ignore"})),
    ("suspend-possible", machine(host={"may_sleep": None})),
]


def ids(facts: Facts) -> set[str]:
    return {finding.id for finding in judge(facts)}


def test_nothing_is_found_on_a_sound_machine() -> None:
    assert judge(SOUND) == ()


@pytest.mark.parametrize(
    "facts",
    [Facts(), Facts(host=HOST), Facts(config=Config(path="/c.toml", fleet=FleetSpec(instances=(SPEC,))))],
    ids=["nothing", "the machine alone", "the configuration alone"],
)
def test_who_knows_nothing_says_nothing(facts: Facts) -> None:
    assert judge(facts) == ()


@pytest.mark.parametrize("name", [field.name for field in fields(Facts) if field.name != "config"])
def test_each_thing_that_is_not_known_takes_findings_away_and_adds_none(name: str) -> None:
    unknown = {"host": Host(), "simulated": False}.get(name, () if isinstance(getattr(SOUND, name), tuple) else None)

    assert judge(replace(SOUND, **{name: unknown})) == ()


@pytest.mark.parametrize(("name", "severity", "facts"), FIRES, ids=[f"{n}-{s.value}" for n, s, _ in FIRES])
def test_a_rule_fires(name: str, severity: Severity, facts: Facts) -> None:
    found = [finding for finding in judge(facts) if finding.id == name]

    assert [finding.severity for finding in found] == [severity]
    assert all(one.title and one.evidence and one.fix for one in found)
    assert not any(one.title.endswith(".") for one in found)
    assert not any("#" in one.fix or "\n" in one.fix for one in found)  # zsh does not know comments in what is pasted
    assert all(one.is_command == (one.fix.split()[0] in COMMANDS) for one in found), found


@pytest.mark.parametrize(("name", "facts"), QUIET, ids=[name for name, _ in QUIET])
def test_a_rule_does_not_fire(name: str, facts: Facts) -> None:
    assert name not in ids(facts)


def test_every_finding_there_is_is_fired_by_a_case() -> None:
    assert {name for name, _, _ in FIRES} == set(IDS)


def test_a_name_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match="IDS"):
        Finding(id="made-up", severity=HINT, title="t", evidence="e", fix="f")


def test_the_worst_comes_first_and_causes_before_consequences() -> None:
    found = [
        Finding(id=name, severity=severity, title="t", evidence="e", fix="f")
        for name, severity in (("exposed-host", HINT), ("card-lost", WARNING), ("port-taken", BROKEN))
    ]
    first = Finding(id="driver-mismatch", severity=BROKEN, title="t", evidence="e", fix="f")

    order = [one.id for one in ranked([*found, first, first])]

    assert order == ["driver-mismatch", "port-taken", "card-lost", "exposed-host"]


@pytest.mark.parametrize(
    ("seen", "fix"),
    [
        ({"pinning": "cpu"}, "ollamux restart --if-unhealthy gpu0"),
        ({"pinning": "wrong"}, "ollamux restart --if-unhealthy gpu0"),
        ({"models": (loaded(0),)}, "ollamux restart --if-unhealthy gpu0"),
        (
            {"models": (loaded(GIB),)},
            "ask for qwen3:8b with a smaller context (num_ctx), or give",
        ),
        (
            {"models": (loaded(GIB), loaded(8 * GIB, "other"))},
            "ask for qwen3:8b with a smaller context (num_ctx) or unload",
        ),
        ({"models": (loaded(8 * GIB),), "gpus": ("GPU-of-another",)}, "ollamux status processes"),
        ({"gpus": (CARD.uuid,)}, "ollamux status gpus"),
    ],
)
def test_a_restart_is_advised_only_where_one_may_mend_it(seen: dict[str, Any], fix: str) -> None:
    hot = gpu_view(replace(CARD, throttle_reasons=("hw_thermal_slowdown",)), (), 0.0)
    told = replace(status(health="degraded", reason="so it is", **seen), gpus=(hot,))
    (found,) = judge(machine(status=told))

    assert found.fix.startswith(fix)
    assert found.is_command == fix.startswith("ollamux ")


@pytest.mark.parametrize(
    "facts",
    [
        machine(config=Config(path="/my files/c.toml", problem="no such key")),
        machine(program={"replaceable": ("/my files", "everybody")}),
        machine(program={"replaceable": ("/my files", "its owner")}),
        machine(store={"path": "/my files", "state": "closed"}),
        machine(store={"path": "/my files", "free_bytes": 1}),
    ],
)
def test_a_command_names_a_path_so_that_it_stays_one(facts: Facts) -> None:
    (found,) = judge(facts)

    assert found.is_command
    assert any(word.startswith("/my files") for word in shlex.split(found.fix))


def test_a_fix_names_the_packaged_service_where_it_is_the_one_in_the_way() -> None:
    facts = machine(
        service=replace(SERVICE, active=True),
        obstacles=(replace(TAKEN, packaged=True),),
        strangers=(replace(STRANGER, packaged=True),),
    )

    fixes = {finding.fix for finding in judge(facts)}

    assert fixes == {"sudo systemctl disable --now ollama"}
