"""The configuration that `init` writes: one instance per GPU, every key explained. Returns text, writes no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ollamux.config.keys import literal
from ollamux.domain.text import format_gib, safe_text
from ollamux.gpu.model import Gpu, Inventory

USUAL_PORT = 11434
FIRST_PORT = 11435
_LAST_PORT = 65535
PACKAGED_STORE = Path("/usr/share/ollama/.ollama/models")

# What to show for keys that have no default, because ollama decides; and better examples than an empty list.
_EXAMPLES: Mapping[str, object] = {
    "store": "~/.ollama/models",
    "num_parallel": 2,
    "max_loaded_models": 2,
    "keep_alive": "30m",
    "kv_cache_type": "q8_0",
    "flash_attention": True,
    "headroom": "1GiB",
    "preload": ["qwen3:8b"],
    "models": ["qwen3:8b"],
    "env": {"OLLAMA_DEBUG": "1"},
    "notify": ["/usr/local/bin/tell-me"],
}
_TABLES = (
    ("supervisor", "SupervisorTable", "What concerns the whole fleet."),
    ("defaults", "DefaultsTable", "What holds for every instance; write a key into an instance to change it there."),
    ("defaults.health", "HealthTable", "How an instance is checked."),
    ("defaults.restart", "RestartTable", "How an instance comes back."),
    ("defaults.on", "OnTable", 'What to do about a proven device fault: "tell", "restart" or "stop".'),
    ("defaults.canary", "CanaryTable", "Ask a loaded model for one token now and then; off while it names no model."),
)


def initial_config(
    inventory: Inventory,
    *,
    store: str | None,
    store_reason: str | None,
    ports_in_use: Callable[[int], bool],
    now: str | None,
) -> str:
    """Return a commented configuration with one instance per GPU, or one on the CPU where there is none."""
    when = f" on {safe_text(now)}" if now else ""
    lines = [
        f"# ollamux: one `ollama serve` for each GPU. Written by `ollamux init`{when}.",
        "#",
        "#   ollamux config check   tells every mistake in this file",
        "#   ollamux up             starts the instances",
        "#   ollamux status         shows them",
        "#",
        "# A line such as `# key = value` shows a key that may be set, with its default; take the # away to change it.",
        '# Where it says "unset" there is no default: the value is an example, and ollama decides.',
        "",
        "version = 1",
        "",
    ]
    lines += _instances(inventory, ports_in_use)
    from ollamux.config.schema import json_schema  # slow: pydantic

    schema = json_schema()
    for heading, name, says in _TABLES:
        lines += ["", f"# {says}", f"[{heading}]"]
        keys = schema["$defs"][name]["properties"]
        lines += _explained({key: each for key, each in keys.items() if "$ref" not in each}, store, store_reason)
    return "\n".join(lines) + "\n"


def _instances(inventory: Inventory, ports_in_use: Callable[[int], bool]) -> Iterator[str]:
    split = {gpu.mig_parent for gpu in inventory.gpus}
    usable = [gpu for gpu in inventory.gpus if gpu.uuid not in split and _reference(gpu)]
    if not usable:
        why = f": {safe_text(inventory.error, limit=90)}" if inventory.error else ""
        yield f"# No GPU was found{why}."
    ports = _free_ports(1 if len(usable) <= 1 else 2, ports_in_use)
    if not usable:
        yield from ("[instances.cpu]", "gpus = []  # none: the CPU computes", f"port = {next(ports)}")
    names: set[str] = set()
    for number, gpu in enumerate(usable):
        if number:
            yield ""
        name = _name(gpu, names)
        names.add(name)
        yield f"[instances.{name}]  # {_described(gpu)}"
        yield f"gpus = [{literal(_reference(gpu))}]"
        yield f"port = {next(ports)}"


def _free_ports(count: int, ports_in_use: Callable[[int], bool]) -> Iterator[int]:
    """Give the usual port to an only instance; of several none has it, so that one endpoint for all may."""
    if count == 1 and not ports_in_use(USUAL_PORT):
        yield USUAL_PORT
    yield from (port for port in range(FIRST_PORT, _LAST_PORT + 1) if not ports_in_use(port))


def _reference(gpu: Gpu) -> str | None:
    """Name a card by what stays true when cards are moved; a card without UUID has its address or number."""
    if gpu.vendor == "amd":
        return None if gpu.index is None else f"amd:{gpu.index}"
    if gpu.uuid.startswith(("GPU-", "MIG-")):
        return gpu.uuid
    return gpu.pci


def _name(gpu: Gpu, taken: set[str]) -> str:
    kind = "amd" if gpu.vendor == "amd" else "gpu"
    stem = f"{kind}{len(taken) if gpu.index is None else gpu.index}"
    if gpu.mig_parent is None and stem not in taken:
        return stem
    return next(f"{stem}-{number}" for number in range(len(taken) + 1) if f"{stem}-{number}" not in taken)


def _described(gpu: Gpu) -> str:
    facts = [safe_text(gpu.name, limit=60) or "GPU"]
    if gpu.memory_total_bytes is not None:
        facts.append(f"{format_gib(gpu.memory_total_bytes)} GiB")
    if gpu.mig_parent is not None:
        facts.append(f"slice of {safe_text(gpu.mig_parent, limit=48)}")
    elif gpu.pci is not None:
        facts.append(f"PCI {safe_text(gpu.pci, limit=20)}")
    if gpu.state != "ok":
        facts.append("gave no answer when this was written")
    return ", ".join(facts)


def _explained(keys: Mapping[str, Any], store: str | None, store_reason: str | None) -> Iterator[str]:
    for key, schema in keys.items():
        if key == "store" and store is not None:
            yield f"store = {literal(store)}  # {safe_text(store_reason or 'folder of the models')}"
            continue
        default = schema.get("default")
        setting = f"# {key} = {literal(default if default not in (None, [], {}) else _EXAMPLES[key])}"
        says = schema["description"]
        if default in (None, [], {}):
            says = f"{says} (unset)"
        yield f"{setting:<34}  # {says}"


def find_store(home: Path) -> tuple[str, str]:
    """Return the store to use and why: one that is there already, before a new one."""
    own = home / ".ollama" / "models"
    if _holds_models(own):
        return "~/.ollama/models", "found: it holds models already"
    if _holds_models(PACKAGED_STORE):
        return str(PACKAGED_STORE), "found: the store of the packaged service, which holds models already"
    return "~/.ollama/models", "ollama's usual place; no store with models was found"


def _holds_models(store: Path) -> bool:
    try:
        return any(each.is_dir() for each in (store / "manifests").iterdir())
    except OSError:
        return False
