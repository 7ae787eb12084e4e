"""The environment of a child: what passes, what is set, and that nothing else gets through."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.spec import GpuRef, GpuRefKind, InstanceSpec, Pinning
from ollamux.gpu.model import Gpu
from ollamux.ollama.env import MANAGED, child_env

UUID = "GPU-8f3c2a90-1111-2222-3333-444455556666"
OTHER = "GPU-0a0b0c0d-1111-2222-3333-444455556666"
NVIDIA = Gpu(uuid=UUID, index=0, name="RTX 3090", pci="0000:65:00.0")
AMD = Gpu(uuid="GPU-deadbeefdeadbeef", index=0, vendor="amd")
SPEC = InstanceSpec(name="gpu0", port=11435, pinning=Pinning.GPUS, gpus=(GpuRef(kind=GpuRefKind.INDEX, value="0"),))
CPU = replace(SPEC, pinning=Pinning.CPU, gpus=())
ANY = replace(SPEC, pinning=Pinning.ANY, gpus=())
NEW, OLD, ANCIENT = (0, 32, 15), (0, 24, 0), (0, 9, 6)


def build(spec=SPEC, *, gpus=(NVIDIA,), outer=None, version=NEW, markers=None):
    return child_env(
        spec,
        gpus=gpus,
        outer=outer or {},
        home="/home/me",
        version=version,
        markers=markers or {"OLLAMUX_INSTANCE": "x"},
    )


def test_the_whole_environment_of_a_pinned_instance() -> None:
    assert build(
        outer={"PATH": "/bin", "HOME": "/elsewhere", "LANG": "C.UTF-8", "LC_ALL": "C", "OLLAMA_DEBUG": "1"}
    ) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": UUID,
        "HOME": "/home/me",
        "LANG": "C.UTF-8",
        "LC_ALL": "C",
        "LLAMA_ARG_CACHE_RAM": "2048",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_HOST": "127.0.0.1:11435",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_VULKAN": "0",
        "OLLAMUX_INSTANCE": "x",
        "PATH": "/bin",
        "ROCR_VISIBLE_DEVICES": "-1",
    }


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ({"host": "::1"}, "OLLAMA_HOST", "[::1]:11435"),
        ({"host": "[::1]"}, "OLLAMA_HOST", "[::1]:11435"),
        ({"host": "0.0.0.0"}, "OLLAMA_HOST", "0.0.0.0:11435"),
        ({"store": "~/models"}, "OLLAMA_MODELS", "/home/me/models"),
        ({"store": "~"}, "OLLAMA_MODELS", "/home/me"),
        ({"store": "/srv/models"}, "OLLAMA_MODELS", "/srv/models"),
        ({"store": None}, "OLLAMA_MODELS", None),
        ({"context_length": 4096}, "OLLAMA_CONTEXT_LENGTH", "4096"),
        ({"num_parallel": 4}, "OLLAMA_NUM_PARALLEL", "4"),
        ({"num_parallel": None}, "OLLAMA_NUM_PARALLEL", None),
        ({"max_loaded_models": 3}, "OLLAMA_MAX_LOADED_MODELS", "3"),
        ({"keep_alive_s": -1.0}, "OLLAMA_KEEP_ALIVE", "-1"),
        ({"keep_alive_s": 0.0}, "OLLAMA_KEEP_ALIVE", "0s"),
        ({"keep_alive_s": 1800.0}, "OLLAMA_KEEP_ALIVE", "30m"),
        ({"keep_alive_s": 0.5}, "OLLAMA_KEEP_ALIVE", "500ms"),
        ({"keep_alive_s": None}, "OLLAMA_KEEP_ALIVE", None),
        ({"kv_cache_type": "q8_0"}, "OLLAMA_KV_CACHE_TYPE", "q8_0"),
        ({"flash_attention": True}, "OLLAMA_FLASH_ATTENTION", "1"),
        ({"flash_attention": False}, "OLLAMA_FLASH_ATTENTION", "0"),
        ({"flash_attention": None}, "OLLAMA_FLASH_ATTENTION", None),
        ({"cache_ram_bytes": 0}, "LLAMA_ARG_CACHE_RAM", "0"),
        ({"cache_ram_bytes": 1}, "LLAMA_ARG_CACHE_RAM", "1"),
        ({"env": (("OLLAMA_DEBUG", "1"),)}, "OLLAMA_DEBUG", "1"),
        ({"env": (("PATH", "/opt/bin"),)}, "PATH", "/opt/bin"),
        ({"env": (("OLLAMA_HOST", "evil:1"),)}, "OLLAMA_HOST", "127.0.0.1:11435"),
        ({"env": (("OLLAMA_VULKAN", "1"),)}, "OLLAMA_VULKAN", "0"),
        ({"env": (("OLLAMA_MODELS", "/x"),)}, "OLLAMA_MODELS", None),
        ({"env": (("OLLAMUX_INSTANCE", "y"),)}, "OLLAMUX_INSTANCE", "x"),
        ({"env": (("HOME", "/x"),)}, "HOME", "/home/me"),
    ],
)
def test_each_key_becomes_its_variable(change, name, value) -> None:
    assert build(replace(SPEC, **change)).get(name) == value


@pytest.mark.parametrize(
    ("version", "target", "overhead"),
    [
        ((0, 32, 15), "1024", None),
        ((0, 30, 0), "1024", None),
        ((0, 24, 0), None, str(1024**3)),
        (None, "1024", str(1024**3)),
    ],
)
def test_headroom_becomes_the_variable_that_the_version_honours(version, target, overhead) -> None:
    env = build(replace(SPEC, headroom_bytes=1024**3), version=version)
    assert (env.get("LLAMA_ARG_FIT_TARGET"), env.get("OLLAMA_GPU_OVERHEAD")) == (target, overhead)


def masks(env):
    return {name: env[name] for name in env if "VISIBLE" in name or name.startswith("CUDA") or "VULKAN" in name}


@pytest.mark.parametrize(
    ("spec", "gpus", "version", "wanted"),
    [
        pytest.param(
            SPEC,
            (NVIDIA, replace(NVIDIA, uuid=OTHER)),
            OLD,
            {
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                "CUDA_VISIBLE_DEVICES": f"{UUID},{OTHER}",
                "OLLAMA_VULKAN": "0",
                "ROCR_VISIBLE_DEVICES": "-1",
            },
            id="two cards",
        ),
        pytest.param(
            SPEC,
            (NVIDIA,),
            ANCIENT,
            {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": UUID, "OLLAMA_VULKAN": "0"},
            id="0.9.3 to 0.12.3 leave CUDA out if ROCR_VISIBLE_DEVICES exists",
        ),
        pytest.param(
            SPEC,
            (AMD,),
            NEW,
            {
                "CUDA_VISIBLE_DEVICES": "",
                "ROCR_VISIBLE_DEVICES": "GPU-deadbeefdeadbeef",
                "GGML_VK_VISIBLE_DEVICES": "-1",
                "OLLAMA_VULKAN": "0",
            },
            id="AMD: -1 for CUDA would hide it from HIP too",
        ),
        pytest.param(
            SPEC,
            (replace(AMD, uuid="AMD-0000:03:00.0", index=2),),
            NEW,
            {
                "CUDA_VISIBLE_DEVICES": "",
                "ROCR_VISIBLE_DEVICES": "2",
                "GGML_VK_VISIBLE_DEVICES": "-1",
                "OLLAMA_VULKAN": "0",
            },
            id="AMD without a serial goes by number",
        ),
        pytest.param(
            CPU,
            (),
            NEW,
            {
                "CUDA_VISIBLE_DEVICES": "-1",
                "ROCR_VISIBLE_DEVICES": "-1",
                "HIP_VISIBLE_DEVICES": "-1",
                "GGML_VK_VISIBLE_DEVICES": "-1",
                "OLLAMA_VULKAN": "0",
            },
            id="CPU only",
        ),
        pytest.param(ANY, (), NEW, {}, id="not pinned"),
        pytest.param(
            SPEC,
            (),
            NEW,
            {
                "CUDA_VISIBLE_DEVICES": "-1",
                "ROCR_VISIBLE_DEVICES": "-1",
                "HIP_VISIBLE_DEVICES": "-1",
                "GGML_VK_VISIBLE_DEVICES": "-1",
                "OLLAMA_VULKAN": "0",
            },
            id="pinned, but nothing was found: closed, not open",
        ),
    ],
)
def test_masks(spec, gpus, version, wanted) -> None:
    assert masks(build(spec, gpus=gpus, version=version)) == wanted


def test_cpu_only_names_a_library_that_does_not_exist() -> None:
    env = build(CPU, gpus=())
    assert (env["OLLAMA_LLM_LIBRARY"], env["GPU_DEVICE_ORDINAL"]) == ("cpu", "-1")


def test_an_instance_that_is_not_pinned_stays_inside_the_allocation() -> None:
    slurm = {"CUDA_VISIBLE_DEVICES": "2,3", "ROCR_VISIBLE_DEVICES": "2,3", "GPU_DEVICE_ORDINAL": "2,3"}
    assert masks(build(ANY, gpus=(), outer=slurm)) == {"CUDA_VISIBLE_DEVICES": "2,3", "OLLAMA_VULKAN": "0"}
    amd = masks(build(ANY, gpus=(), outer={"ROCR_VISIBLE_DEVICES": "1"}))
    assert amd == {"ROCR_VISIBLE_DEVICES": "1", "OLLAMA_VULKAN": "0"}


def test_a_pinned_instance_takes_nothing_from_the_allocation() -> None:
    slurm = {
        "CUDA_VISIBLE_DEVICES": "2,3",
        "ROCR_VISIBLE_DEVICES": "2,3",
        "GPU_DEVICE_ORDINAL": "2,3",
        "SLURM_JOB_ID": "7",
    }
    assert build(outer=slurm) == build()


def test_what_an_unpinned_instance_may_choose_itself() -> None:
    spec = replace(ANY, env=(("OLLAMA_LLM_LIBRARY", "cuda_v12"), ("OLLAMA_VULKAN", "1"), ("CUDA_VISIBLE_DEVICES", "0")))
    env = build(spec, gpus=())
    assert (env["OLLAMA_LLM_LIBRARY"], env["OLLAMA_VULKAN"]) == ("cuda_v12", "1")
    assert "CUDA_VISIBLE_DEVICES" not in env


def test_a_path_is_always_there() -> None:
    assert build(outer={})["PATH"]


FOREIGN = [
    "OLLAMA_",
    "CUDA_",
    "HIP_",
    "ROCR_",
    "GGML_",
    "LLAMA_",
    "SLURM_",
    "LD_",
    "PYTHON",
    "WATCHDOG_",
    "LISTEN_",
    "NVIDIA_",
]
PROXIES = {"http_proxy", "https_proxy", "no_proxy", "all_proxy"}
ALLOWED_BY_THE_BOOK = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *PROXIES,
    *(name.upper() for name in PROXIES),
}
NAMES = st.one_of(
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789abc", min_size=1, max_size=20),
    st.builds(lambda prefix, rest: prefix + rest, st.sampled_from(FOREIGN), st.text("ABCDEV_", max_size=10)),
    st.sampled_from([*MANAGED, "LD_PRELOAD", "GPU_DEVICE_ORDINAL", "NOTIFY_SOCKET", "JOURNAL_STREAM", "OLLAMA_VULKAN"]),
)


@given(
    outer=st.dictionaries(NAMES, st.just("leaked")),
    case=st.sampled_from([(SPEC, (NVIDIA,)), (SPEC, (AMD,)), (SPEC, ()), (CPU, ())]),
    version=st.sampled_from([None, NEW, OLD, ANCIENT]),
)
def test_S15_nothing_outside_the_allow_list_leaks(outer, case, version) -> None:
    spec, gpus = case
    for name, value in build(spec, gpus=gpus, outer=outer, version=version).items():
        assert value != "leaked" or name in ALLOWED_BY_THE_BOOK or name.startswith("LC_"), name
    assert build(spec, gpus=gpus, outer=outer, version=version)["HOME"] == "/home/me"


@given(
    env=st.dictionaries(NAMES, st.just("mine")), case=st.sampled_from([(SPEC, (NVIDIA,)), (SPEC, (AMD,)), (CPU, ())])
)
def test_the_env_of_an_instance_never_changes_what_is_set(env, case) -> None:
    spec, gpus = case
    plain = build(spec, gpus=gpus)
    mixed = build(replace(spec, env=tuple(sorted(env.items()))), gpus=gpus)
    assert {name: mixed[name] for name in plain if name != "PATH"} == {n: v for n, v in plain.items() if n != "PATH"}
    assert not [name for name in MANAGED if mixed.get(name) == "mine"]
