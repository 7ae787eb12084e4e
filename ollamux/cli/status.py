"""`ollamux status` where it is not answered at once: unusual words, watching, and no supervisor to ask."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.drawing import drawn_by
from ollamux.cli.target import ADD_SIMULATED, NOBODY, question, reach
from ollamux.cli.watch import Frame, Watch
from ollamux.cli.words import load
from ollamux.domain.errors import Exit, NotRunningError, OllamuxError, UsageError
from ollamux.domain.links import all_links
from ollamux.domain.phases import Phase
from ollamux.domain.snapshot import VIEWS, GpuView, InstanceView, LinkView, Status, as_json, from_json
from ollamux.domain.spec import FleetSpec, InstanceSpec, Pinning
from ollamux.domain.text import parse_duration
from ollamux.render.errors import error_text
from ollamux.system.clock import rfc3339, wall
from ollamux.system.places import state_dir

if TYPE_CHECKING:
    from ollamux.gpu.model import Inventory

_FORMS = ("table", "wide", "json")
_TELLING = (None, "processes")
"""The views that tell of processes."""
_SHORTEST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3600.0


def status(view: str | None, *, output: str, watch: bool, interval: str, config: str | None, simulated: bool) -> int:
    """Show the whole box, or one view of it."""
    if view is not None and view not in VIEWS:
        raise UsageError(f"there is no view {view!r}", hint=f"there are: {', '.join(VIEWS)}")
    if output not in _FORMS:
        raise UsageError(f"-o: there is no form {output!r}", hint=f"there are: {', '.join(_FORMS)}")
    pause_s = _pause(interval)

    def frame() -> Frame:
        return _frame(view, output, config=config, simulated=simulated)

    if watch:
        return Watch(frame, pause_s, drawable=output != "json" and screen.is_drawable(os.environ)).run()
    code, text, aside = frame()
    screen.say(aside, fd=2)
    screen.write(text)
    return code


def _pause(text: str) -> float:
    """Read the seconds between two looks, as a number or a duration. Raises UsageError."""
    found = parse_duration(text)
    try:
        pause_s = float(text) if found is None else found
    except ValueError:
        pause_s = 0.0
    if not _SHORTEST_PAUSE_S <= pause_s <= _LONGEST_PAUSE_S:
        raise UsageError(f"--interval: {text!r} is no pause", hint="write seconds from 0.1 to 3600, as 2 or 0.5")
    return pause_s


def _frame(view: str | None, output: str, *, config: str | None, simulated: bool) -> Frame:
    try:
        connection, which = reach(simulated)
    except NotRunningError as error:
        return _without_supervisor(view, output, config=config, simulated=simulated, error=error)
    if view == "topology":
        connection.close()
        return _topology(output, simulated=which)
    answer = drawn_by(connection, view, output, simulated=which)
    if answer is None:
        raise NotRunningError("the supervisor went away while it was asked", hint="ollamux status shows what is left")
    return Frame(*answer)


def _without_supervisor(
    view: str | None, output: str, *, config: str | None, simulated: bool, error: NotRunningError
) -> Frame:
    """Show the GPUs as they are now and the instances of the configuration as stopped."""
    fleet, trouble = _fleet(config, simulated=simulated)
    found = _status(fleet, view, simulated=simulated)
    aside = "" if trouble is None else error_text(trouble)
    beside = error.message != NOBODY or (error.hint is not None and ADD_SIMULATED in error.hint)
    if output != "json" and beside:
        aside += error_text(error)
    return Frame(int(Exit.NOT_RUNNING), _text(found, view, output), aside)


def _text(found: Status, view: str | None, output: str) -> str:
    if output == "json":
        return json.dumps(as_json(found, view), indent=2, ensure_ascii=False) + "\n"
    from ollamux.render.table import status_table

    env = os.environ
    text = status_table(
        found,
        width=screen.width(env),
        color=screen.color(env),
        unicode=screen.unicode(env),
        view=view,
        wide=output == "wide",
    )
    return text.rstrip("\n") + "\n"


def _topology(output: str, *, simulated: bool) -> Frame:
    """Show how the supervisor's cards are joined, as a helper of our own reads it: nobody else waits for that."""
    from ollamux.cli.hardware import read_links

    inventory = read_links(simulated=simulated)
    reply, _ = question({"cmd": "status"}, simulated=simulated)
    found = from_json(reply["status"])
    host = replace(found.host, gpus_error=found.host.gpus_error or inventory.error)
    found = replace(found, host=host, links=_links(found.gpus, inventory))
    return Frame(int(reply["exit"]), _text(found, "topology", output))


def _links(gpus: tuple[GpuView, ...], inventory: Inventory) -> tuple[LinkView, ...]:
    from ollamux.cli.hardware import links_of

    return all_links(gpus, links_of(inventory))


def _fleet(config: str | None, *, simulated: bool) -> tuple[FleetSpec, OllamuxError | None]:
    if simulated:
        return FleetSpec(), None
    try:
        return load(config)[2], None
    except OllamuxError as error:
        missing = error.exit_code is Exit.NOT_FOUND and config is None
        return FleetSpec(), None if missing else error


def _status(fleet: FleetSpec, view: str | None, *, simulated: bool) -> Status:
    from ollamux.cli.configuration import resolved
    from ollamux.supervisor import holders
    from ollamux.supervisor.view import gpu_view, host_view

    inventory = _inventory(view, simulated=simulated)
    uuids = resolved(fleet, inventory)
    gpus = tuple(
        gpu_view(gpu, tuple(name for name, found in uuids.items() if gpu.uuid in found), 0.0) for gpu in inventory.gpus
    )
    return Status(
        version=__version__,
        time=rfc3339(wall()),
        simulated=simulated,
        supervisor=None,
        host=host_view(inventory, name=os.uname().nodename, trouble=None),
        gpus=gpus,
        instances=tuple(_stopped(spec, uuids.get(spec.name, ())) for spec in fleet.instances),
        processes=holders.rows(inventory, holders.left_by(state_dir(os.environ, simulated=simulated)), 0.0)
        if view in _TELLING
        else (),
        links=_links(gpus, inventory),
    )


def _inventory(view: str | None, *, simulated: bool) -> Inventory:
    """Read the cards; those of a simulation that does not run only where somebody asks what is left of it."""
    from ollamux.cli.hardware import read_gpus, read_links
    from ollamux.gpu.model import NO_GPUS

    if view == "topology" or (simulated and view == "processes"):
        return read_links(simulated=simulated)
    return NO_GPUS if simulated else read_gpus()


def _stopped(spec: InstanceSpec, uuids: tuple[str, ...]) -> InstanceView:
    from ollamux.supervisor.core import url_of

    return InstanceView(
        name=spec.name,
        wanted="down",
        phase=Phase.STOPPED.value,
        health="unknown",
        reason=None,
        next_action=None,
        next_at=None,
        since=None,
        pid=None,
        generation=0,
        restarts=0,
        adopted=False,
        exit=None,
        host=spec.host,
        port=spec.port,
        url=url_of(spec),
        ollama_version=None,
        gpus=uuids,
        pinning="cpu" if spec.pinning is Pinning.CPU else "planned",
        rss_bytes=None,
    )
