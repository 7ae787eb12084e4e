"""`models ls`: what is in the stores, and where it is loaded and kept. The supervisor reads no store for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.target import question
from ollamux.cli.words import load
from ollamux.domain.errors import Exit, NotRunningError, OllamuxError, UsageError
from ollamux.domain.modellist import Stored, as_json, rows
from ollamux.domain.spec import InstanceSpec
from ollamux.domain.text import safe_text
from ollamux.ollama.store import all_manifests, store_path
from ollamux.render.errors import error_text
from ollamux.render.models import models_table
from ollamux.system.clock import rfc3339, wall
from ollamux.system.patience import patiently
from ollamux.system.places import home

_FORMS = ("table", "json")
STORE_PATIENCE_S = 20.0
"""A store may be slow, but one that does not answer holds nobody up."""


def ls(*, output: str, config: str | None, simulated: bool) -> int:
    """List them; without a supervisor what the configuration and the stores tell."""
    if output not in _FORMS:
        raise UsageError(f"-o: there is no form {output!r}", hint=f"there are: {', '.join(_FORMS)}")
    gone: NotRunningError | None = None
    try:
        reply, which = question({"cmd": "models"}, simulated=simulated)
        view: dict[str, Any] = reply["models"]
    except NotRunningError as error:
        gone, which, view = error, simulated, _of_configuration(config, error, simulated=simulated)
    stores = {path: _read(path) for path in dict.fromkeys(one["store"] for one in view["instances"])}
    found = rows(view, stores)
    if output == "json":
        plain = as_json(
            view,
            stores,
            found,
            version=__version__,
            time=rfc3339(wall()),
            simulated=which,
            running=gone is None,
        )
        screen.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    else:
        env = os.environ
        screen.write(
            models_table(
                found,
                width=screen.width(env),
                color=screen.color(env),
                unicode=screen.unicode(env),
                now=wall(),
                simulated=which,
            )
        )
        for path in (path for path, models in stores.items() if models is None):
            screen.say(f"the store {safe_text(path)} cannot be read: only what is loaded is shown\n", fd=2)
        if gone is not None:
            screen.say(error_text(gone), fd=2)
    if gone is not None:
        return int(Exit.NOT_RUNNING)
    return int(Exit.DEGRADED if any(row.troubled for row in found) else Exit.OK)


def _read(path: str) -> list[Stored] | None:
    """Return what is in a store, None where it cannot be read; one that is not there yet is empty."""
    try:
        return patiently(f"the store {path}", lambda: _stored(Path(path)), limit_s=STORE_PATIENCE_S)
    except (OSError, TimeoutError):
        return None


def _stored(store: Path) -> list[Stored] | None:
    if not store.exists():
        return []
    if not os.access(store, os.R_OK | os.X_OK):
        return None
    manifests = store / "manifests"
    if manifests.exists() and not os.access(manifests, os.R_OK | os.X_OK):
        return None
    return [Stored(name=one.name, digest=one.digest, size_bytes=one.size_bytes) for one in all_manifests(store)]


def _of_configuration(config: str | None, error: NotRunningError, *, simulated: bool) -> dict[str, Any]:
    if simulated:
        raise error
    try:
        fleet = load(config)[2]
    except OllamuxError:
        raise error from None
    return {"instances": [_stopped(spec) for spec in fleet.instances], "pulls": []}


def _stopped(spec: InstanceSpec) -> dict[str, Any]:
    pins: list[dict[str, Any]] = [
        {
            "name": pin.name,
            "by": "configuration",
            "num_ctx": pin.num_ctx,
            "keep_alive_s": None if pin.keep_alive_s is None or pin.keep_alive_s < 0 else pin.keep_alive_s,
            "options": {},
            "state": "waiting",
            "reason": f"{spec.name} is STOPPED",
            "next_at": None,
        }
        for pin in spec.preload
    ]
    store = os.path.realpath(store_path(spec.store, home(os.environ)))
    return {"name": spec.name, "phase": "STOPPED", "store": store, "loaded": [], "loading": [], "pins": pins}
