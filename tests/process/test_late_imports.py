"""What a supervisor imports late is waited for where there is no descriptor to read it with."""

from __future__ import annotations

import builtins
import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from ollamux.domain.spec import FleetSpec
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.journal import Journal


@pytest.mark.parametrize("module", ["ollamux.gpu.client", "ollamux.gpu.allocation", "ollamux.gpu.spawn"])
def test_R19_the_list_of_gpus_is_asked_for_again_once_there_are_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    core = Core(FleetSpec(), journal=Journal(str(tmp_path)), owner="nobody", log_dir=str(tmp_path))
    planned: list[Any] = []
    monkeypatch.setattr(core.loop, "call_later", lambda delay_s, call: planned.append(call))
    gpus = Gpus(core, source="none", box=None, env={})
    monkeypatch.delitem(sys.modules, module, raising=False)
    real, failing = builtins.__import__, [True]

    def without_descriptors(name: str, *words: Any, **how: Any) -> Any:
        if name == module and failing:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(name, *words, **how)

    monkeypatch.setattr(builtins, "__import__", without_descriptors)

    gpus.begin()

    assert planned == [gpus.begin]
    assert gpus.own_pids == frozenset()
    failing.clear()
    planned.pop()()
    assert gpus.own_pids
    gpus.close()
    core.loop.close()
