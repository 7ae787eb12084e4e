"""Gather all facts: side by side, each within its time, and each of them may fail without the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ollamux.config.find import find_config
from ollamux.config.load import parse
from ollamux.config.source import read_source
from ollamux.doctor.facts import Config, Facts, Host
from ollamux.doctor.findings import Unknown
from ollamux.doctor.looks import Look, Looks
from ollamux.doctor.see_gpus import PATIENCE_S as DRIVER_S
from ollamux.doctor.see_gpus import see_inventory, strangers, views
from ollamux.doctor.see_host import see_host
from ollamux.doctor.see_ollama import see_outdated, see_path, see_program, see_servers, see_service
from ollamux.doctor.see_places import see_obstacles, see_stores
from ollamux.domain.errors import OllamuxError, TimedOutError
from ollamux.domain.snapshot import Status, from_json
from ollamux.domain.spec import FleetSpec
from ollamux.gpu.model import Inventory
from ollamux.protocol.client import ask, connect
from ollamux.render.errors import error_text
from ollamux.system import procs
from ollamux.system.files import Lock
from ollamux.system.places import state_dir

T = TypeVar("T")
_PATIENCE_S = 8.0
_ANSWER_S = 5.0


def gather(env: Mapping[str, str], *, config: str | None, simulated: bool, root: Path) -> tuple[Facts, Looks]:
    """Return what could be learnt, and with it of what could not."""
    looks = Looks()
    asked = looks.begin("the supervisor", lambda: _ask_supervisor(env, simulated=simulated), patience_s=2 * _PATIENCE_S)
    cards = looks.begin("the GPUs", lambda: see_inventory(env, simulated=simulated), patience_s=DRIVER_S + 2)
    status, silence = asked.answer() or (None, None)
    file = config or _file_of(status)
    found = looks.begin("the configuration", lambda: _config(file, env, simulated=simulated), patience_s=_PATIENCE_S)
    facts = Facts(simulated=simulated, config=found.answer(), status=status, silence=silence)
    if simulated:
        return _with_cards(facts, cards), looks
    return _whole(facts, cards, looks, env, root), looks


def _whole(facts: Facts, cards: Look[Inventory], looks: Looks, env: Mapping[str, str], root: Path) -> Facts:
    def begin(what: str, see: Callable[[], T]) -> Look[T]:
        return looks.begin(what, see, patience_s=_PATIENCE_S)

    fleet = facts.fleet or FleetSpec()
    running = None if facts.status is None or facts.status.supervisor is None else facts.status.supervisor.pid
    wanted = tuple(dict.fromkeys(spec.ollama for spec in facts.enabled)) or ("ollama",)
    paths = see_path(env)
    host = begin("the machine", lambda: see_host(root, running))
    programs = {name: begin(f"the program {name}", partial(see_program, name, env)) for name in (*wanted, *paths)}
    unit = begin("ollama.service", see_service)
    outdated = begin("our own servers", lambda: see_outdated(facts.status))
    obstacles = begin("the ports", lambda: see_obstacles(fleet))
    stores = begin("the store", lambda: see_stores(fleet, env))
    service = unit.answer()
    servers = begin("other servers", lambda: see_servers(service))
    known = {name: program for name, look in programs.items() if (program := look.answer()) is not None}
    found = replace(
        facts,
        programs=tuple(known[name] for name in wanted if name in known),
        on_path=tuple(known[path] for path in paths if path in known),
        service=service,
        servers=servers.answer() or (),
        outdated=outdated.answer() or (),
        obstacles=obstacles.answer() or (),
        stores=stores.answer() or (),
        host=host.answer() or Host(),
    )
    return _with_cards(found, cards)


def _with_cards(facts: Facts, cards: Look[Inventory]) -> Facts:
    inventory = cards.answer()
    if inventory is None:
        return facts
    seen = views(inventory, facts.fleet)
    on_them = () if facts.simulated else strangers(inventory, facts.status)
    return replace(facts, inventory=inventory, gpus=seen, strangers=on_them)


def unseen(facts: Facts, looks: Looks) -> tuple[Unknown, ...]:
    """Return what could not be looked at."""
    told = list(looks.unknown)
    told += [
        Unknown(what=f"the version of {program.path}", why="it did not tell")
        for program in facts.programs
        if program.path is not None and program.version_text is None
    ]
    return tuple(told)


def _config(explicit: str | None, env: Mapping[str, str], *, simulated: bool) -> Config:
    if simulated and explicit is None:
        return Config()
    path: str | None = None
    try:
        found = find_config(explicit, env, Path.cwd())
        if found.path is None:
            return Config(missing=True)
        path = str(found.path)
        return Config(path=path, fleet=parse(read_source(found.path), found.shown))
    except OllamuxError as error:
        return Config(path=path or explicit, problem=error_text(error).rstrip("\n"))


def _file_of(status: Status | None) -> str | None:
    """Return the file that is in force, which need not be the one that would be found now."""
    supervisor = None if status is None else status.supervisor
    return None if supervisor is None else supervisor.config


def _ask_supervisor(env: Mapping[str, str], *, simulated: bool) -> tuple[Status | None, tuple[str, str] | None]:
    """Return the status, or why there is none from a supervisor that runs, with what wakes or replaces it."""
    try:
        connection = connect(env, simulated=simulated)
        if connection is None:
            return None, None
        return from_json(ask(connection, {"cmd": "status"}, timeout_s=_ANSWER_S)["status"]), None
    except TimedOutError as error:
        pid = Lock(f"{state_dir(env, simulated=simulated)}/lock").holder()
        seen = None if pid is None else procs.stat(pid)
        if seen is not None and seen.state == "T":
            return None, (f"pid {pid} is stopped, as by Ctrl-Z; its instances serve meanwhile", f"kill -CONT {pid}")
        return None, (error.message, "ollamux up --ensure")
