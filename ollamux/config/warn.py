"""What is allowed, but a person should know about. Nothing here stops anything."""

from __future__ import annotations

from ollamux.domain.spec import FleetSpec, InstanceSpec, PlacementMode
from ollamux.domain.text import safe_text

_ANY_PAGE = ("http://", "https://")


def warnings(fleet: FleetSpec) -> tuple[str, ...]:
    """Return what to tell about a valid configuration, one sentence each."""
    told = [f"{spec.name}: {text}" for spec in fleet.instances if spec.enabled for text in _of(spec)]
    if not any(spec.enabled for spec in fleet.instances):
        told.append("every instance has enabled = false: there is nothing to run")
    if fleet.placement is PlacementMode.AUTO and not fleet.models:
        told.append('placement is "auto", but there is no model to place: each is a table [models."NAME"]')
    return tuple(told)


def start_warnings(fleet: FleetSpec, *, root: bool) -> tuple[str, ...]:
    """Return what to tell when a fleet is started; `root`: the servers would run as the superuser."""
    told = warnings(fleet)
    if root:
        told += (
            "running as root: whoever reaches a server reads and writes files as root; a user of its own is safer",
        )
    return told


def _of(spec: InstanceSpec) -> list[str]:
    told: list[str] = []
    if is_exposed(spec):
        told.append(
            f"host {spec.host} lets everybody who reaches this machine use, load and delete models; "
            "ollama asks no password (allow_lan = true says that it is meant)"
        )
    env = dict(spec.env)
    if trusts_every_page(spec):
        origins = safe_text(env["OLLAMA_ORIGINS"], limit=80)
        told.append(
            f"OLLAMA_ORIGINS={origins} lets every web page that a user opens talk to ollama; list the pages instead"
        )
    if "LLAMA_API_KEY" in env:
        told.append("LLAMA_API_KEY makes every request fail: ollama cannot pass it to its runners")
    if spec.max_loaded_models is not None and len(spec.preload) > spec.max_loaded_models:
        told.append(
            f"preload names {len(spec.preload)} models, but max_loaded_models is {spec.max_loaded_models}: "
            f"no more than {spec.max_loaded_models} of them can be kept, the first ones"
        )
    return told


def badges(spec: InstanceSpec) -> tuple[str, ...]:
    """Return in a few words what `status` shows of an instance for as long as it runs."""
    told: list[str] = []
    if is_exposed(spec):
        told.append(f"whoever reaches {spec.host} may use it: ollama asks no password")
    if trusts_every_page(spec):
        told.append("every web page may use it (OLLAMA_ORIGINS)")
    return tuple(told)


def is_exposed(spec: InstanceSpec) -> bool:
    """Tell whether other machines reach an instance without a word that this is meant."""
    return not is_loopback(spec.host) and not spec.allow_lan


def trusts_every_page(spec: InstanceSpec) -> bool:
    """Tell whether any web page that a user opens may talk to an instance."""
    origins = (origin.strip(" \"'") for origin in dict(spec.env).get("OLLAMA_ORIGINS", "").split(","))
    # A star stands for any text, so http://* is as good as a star alone.
    return any(each[-1:] == "*" and any(page.startswith(each[:-1]) for page in _ANY_PAGE) for each in origins)


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine only."""
    return host.startswith("127.") or host == "::1"
