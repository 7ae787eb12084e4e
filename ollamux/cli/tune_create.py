"""What a tune asks of the instance itself: to create the model it has found, and to load again what it had loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ollamux.cli.tune_lease import BACK_WITHIN_S, Lease, Tick
from ollamux.cli.tune_step import Kit
from ollamux.cli.tune_trial import Ask, ask_once
from ollamux.domain.errors import Exit, OllamuxError
from ollamux.domain.text import safe_text
from ollamux.ollama.loading import GENERATE, error_of, load
from ollamux.ollama.trial import create_body

CREATE = "/api/create"


def create(kit: Kit, name: str, parameters: Mapping[str, int], address: tuple[str, int], timeout_s: float) -> None:
    """Create a model from the tuned one: the weights are shared. Raises OllamuxError."""
    ask = Ask(CREATE, create_body(name, kit.task.model, parameters))
    answer = ask_once(kit.lease, address, ask, timeout_s, lambda: kit.tick(f"creating {safe_text(name)}"))
    if answer.status != 200 or b'"success"' not in answer.body:
        why = answer.error or error_of(answer.status, answer.body)
        raise OllamuxError(f"{safe_text(name)} could not be created: {why}", exit_code=Exit.DEGRADED)


def load_again(lease: Lease, address: tuple[str, int], tick: Tick) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Load what was loaded, without a supervisor; return what is loaded again, and what is not."""
    back = []
    for pin in lease.before:
        doing = f"loading again: {safe_text(pin.name)}"
        answer = ask_once(None, address, Ask(GENERATE, load(pin)), BACK_WITHIN_S, partial(tick, doing))
        if answer.status == 200:
            back.append(pin.name)
    return tuple(back), tuple(name for name in lease.names if name not in back)
