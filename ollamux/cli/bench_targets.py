"""What a bench measures: the instances, the model on them, how it was loaded. Loads it, and unloads it again.

Nothing that is loaded already is loaded in another way, kept for longer, or let go.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollamux.cli.target import question, reach
from ollamux.cli.volley import exchange
from ollamux.domain.benchrun import BenchInstance
from ollamux.domain.errors import (
    Exit,
    NotFoundError,
    NotRunningError,
    OllamuxError,
    RefusedError,
    TimedOutError,
    UsageError,
)
from ollamux.domain.snapshot import InstanceView, Status, from_json
from ollamux.domain.text import full_name, safe_text, same_model
from ollamux.ollama.api import BadAnswerError, LoadedModel, parse_loaded
from ollamux.ollama.canary import Facts, facts_of, options_of
from ollamux.ollama.loading import GENERATE, error_of, is_missing
from ollamux.ollama.store import blob_name, find_manifest
from ollamux.ollama.version import era_of, parse_version
from ollamux.protocol.client import ask
from ollamux.supervisor.selecting import unknown_instance
from ollamux.system import procs
from ollamux.system.clock import monotonic, wall

LOOK_S = 20.0
"""A server whose runner hangs takes so long to tell what is loaded."""
KEPT_S = 1800.0
"""What is loaded for a bench stays so long without a request, should the bench be killed before it can unload it."""
UNLOAD_S = 30.0
_CONTEXT = 4096

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Target:
    """An instance that is measured. `ours`: the model was loaded for the bench. `before` is what was loaded."""

    view: InstanceView
    before: tuple[LoadedModel, ...] = ()
    ours: bool = False
    load_s: float | None = None
    loaded: LoadedModel | None = None
    options: dict[str, Any] = field(default_factory=dict)
    slots: int = 1
    blob: str | None = None
    runners: frozenset[int] = frozenset()
    error: str | None = None

    @property
    def name(self) -> str:
        """Return the name of the instance."""
        return self.view.name

    def runners_now(self) -> frozenset[int]:
        """Return the processes that hold the model."""
        found = []
        for pid in procs.descendants(self.view.pid) if self.view.pid else ():
            words = procs.arguments(pid)
            path = words[words.index("--model") + 1] if "--model" in words[:-1] else ""
            if path and self.blob in (None, blob_name(path)):
                found.append(pid)
        return frozenset(found)

    def described(self) -> BenchInstance:
        """Return it as the run tells it."""
        known = self.loaded
        return BenchInstance(
            name=self.name,
            url=self.view.url,
            ollama_version=self.view.ollama_version,
            gpus=self.view.gpus,
            digest=None if known is None else known.digest,
            context_length=None if known is None else known.context_length,
            slots=None if known is None else self.slots,
            size_bytes=None if known is None else known.size_bytes,
            size_vram_bytes=None if known is None else known.size_vram_bytes,
            load_s=self.load_s,
            options=self.options,
            error=self.error,
        )


class Targets:
    """The instances of one bench, and the model on them."""

    def __init__(self, instances: Sequence[str] | None, model: str | None, *, simulated: bool) -> None:
        reply, self.simulated = question({"cmd": "status"}, simulated=simulated)
        self.status: Status = from_json(reply["status"])
        named = _named(self.status, instances)
        self.all = [Target(view=view, before=_loaded(view.url)) for view in named if _may_be_asked(view, instances)]
        if not self.all:
            raise RefusedError("no instance is READY", hint="ollamux status says why")
        self.model, self.all = _model(self.all, model, named=instances is not None)
        self.facts = _facts(self.all, self.model)

    @property
    def usable(self) -> list[Target]:
        """Return those that can be measured."""
        return [target for target in self.all if target.error is None]

    def load(self, *, timeout_s: float, say: Say) -> None:
        """Load the model where it is not loaded, one instance after the other, and look how it is loaded everywhere."""
        for target in self.all:
            if not any(same_model(one.name, self.model) for one in target.before):
                say(f"{safe_text(self.model)} is being loaded on {target.name}")
                self._load_one(target, timeout_s)
            if target.error is None:
                self._look(target)
        if not self.usable:
            first = self.all[0]
            raise OllamuxError(f"{first.name}: {first.error}", exit_code=Exit.DEGRADED)

    def _load_one(self, target: Target, timeout_s: float) -> None:
        view = self._models_of(target)
        kept = any(same_model(pin["name"], self.model) for pin in view["pins"])
        keep = {} if kept else {"keep_alive_s": KEPT_S}
        request = {"cmd": "load", "model": self.model, "on": target.name, "wait": True, "timeout": timeout_s + KEPT_S}
        began = monotonic()
        connection, _ = reach(self.simulated)
        target.ours = not kept
        try:
            # Closed before there is an answer, the load is given up: on Ctrl-C, and when the time is over.
            outcome = ask(connection, {**request, **keep}, timeout_s=timeout_s)["outcomes"][0]
        except TimedOutError:
            target.error = f"the model was not loaded within {timeout_s:g} s"
            return
        except OllamuxError as error:
            if error.exit_code is Exit.NOT_FOUND:
                raise
            target.error = error.message
            return
        finally:
            connection.close()
        target.load_s = round(monotonic() - began, 3)
        if outcome["exit"] != Exit.OK:
            target.error = str(outcome["words"])

    def _models_of(self, target: Target) -> dict[str, Any]:
        view = question({"cmd": "models"}, simulated=self.simulated)[0]["models"]
        found: dict[str, Any] = next(one for one in view["instances"] if one["name"] == target.name)
        return found

    def _look(self, target: Target) -> None:
        """See how the model is loaded: its context, its runner, and the options that this runner answers."""
        known = [one for one in _loaded(target.view.url) if same_model(one.name, self.model)]
        if not known:
            target.error = "the model went as soon as it was loaded"
            return
        target.loaded = known[0]
        env = question({"cmd": "env", "name": target.name}, simulated=self.simulated)[0]["env"]
        view = self._models_of(target)
        manifest = find_manifest(Path(view["store"]), self.model)
        target.blob = None if manifest is None else manifest.blob
        target.runners = target.runners_now()
        words = [word for pid in sorted(target.runners) for word in procs.arguments(pid)]
        same = options_of(
            known[0],
            self.facts,
            era=era_of(parse_version(target.view.ollama_version or "")),
            default_context=_number(env.get("OLLAMA_CONTEXT_LENGTH")) or _CONTEXT,
            arguments=words,
        )
        # A runner of earlier versions does not show all of them, but what is kept is loaded with those of its pin.
        pins = [pin for pin in view["pins"] if same_model(pin["name"], self.model)]
        target.options = {**same, **(pins[0]["options"] if pins else {})}
        told = words[words.index("-np") + 1] if "-np" in words[:-1] else env.get("OLLAMA_NUM_PARALLEL")
        target.slots = _number(told) or 1

    def renewed(self, names: Collection[str]) -> list[str]:
        """Return those of these instances whose runner is no longer the one it was at the last look."""
        found = []
        for target in (target for target in self.usable if target.name in names):
            before, target.runners = target.runners, target.runners_now()
            found += [target.name] if before and target.runners != before else []
        return found

    def evicted(self, names: Collection[str]) -> list[str]:
        """Say what these instances had loaded before and no longer have."""
        said = []
        for target in (target for target in self.usable if target.name in names):
            try:
                now = [one.name for one in _loaded(target.view.url)]
            except OllamuxError:
                continue
            gone = [one.name for one in target.before if one.name not in now]
            said += [f"{target.name} let {safe_text(name)} go meanwhile" for name in gone]
        return said

    def unload(self) -> list[str]:
        """Unload what was loaded for the bench; say what could not be."""
        said = []
        for target in (target for target in self.all if target.ours):
            why = self._unload_one(target)
            if why is not None:
                said.append(
                    f"{target.name}: {safe_text(self.model)} was loaded for this and could not be let go: {why}"
                )
        return said

    def _unload_one(self, target: Target) -> str | None:
        request = {"cmd": "unload", "model": self.model, "on": target.name, "timeout": UNLOAD_S}
        try:
            connection, _ = reach(self.simulated)
            outcome = ask(connection, request, timeout_s=UNLOAD_S + LOOK_S)["outcomes"][0]
        except (NotRunningError, TimedOutError):
            return _unload_directly(target.view.url, self.model)
        except OllamuxError as error:
            # What an instance does not have, or lost with its processes, needs no unloading.
            return None if error.exit_code in (Exit.NOT_FOUND, Exit.REFUSED) else error.message
        return None if outcome["exit"] == Exit.OK else str(outcome["words"])


def _unload_directly(url: str, model: str) -> str | None:
    """Unload without a supervisor: instances may outlive it. One that is gone needs no unloading."""
    try:
        status, body = exchange(url, "POST", GENERATE, {"model": model, "keep_alive": 0}, timeout_s=LOOK_S)
    except OSError:
        return None
    return None if status in (200, 404) else error_of(status, body)


def _named(status: Status, patterns: Sequence[str] | None) -> list[InstanceView]:
    from fnmatch import fnmatchcase

    if patterns is None:
        return list(status.instances)
    names = [one.name for one in status.instances]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise unknown_instance(pattern, names)
    return [one for one in status.instances if any(fnmatchcase(one.name, pattern) for pattern in patterns)]


def _may_be_asked(view: InstanceView, named: Sequence[str] | None) -> bool:
    """Whether an instance is READY. Raises RefusedError where it was named by its very name."""
    if view.phase != "READY" and named is not None and view.name in named:
        why = f": {view.reason}" if view.reason else ""
        raise RefusedError(f"{view.name} is {view.phase}{why}", hint=f"ollamux start {view.name}")
    return view.phase == "READY"


def _loaded(url: str) -> tuple[LoadedModel, ...]:
    try:
        status, body = exchange(url, "GET", "/api/ps", timeout_s=LOOK_S)
        if status == 200:
            return parse_loaded(body, now=wall())
        why = error_of(status, body)
    except BadAnswerError as error:
        why = str(error)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
    raise OllamuxError(f"{url} does not tell what is loaded: {why}", exit_code=Exit.DEGRADED)


def _model(targets: list[Target], asked: str | None, *, named: bool) -> tuple[str, list[Target]]:
    """Return the model to measure and the instances to measure it on.

    One that is named is loaded on all instances that are named; where none is, it is measured where it is loaded.
    """
    names = dict.fromkeys(one.name for target in targets for one in target.before)
    if asked is None:
        if not names:
            raise UsageError("no model is loaded that could be measured", hint="ollamux bench MODEL --instances NAME")
        if len(names) > 1:
            there = ", ".join(safe_text(name) for name in names)
            raise UsageError(f"several models are loaded: {there}", hint="name one: ollamux bench MODEL")
        asked = next(iter(names))
    asked = full_name(asked)
    having = [target for target in targets if any(same_model(one.name, asked) for one in target.before)]
    if named:
        return asked, targets
    empty = [target for target in targets if not target.before]
    if not having and not empty:
        _facts(targets, asked)  # what is not there at all is told as that
        raise UsageError(
            f"{safe_text(asked)} is not loaded, and every instance has another model",
            hint="name those that are to load it: --instances NAME",
        )
    return asked, having or empty


def _facts(targets: Sequence[Target], model: str) -> Facts:
    target = targets[0]
    try:
        status, body = exchange(target.view.url, "POST", "/api/show", {"model": model}, timeout_s=LOOK_S)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise OllamuxError(f"{target.name} cannot be asked: {why}", exit_code=Exit.DEGRADED) from None
    shown = safe_text(model)
    if is_missing(status, body):
        raise NotFoundError(f"{shown} is not in the store of {target.name}", hint=f"ollamux pull {shown} fetches it")
    facts = facts_of(body, None) if status == 200 else None
    if facts is None:
        raise OllamuxError(f"{target.name}: {error_of(status, body)}", exit_code=Exit.DEGRADED)
    if not facts.generates:
        raise RefusedError(f"{shown} only embeds: there are no tokens to count", hint="name a model that generates")
    return facts


def _number(text: object) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else None
