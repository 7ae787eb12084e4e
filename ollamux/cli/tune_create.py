"""Create the model that a tune has found, through the instance itself. Verifying it is a step like any other."""

from __future__ import annotations

from collections.abc import Mapping

from ollamux.cli.tune_step import Kit
from ollamux.cli.tune_trial import Ask, ask_once
from ollamux.domain.errors import Exit, OllamuxError
from ollamux.domain.text import safe_text
from ollamux.ollama.loading import error_of
from ollamux.ollama.trial import create_body
from ollamux.supervisor.http import probe_host

CREATE = "/api/create"


def create(kit: Kit, name: str, parameters: Mapping[str, int], address: tuple[str, int], timeout_s: float) -> None:
    """Create a model from the tuned one: the weights are shared. Raises OllamuxError."""
    ask = Ask(CREATE, create_body(name, kit.task.model, parameters))
    where = (probe_host(address[0]), address[1])
    answer = ask_once(kit.lease, where, ask, timeout_s, lambda: kit.tick(f"creating {safe_text(name)}"))
    if answer.status != 200 or b'"success"' not in answer.body:
        why = answer.error or error_of(answer.status, answer.body)
        raise OllamuxError(f"{safe_text(name)} could not be created: {why}", exit_code=Exit.DEGRADED)
