"""The new version's side of a hand-over: say whether it can be taken, and take it. Runs before anything else does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ollamux import __version__
from ollamux.config.cache import cache_path, load_fleet
from ollamux.config.codec import fleet_from_json, fleet_to_json
from ollamux.domain.errors import OllamuxError
from ollamux.domain.placed import with_spans
from ollamux.domain.spec import FleetSpec
from ollamux.supervisor import carried, leisure
from ollamux.supervisor.boot import Launch, placed_before
from ollamux.supervisor.carried import Handover
from ollamux.supervisor.programs import launcher_for
from ollamux.supervisor.upgrade import ANSWER
from ollamux.system.notify_socket import ManagerEnv
from ollamux.system.places import state_dir


def check(fd: int) -> int:
    """Say on standard output whether this version, as it is installed, can take over; any other last word is a no."""
    try:
        handover = carried.read(fd)
        import_module("ollamux.supervisor.watch")
        leisure.load(simulated=handover.simulated)
        fleet = fleet_of(handover)
        _must_know(fleet, handover)
        launcher_for(fleet.supervisor.on_death, os.environ)
    except (OllamuxError, ValueError, OSError, ImportError, SyntaxError) as error:
        message = error.message if isinstance(error, OllamuxError) else f"{type(error).__name__}: {error}"
        os.write(1, " ".join(message.split()).encode("utf-8", "replace") + b"\n")
        return 1
    prepared = {"version": __version__, "fleet": fleet_to_json(fleet)}
    data = ANSWER + json.dumps(prepared).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]
    return 0


def _must_know(fleet: FleetSpec, handover: Handover) -> None:
    placement = placed_before(state_dir(os.environ, simulated=handover.simulated))
    if placement is not None:
        fleet = with_spans(fleet, placement.spans)
    unknown = [unit.name for unit in handover.units if fleet.instance(unit.name) is None]
    if unknown:
        raise ValueError(f"it does not find {', '.join(unknown)} in the configuration")


def fleet_of(handover: Handover) -> FleetSpec:
    """Return what the configuration in force asks for, as this version reads it. Raises ConfigInvalid."""
    prepared = handover.prepared or {}
    if prepared.get("version") == __version__:
        try:
            return fleet_from_json(prepared["fleet"])
        except (ValueError, KeyError, TypeError):
            pass  # read it anew, which takes longer and is needed by nobody but a developer
    cache = cache_path(state_dir(os.environ, simulated=handover.simulated))
    return load_fleet(handover.source.encode("latin-1"), handover.config or "the configuration", cache)


def launch_of(handover: Handover, env: Mapping[str, str], manager: ManagerEnv) -> Launch:
    """Return what this supervisor is started with: what the one before it was."""
    state = state_dir(env, simulated=handover.simulated)
    more: dict[str, Any] = {"box": f"{state}/box", "child_home": f"{state}/home"} if handover.simulated else {}
    return Launch(
        fleet=fleet_of(handover),
        source=handover.source.encode("latin-1"),
        config=handover.config,
        env=env,
        manager=manager,
        host_name=os.uname().nodename,
        hang_up=handover.hang_up,
        plain_output=handover.plain_output,
        unicode=handover.unicode,
        **more,
    )
