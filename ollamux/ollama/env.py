"""The environment of one `ollama serve`: what it gets and, above all, what it does not inherit. Pure.

Ollama takes every setting from its environment and hands all of it on to its runners, so a variable of the caller's
shell would reach the GPU code. Only an allow-list passes; the rest comes from the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from ollamux.domain.spec import InstanceSpec, Pinning
from ollamux.domain.text import exact_duration
from ollamux.ollama.device import Device
from ollamux.ollama.version import FIRST_LLAMA_SERVER, FIRST_SUPPORTED, Version

MANAGED = frozenset(
    f"OLLAMA_{name}"
    for name in (
        *("HOST", "MODELS", "NOPRUNE", "CONTEXT_LENGTH", "NUM_PARALLEL", "MAX_LOADED_MODELS"),
        *("KEEP_ALIVE", "KV_CACHE_TYPE", "FLASH_ATTENTION", "GPU_OVERHEAD"),
    )
) | {
    *("LLAMA_ARG_FIT_TARGET", "LLAMA_ARG_CACHE_RAM"),
    *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("GPU_DEVICE_ORDINAL", "GGML_VK_VISIBLE_DEVICES"),
}
"""Variables that have a key of their own; the `env` of an instance never sets them, also where the key is absent."""

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_PERSONAL = ("HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR")
_SEARCHED = ("PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_ALLOWED = frozenset((*_PERSONAL, *_SEARCHED, *_PROXIES, *(name.upper() for name in _PROXIES)))
_CLOSED = "-1"
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_MIB = 1024**2


def child_env(
    spec: InstanceSpec,
    *,
    gpus: tuple[Device, ...],
    outer: Mapping[str, str],
    home: str,
    version: Version | None,
    markers: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of a child, sorted by name.

    `gpus` are the devices the instance was resolved to. The `env` of the instance never changes a variable that is set
    here, nor one of `MANAGED`.
    """
    env = {name: value for name, value in outer.items() if name in _ALLOWED or name.startswith("LC_")}
    env["HOME"] = home
    env.setdefault("PATH", _DEFAULT_PATH)
    inherited = set(env) - {"HOME"}
    env.update(_settings(spec, home=home))
    env.update(_headroom(spec.headroom_bytes, version))
    env.update(_masks(spec.pinning, gpus, outer=outer, version=version))
    env.update(markers)
    ours = set(env) - inherited
    env.update({name: value for name, value in spec.env if name not in ours and name not in MANAGED})
    return dict(sorted(env.items()))


def _settings(spec: InstanceSpec, *, home: str) -> dict[str, str]:
    wanted: dict[str, str | int | None] = {
        "OLLAMA_HOST": f"{address(spec.host)}:{spec.port}",
        "OLLAMA_MODELS": None if spec.store is None else expand(spec.store, home),
        # Without it simultaneous starts on one store remove each other's folders and die.
        "OLLAMA_NOPRUNE": 1,
        "OLLAMA_CONTEXT_LENGTH": spec.context_length,
        "OLLAMA_NUM_PARALLEL": spec.num_parallel,
        "OLLAMA_MAX_LOADED_MODELS": spec.max_loaded_models,
        "OLLAMA_KEEP_ALIVE": _keep_alive(spec.keep_alive_s),
        "OLLAMA_KV_CACHE_TYPE": spec.kv_cache_type,
        "OLLAMA_FLASH_ATTENTION": None if spec.flash_attention is None else int(spec.flash_attention),
        # A plain number of MiB; units are not understood.
        "LLAMA_ARG_CACHE_RAM": _mib(spec.cache_ram_bytes),
    }
    return {name: str(value) for name, value in wanted.items() if value is not None}


def _keep_alive(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return "-1" if seconds < 0 else exact_duration(seconds)


def _headroom(size: int | None, version: Version | None) -> dict[str, str]:
    """Choose the variable that this version really honours: from 0.30 on GPU_OVERHEAD limits nothing any more."""
    if size is None:
        return {}
    newer, older = {"LLAMA_ARG_FIT_TARGET": str(_mib(size))}, {"OLLAMA_GPU_OVERHEAD": str(size)}
    if version is None:
        return newer | older
    return newer if version >= FIRST_LLAMA_SERVER else older


def _mib(size: int) -> int:
    return -(-size // _MIB)


def _masks(
    pinning: Pinning, gpus: tuple[Device, ...], *, outer: Mapping[str, str], version: Version | None
) -> dict[str, str]:
    match pinning:
        case Pinning.ANY:
            return _outer_masks(outer)
        case Pinning.CPU:
            return _all_closed() | {"OLLAMA_LLM_LIBRARY": "cpu"}
        case Pinning.GPUS:
            return _pinned(gpus, version)


def _all_closed() -> dict[str, str]:
    names = ("CUDA", "ROCR", "HIP", "GGML_VK")
    closed = {f"{name}_VISIBLE_DEVICES": _CLOSED for name in names}
    return closed | {"GPU_DEVICE_ORDINAL": _CLOSED, "OLLAMA_VULKAN": "0"}


def _pinned(gpus: tuple[Device, ...], version: Version | None) -> dict[str, str]:
    """Let a child see these devices and no others; with none, nothing at all.

    Vulkan is off because it ignores the masks of CUDA and ROCm and would show every other card.
    """
    nvidia = [gpu.uuid for gpu in gpus if gpu.vendor == "nvidia"]
    amd = [rocr_token(gpu) for gpu in gpus if gpu.vendor == "amd"]
    if nvidia:
        env = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(nvidia), "OLLAMA_VULKAN": "0"}
        # HIP reads CUDA_VISIBLE_DEVICES too and finds none of its cards there, so this is a second bolt. Ollama 0.9.3
        # to 0.12.3 must not get it: they leave CUDA out as soon as the variable exists.
        if amd or (version is not None and version >= FIRST_SUPPORTED):
            env["ROCR_VISIBLE_DEVICES"] = ",".join(amd) or _CLOSED
        return env
    if amd:
        # Empty, not -1: CUDA takes an empty list for "no device", while HIP takes it for "not set" and would hide its
        # own cards at -1.
        return {
            "CUDA_VISIBLE_DEVICES": "",
            "ROCR_VISIBLE_DEVICES": ",".join(amd),
            "GGML_VK_VISIBLE_DEVICES": _CLOSED,
            "OLLAMA_VULKAN": "0",
        }
    return _all_closed()


def rocr_token(gpu: Device) -> str:
    """Return what ROCR_VISIBLE_DEVICES calls a card: its UUID, or its number where it has none."""
    return gpu.uuid if gpu.uuid.startswith("GPU-") or gpu.index is None else str(gpu.index)


def _outer_masks(outer: Mapping[str, str]) -> dict[str, str]:
    """Hand an outer mask on: inside an allocation only its devices exist, for an instance that is not pinned too.

    Slurm sets the masks of AMD beside CUDA_VISIBLE_DEVICES on NVIDIA machines too; they are left out beside it.
    """
    if "CUDA_VISIBLE_DEVICES" in outer:
        names: tuple[str, ...] = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
    else:
        names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    masks = {name: outer[name] for name in names if name in outer}
    if any(name.endswith("_VISIBLE_DEVICES") for name in masks):
        masks["OLLAMA_VULKAN"] = "0"
    return masks


def address(host: str) -> str:
    """Write a host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def expand(path: str, home: str) -> str:
    """Put the home folder in the place of a leading `~`."""
    if path == "~":
        return home
    return f"{home.rstrip('/')}/{path[2:].lstrip('/')}" if path.startswith("~/") else path
