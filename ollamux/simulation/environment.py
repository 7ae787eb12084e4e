"""Read the environment as `ollama serve` does, odd rules included. It reads; it decides nothing."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ollamux.simulation.eras import Era
from ollamux.simulation.golang import (
    FOREVER,
    SECOND,
    GoError,
    duration_text,
    log_value,
    parse_bool,
    parse_duration,
    parse_uint,
)
from ollamux.simulation.http import WILDCARDS

DEFAULT_PORT = "11434"
_LOCAL = ("localhost", "127.0.0.1", WILDCARDS[1])
_APPS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")

Warn = Callable[..., None]


class PanicError(Exception):
    """The Go program would panic: stack trace and exit 2."""


def variable(name: str) -> str:
    """Return a variable without surrounding blanks and quotes."""
    return os.environ.get(name, "").strip().strip("\"'")


def flag(name: str, default: bool = False) -> bool:
    """Return a boolean variable."""
    return parse_bool(variable(name), default)


def number(name: str, default: int, warn: Warn | None = None) -> int:
    """Return an unsigned variable; what is none is told and ignored."""
    text = variable(name)
    value = parse_uint(text) if text else default
    if value is None:
        if warn is not None:
            warn("invalid environment variable, using default", key=name, value=text, default=default)
        return default
    return value


def duration_ns(name: str, default_s: int) -> int:
    """Return a duration in nanoseconds: Go's form, else whole seconds; negative is for ever."""
    text = variable(name)
    value = default_s * SECOND
    if text:
        try:
            value = parse_duration(text)
        except GoError:
            if text.lstrip("+-").isdigit():
                value = int(text) * SECOND
    return FOREVER if value < 0 else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where to listen: scheme, host and port, and what was wrong with the port."""

    scheme: str
    host: str
    port: int
    bad_port: str | None = None

    @property
    def address(self) -> str:
        """Return host and port as Go joins them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the URL a client of this machine uses."""
        return f"{self.scheme}://{self.address}"


def listen_host() -> Host:
    """Read OLLAMA_HOST; a port that is none falls back to the default one."""
    text = variable("OLLAMA_HOST")
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest, default = "http", text, DEFAULT_PORT
    else:
        default = {"http": "80", "https": "443"}.get(scheme, DEFAULT_PORT)
    if text == "ollama.com":
        scheme, rest, default = "https", "ollama.com:443", "443"
    hostport = rest.partition("/")[0]
    host, port = _split(hostport, default)
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        return Host(scheme=scheme, host=host, port=int(default), bad_port=port)
    return Host(scheme=scheme, host=host, port=int(port))


def _split(hostport: str, default: str) -> tuple[str, str]:
    head, colon, tail = hostport.rpartition(":")
    bracketed = head.startswith("[") and head.endswith("]")
    if colon and (bracketed or ":" not in head) and not hostport.endswith("]"):
        return head.strip("[]"), tail
    bare = hostport.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return hostport or "127.0.0.1", default
    return bare, default


def home() -> str:
    """Return HOME; a server without one cannot start."""
    return os.environ.get("HOME", "")


def models() -> Path:
    """Return the folder of the store; without it and without HOME the program panics."""
    text = variable("OLLAMA_MODELS")
    if text:
        return Path(text)
    if not home():
        raise PanicError("$HOME is not defined")
    return Path(home()) / ".ollama" / "models"


def origins() -> list[str]:
    """Return the origins that may use the API from a browser."""
    listed = [o for o in variable("OLLAMA_ORIGINS").split(",") if o]
    for host in _LOCAL:
        listed += [f"http://{host}", f"https://{host}", f"http://{host}:*", f"https://{host}:*"]
    return [*listed, *_APPS]


def debug_level() -> int:
    """Return the log level as slog counts: INFO 0, DEBUG −4, TRACE −8."""
    text = variable("OLLAMA_DEBUG")
    if not text:
        return 0
    if text.lstrip("+-").isdigit():
        return int(text) * -4
    return -4 if parse_bool(text, False) else 0


def config_map(era: Era, warn: Warn | None = None) -> str:
    """Return the whole effective environment as the `server config` line prints it."""
    new = era.has_llama_server
    level = debug_level()
    shown = {0: "INFO", -4: "DEBUG", -8: "TRACE"}.get(level, f"DEBUG{level + 4:+d}")
    values: dict[str, object] = dict.fromkeys(
        ["CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES"]
        + ["HSA_OVERRIDE_GFX_VERSION", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "ROCR_VISIBLE_DEVICES"]
        + ["OLLAMA_EDITOR", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_LLM_LIBRARY", "http_proxy", "https_proxy", "no_proxy"]
        + (["LLAMA_ARG_FIT", "LLAMA_ARG_FIT_TARGET", "OLLAMA_IGPU_ENABLE"] if new else [])
    )
    values = {name: variable(name) for name in values}
    flags = {"DEBUG_LOG_REQUESTS": False, "FLASH_ATTENTION": False, "NOHISTORY": False, "NOPRUNE": False}
    flags |= {"NO_CLOUD": False, "SCHED_SPREAD": False, "VULKAN": new}
    flags |= {"GO_TEMPLATE": True} if new else {"MULTIUSER_CACHE": False, "NEW_ENGINE": False}
    values |= {f"OLLAMA_{name}": log_value(flag(f"OLLAMA_{name}", default)) for name, default in flags.items()}
    numbers = {"CONTEXT_LENGTH": 0, "GPU_OVERHEAD": 0, "MAX_LOADED_MODELS": 0, "MAX_QUEUE": 512, "NUM_PARALLEL": 1}
    numbers |= {"MAX_TRANSFER_STREAMS": 4}
    values |= {f"OLLAMA_{name}": number(f"OLLAMA_{name}", d, warn) for name, d in numbers.items()}
    values |= {
        "OLLAMA_DEBUG": shown,
        "OLLAMA_HOST": listen_host().url,
        "OLLAMA_KEEP_ALIVE": duration_text(duration_ns("OLLAMA_KEEP_ALIVE", 300)),
        "OLLAMA_LOAD_TIMEOUT": duration_text(duration_ns("OLLAMA_LOAD_TIMEOUT", 300)),
        "OLLAMA_MODELS": models(),
        "OLLAMA_ORIGINS": f"[{' '.join(origins())}]",
        "OLLAMA_REMOTES": f"[{variable('OLLAMA_REMOTES') or 'ollama.com'}]",
    }
    return "map[" + " ".join(f"{name}:{values[name]}" for name in sorted(values)) + "]"


def box() -> Path | None:
    """Return the folder of the simulated box, or None: no cards, no faults."""
    text = os.environ.get("OLLAMUX_SIMULATION")
    return Path(text) if text else None


def programs() -> Path | None:
    """Return the folder whose bin and lib hold the simulated programs, as their wrapper tells."""
    told = sys._xoptions.get("box")
    return Path(told) if isinstance(told, str) else box()


def instance() -> str | None:
    """Return the name under which faults are set for this server."""
    return os.environ.get("OLLAMUX_INSTANCE") or None


def speed() -> float:
    """Return how many times faster than life everything that takes time goes."""
    try:
        return max(0.01, float(os.environ.get("OLLAMUX_SIMULATION_SPEED") or 1))
    except ValueError:
        return 1.0
