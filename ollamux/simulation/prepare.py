"""Set up a simulation: cards, programs, a store with a few models, and the configuration to run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import tomli_w

from ollamux.config.load import parse
from ollamux.config.show import effective
from ollamux.config.source import read_source
from ollamux.domain.spec import FleetSpec
from ollamux.simulation.box import cards_for, create_box, default_cards, write_binaries
from ollamux.simulation.faults import clear
from ollamux.simulation.store import seed_store
from ollamux.system import ports, procs
from ollamux.system.files import read_bounded, write_atomic

FIRST_PORT = 21435
_REHEARSED = "rehearsed-path"


def prepare(state: Path, count: int, config: Path | None) -> Path:
    """Make everything anew below the simulation's folder of state; return the configuration file to run.

    A configuration that is given is run as it is, on cards like those it names, but with the simulated server and the
    simulated store: a rehearsal must not touch the real one. Raises OllamuxError where the configuration is invalid.
    """
    box = state / "box"
    if config is None:
        create_box(box, default_cards(count))
        fleet = None
    else:
        fleet = parse(read_source(config), str(config))
        references = [ref for spec in fleet.instances for ref in spec.gpus]
        create_box(box, cards_for(references, count))
    clear(box)
    program, store = str(write_binaries(box)), state / "models"
    seed_store(store)
    (state / "home").mkdir(mode=0o700, exist_ok=True)
    path = state / "ollamux.toml"
    text = _rehearsal(fleet, program, str(store)) if fleet is not None else _usual(count, program, state=state)
    write_atomic(str(path), text.encode())
    write_atomic(str(state / _REHEARSED), b"" if config is None else os.fsencode(os.path.abspath(config)))
    return path


def prepare_again(state: Path) -> bytes | None:
    """Return what the rehearsed configuration asks for now; None where nothing of the user's is rehearsed.

    The cards stay those that the simulation was started with. Raises OllamuxError where the file is invalid.
    """
    config = os.fsdecode(read_bounded(str(state / _REHEARSED), 4096) or b"")
    if not config:
        return None
    fleet = parse(read_source(Path(config)), config)
    return _rehearsal(fleet, str(write_binaries(state / "box")), str(state / "models")).encode()


def _is_free(port: int, state: Path) -> bool:
    """Whether a port can be had; one that an instance of this simulation still holds is its own."""
    if ports.obstacle("127.0.0.1", port) is None:
        return True
    held = ports.holder("127.0.0.1", port)
    env = None if held is None or held.pid is None else procs.environment(held.pid)
    return env is not None and env.get("OLLAMUX_SUPERVISOR") == str(state)


def _usual(count: int, program: str, *, state: Path) -> str:
    """Write what `init` would choose for so many cards, on free ports beside those of the real thing."""
    free = (port for port in range(FIRST_PORT, 65536) if _is_free(port, state))
    instances = {
        f"gpu{index}": {"gpus": [index], "port": port} for index, port in zip(range(count), free, strict=False)
    }
    plain = {"version": 1, "defaults": {"ollama": program, "store": str(state / "models")}, "instances": instances}
    return f"# {count} simulated GPUs, made by: ollamux up --simulate {count}\n{tomli_w.dumps(plain)}"


def _rehearsal(fleet: FleetSpec, program: str, store: str) -> str:
    instances = tuple(replace(spec, ollama=program, store=store) for spec in fleet.instances)
    return f"# a rehearsal\n{effective(replace(fleet, instances=instances), reveal=True)}"
