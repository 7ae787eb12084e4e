"""Load what the configuration asks for as soon as an instance is ready, and keep it loaded.

The request has no options: a load with options that clients do not send would only be undone by the first client. Its
time-out is long, since a server aborts a load whose client goes away.
"""

from __future__ import annotations

import json

from ollamux.domain.instance import Instance
from ollamux.domain.phases import SERVING, Phase
from ollamux.domain.text import format_duration, safe_text
from ollamux.ollama.api import same_model
from ollamux.supervisor.checks import Checks
from ollamux.supervisor.core import Core
from ollamux.supervisor.http import Answer, Request, probe_host
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import monotonic

LOAD_TIMEOUT_S = 1800.0
UNPIN_TIMEOUT_S = 30.0
RENEW_AFTER_S = 30.0
"""A pin is evicted as soon as the server's limit of loaded models is reached, and ended by a client's keep_alive."""


class Preload:
    """One model after the other, for each instance that became ready."""

    def __init__(self, core: Core, checks: Checks) -> None:
        self._core = core
        self._checks = checks
        core.changed.append(self._on_change)
        checks.listeners.append(self._renew)

    def _on_change(self, unit: Unit, before: Instance) -> None:
        if unit.state.phase is Phase.READY and before.phase is Phase.STARTING and unit.spec.preload:
            unit.preload_failed = {}
            self._begin(unit, unit.spec.preload)

    def _begin(self, unit: Unit, models: tuple[str, ...]) -> None:
        unit.preloaded_at = monotonic()
        self._load(unit, models, "/api/generate")

    def change(self, unit: Unit, before: tuple[str, ...]) -> None:
        """Load what is asked for now, and let the server forget in its own time what is not any more."""
        if unit.state.phase is not Phase.READY:
            return
        new = tuple(name for name in unit.spec.preload if name not in before)
        if new and "preload" not in unit.requests:
            self._begin(unit, new)
        for name in set(before) - set(unit.spec.preload):
            unit.preload_failed.pop(name, None)
            keeps_all = unit.spec.keep_alive_s is not None and unit.spec.keep_alive_s < 0
            if not keeps_all and any(
                same_model(name, model.name) and model.expires_at is None for model in unit.models
            ):
                self._unpin(unit, name)

    def _unpin(self, unit: Unit, name: str) -> None:
        """A request without a prompt and with a time to live: what every client sends, so the pin ends as usual."""
        keep_alive = unit.spec.keep_alive_s
        body = {"model": name, "keep_alive": "5m" if keep_alive is None else keep_alive}

        def done(answer: Answer) -> None:
            unit.requests.pop(f"unpin {name}", None)
            told = (
                "is no longer kept" if answer.status == 200 else f"is still kept: {answer.error or _error_of(answer)}"
            )
            self._core.note(unit, f"{safe_text(name)} {told}")

        address = (probe_host(unit.spec.host), unit.spec.port)
        unit.requests[f"unpin {name}"] = Request(
            self._core.loop,
            address,
            "/api/generate",
            timeout_s=UNPIN_TIMEOUT_S,
            done=done,
            body=json.dumps(body).encode(),
        )

    def go_on(self, unit: Unit) -> None:
        """Load what the program before this one was loading: its request has gone with it."""
        there = [model.name for model in unit.models]
        self._begin(unit, tuple(p for p in unit.spec.preload if not any(same_model(p, name) for name in there)))

    def _renew(self, unit: Unit) -> None:
        """Pin again what lost its pin, now and then, and never against the server's own limit."""
        if not unit.spec.preload or "preload" in unit.requests or unit.state.phase is not Phase.READY:
            return
        if monotonic() - unit.preloaded_at < RENEW_AFTER_S:
            return
        # A server goes on listing a model whose runner was killed, pin and all, until somebody asks for it.
        there = [model for model in unit.models if model.name not in unit.gone_runners]
        kept = [model.name for model in there if model.expires_at is None]
        lost = tuple(name for name in unit.spec.preload if not any(same_model(name, other) for other in kept))
        limit = unit.spec.max_loaded_models
        if lost and (limit is None or len(there) < limit or self._all_are_pins(unit)):
            why = "evicted, its runner killed, or a client set keep_alive"
            self._core.note(unit, f"{', '.join(lost)} lost its pin ({why}); pinning it again")
            self._begin(unit, lost)

    def _all_are_pins(self, unit: Unit) -> bool:
        """Whether whatever is loaded is ours to pin, so that pinning evicts nobody else's model."""
        pins = unit.spec.preload
        return len(pins) <= len(unit.models) and all(any(same_model(m.name, p) for p in pins) for m in unit.models)

    def _load(self, unit: Unit, models: tuple[str, ...], target: str) -> None:
        if not models:
            return
        body = {"model": models[0], "keep_alive": -1}
        gen = unit.state.gen

        def done(answer: Answer) -> None:
            unit.requests.pop("preload", None)
            if unit.state.gen == gen and unit.state.phase in SERVING:
                self._loaded(unit, models, target, answer)

        unit.requests["preload"] = Request(
            self._core.loop,
            (probe_host(unit.spec.host), unit.spec.port),
            target,
            timeout_s=LOAD_TIMEOUT_S,
            done=done,
            body=json.dumps(body).encode(),
        )

    def _loaded(self, unit: Unit, models: tuple[str, ...], target: str, answer: Answer) -> None:
        name = models[0]
        if answer.status == 400 and target == "/api/generate" and b"does not support generate" in answer.body:
            self._load(unit, models, "/api/embed")
            return
        if answer.status == 200:
            self._core.note(unit, f"{safe_text(name)} is loaded and kept ({format_duration(answer.seconds)})")
        else:
            why = answer.error or _error_of(answer)
            unit.preload_failed[name] = why
            self._core.note(unit, f"{safe_text(name)} could not be loaded: {why}")
        self._checks.ask_scheduler(unit)
        self._load(unit, models[1:], "/api/generate")


def _error_of(answer: Answer) -> str:
    try:
        return safe_text(str(json.loads(answer.body)["error"]), limit=300)
    except (ValueError, KeyError, TypeError):
        return f"answered with {answer.status}"
