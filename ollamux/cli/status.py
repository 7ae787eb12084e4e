"""`ollamux status` where it is not answered at once: unusual words, watching, and no supervisor to ask."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.target import reach
from ollamux.cli.words import load
from ollamux.domain.errors import Exit, NotRunningError, OllamuxError, UsageError
from ollamux.domain.phases import Phase
from ollamux.domain.snapshot import VIEWS, InstanceView, Status, as_json
from ollamux.domain.spec import FleetSpec, InstanceSpec, Pinning
from ollamux.protocol.client import draw_request, drawn, exchange
from ollamux.render.errors import error_text
from ollamux.system.clock import rfc3339, wall

_FORMS = ("table", "wide", "json")


def status(view: str | None, *, output: str, watch: bool, interval: float, config: str | None, simulated: bool) -> int:
    """Show the whole box, or one view of it."""
    if view is not None and view not in VIEWS:
        raise UsageError(f"there is no view {view!r}", hint=f"there are: {', '.join(VIEWS)}")
    if output not in _FORMS:
        raise UsageError(f"-o: there is no form {output!r}", hint=f"there are: {', '.join(_FORMS)}")

    def frame() -> tuple[int, str]:
        return _frame(view, output, config=config, simulated=simulated)

    if watch:
        return _watch(frame, interval)
    code, text = frame()
    screen.write(text)
    return code


def _frame(view: str | None, output: str, *, config: str | None, simulated: bool) -> tuple[int, str]:
    env = os.environ
    try:
        connection, _ = reach(simulated)
    except NotRunningError as error:
        return _without_supervisor(view, output, config=config, simulated=simulated, error=error)
    request = draw_request(
        view=view, form=output, width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env)
    )
    try:
        answer = drawn(exchange(connection, request))
    except OSError:
        answer = None
    if answer is None:
        raise NotRunningError("the supervisor went away while it was asked", hint="ollamux status")
    return answer


def _watch(frame: Callable[[], tuple[int, str]], interval: float) -> int:
    """Draw until interrupted; on a terminal each frame over the last one."""
    live = screen.is_terminal()
    code = int(Exit.OK)
    try:
        while True:
            code, text = frame()
            if live:
                lines = text.splitlines()
                shown = "".join(f"{line}\x1b[K\n" for line in lines[: _height()])
                screen.write(f"\x1b[H{shown}\x1b[J")
            else:
                screen.write(text)
            time.sleep(interval)
    except KeyboardInterrupt:
        return code


def _height() -> int:
    try:
        return os.get_terminal_size(1).lines - 1 or 1000
    except OSError:
        return 1000


def _without_supervisor(
    view: str | None, output: str, *, config: str | None, simulated: bool, error: NotRunningError
) -> tuple[int, str]:
    """Show the GPUs as they are now and the instances of the configuration as stopped."""
    fleet, trouble = _fleet(config, simulated=simulated)
    found = _status(fleet, simulated=simulated)
    if trouble is not None:
        screen.write(error_text(trouble), fd=2)
    if output == "json":
        return int(Exit.NOT_RUNNING), json.dumps(as_json(found, view), indent=2, ensure_ascii=False) + "\n"
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
    if error.hint is not None and "--simulated" in error.hint:
        screen.write(error_text(error), fd=2)
    return int(Exit.NOT_RUNNING), text.rstrip("\n") + "\n"


def _fleet(config: str | None, *, simulated: bool) -> tuple[FleetSpec, OllamuxError | None]:
    if simulated:
        return FleetSpec(), None
    try:
        return load(config)[2], None
    except OllamuxError as error:
        missing = error.exit_code is Exit.NOT_FOUND and config is None
        return FleetSpec(), None if missing else error


def _status(fleet: FleetSpec, *, simulated: bool) -> Status:
    from ollamux.cli.configuration import resolved
    from ollamux.cli.hardware import read_gpus
    from ollamux.gpu.model import NO_GPUS
    from ollamux.supervisor.view import gpu_view, host_view

    inventory = NO_GPUS if simulated else read_gpus()
    uuids = resolved(fleet, inventory)
    return Status(
        version=__version__,
        time=rfc3339(wall()),
        simulated=simulated,
        supervisor=None,
        host=host_view(inventory, name=os.uname().nodename, trouble=None),
        gpus=tuple(
            gpu_view(gpu, tuple(name for name, found in uuids.items() if gpu.uuid in found), 0.0)
            for gpu in inventory.gpus
        ),
        instances=tuple(_stopped(spec, uuids.get(spec.name, ())) for spec in fleet.instances),
    )


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
