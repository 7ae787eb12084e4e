"""Look up what the log says of each loaded model, once for each load; nothing is looked at again that is known.

A model is joined with its load by its runner: the pid, and the port in its arguments, which the log names too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollamux.ollama.account import Account
from ollamux.ollama.account_log import Found, find_account
from ollamux.supervisor import family
from ollamux.system.patience import patiently

if TYPE_CHECKING:
    from ollamux.ollama.api import LoadedModel
    from ollamux.supervisor.unit import Unit

_LOOKS = 3
"""A server may list a model before the last lines of its runner have reached the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLoad:
    """What the log says of the load of a living runner; None where its lines are gone, or not there yet."""

    pid: int
    account: Account | None
    looks: int

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is to be learnt."""
        return self.account is not None or self.looks >= _LOOKS


def look(unit: Unit, runner_of: Callable[[Unit, LoadedModel], int | None]) -> None:
    """Look up the loads that are not known yet, and forget those that are over."""
    known, unit.seen_loads = unit.seen_loads, {}
    for model in unit.models:
        pid = runner_of(unit, model)
        if pid is None:
            continue
        seen = known.get(model.name)
        if seen is None or seen.pid != pid:
            seen = SeenLoad(pid=pid, account=None, looks=0)
        if not seen.is_settled:
            found = _find(unit, pid)
            seen = SeenLoad(pid=pid, account=found.account, looks=seen.looks + 1 if found.begins else _LOOKS)
        unit.seen_loads[model.name] = seen


def _find(unit: Unit, pid: int) -> Found:
    port, blob = family.port_of(pid), unit.runners[pid].rpartition("/")[2]
    if port is None:
        return Found(None, begins=False)
    path = unit.log_path
    try:
        return patiently(f"the log {path}", lambda: find_account(path, port=port, blob=blob), at=(path,))
    except TimeoutError:
        return Found(None, begins=True)
