"""Level 4 of the health ladder: is the instance on the devices it was planned for, and is all of each model there?

A fault is told, and dealt with as the policy says; a restart is tried once per incident, so that a fault which a
restart cannot mend does not become a restart loop.
"""

from __future__ import annotations

from collections.abc import Collection

from ollamux.domain import events as ev
from ollamux.domain.phases import Phase
from ollamux.domain.spec import FaultPolicy, Pinning
from ollamux.domain.text import format_size
from ollamux.ollama import events as log
from ollamux.ollama.account import Account
from ollamux.ollama.api import LoadedModel, spilled
from ollamux.ollama.judge import Proof, Verdict, judge_devices
from ollamux.ollama.log import LogReader
from ollamux.supervisor.cards import Cards
from ollamux.supervisor.core import Core
from ollamux.supervisor.gpus import Gpus
from ollamux.supervisor.unit import Unit
from ollamux.system.clock import asleep_s, monotonic

FALLEN = "fallen"
"""A model that computes on the CPU though the server found its GPU; the policy is that of "cpu_fallback"."""
_ON_CPU = ("cpu_fallback", FALLEN)
_SLEPT_S = 1.0
READ_BYTES = 256 * 1024
"""At most so much of a log is read at a look: a server that floods it must not keep us busy."""
_KEPT = (log.DeviceLine, log.DiscoveryEnded, log.DiscoveryFailed, log.Listening)


class Devices:
    """Reads the logs of the instances and judges what they say about devices."""

    def __init__(self, core: Core, gpus: Gpus) -> None:
        self._core = core
        self._gpus = gpus
        self._cards = Cards(core, gpus, self._fault)

    def read_log(self, unit: Unit) -> None:
        """Take in what the instance has logged since the last look."""
        if unit.follower is None:
            return
        if unit.reader is None:
            unit.reader = LogReader()
        for event in unit.reader.feed(unit.follower.read(READ_BYTES)):
            if isinstance(event, _KEPT):
                if len(unit.device_lines) < 256:
                    unit.device_lines.append(event)
            elif isinstance(event, log.RequestDone):
                unit.served_at = monotonic()

    def judge_start(self, unit: Unit) -> bool:
        """Judge the start-up log; True where the instance may be called ready."""
        if unit.verdict is None or unit.verdict.proof is Proof.PLANNED:
            planned = unit.gpus
            if unit.spec.pinning is Pinning.ANY and self._gpus.inventory is not None:
                planned = self._gpus.inventory.gpus
            unit.verdict = judge_devices(
                unit.device_lines, planned, pinning=unit.spec.pinning, era=unit.era, served=True
            )
        verdict = unit.verdict
        if verdict.proof is Proof.CPU:
            return self._proven(unit, "cpu_fallback", unit.spec.on.cpu_fallback, verdict, hint=_hint_of_sleep(unit))
        if verdict.proof is Proof.WRONG:
            return self._proven(unit, "wrong_gpu", unit.spec.on.wrong_gpu, verdict)
        if verdict.proof is Proof.PROVEN:
            unit.incidents -= {"cpu_fallback", "wrong_gpu"}
            unit.asked_incidents -= {"cpu_fallback", "wrong_gpu"}
        return True

    def _proven(self, unit: Unit, kind: str, policy: FaultPolicy, verdict: Verdict, *, hint: str = "") -> bool:
        """Deal with a fault that the log proves; the line itself goes into the record, where there is room for it."""
        self._core.note(unit, f"{verdict.reason}; the log says: {verdict.line}")
        return self._fault(unit, kind, policy, f"{verdict.reason}{hint}")

    def judge_models(self, unit: Unit, *, on_cpu_by_wish: Collection[str] = ()) -> None:
        """Judge what is loaded: a model that is partly in host memory has spilled, one that is wholly there has fallen.

        Not so where whoever asked for the model asked for that, too. What the log says of a load goes before the sizes
        that the server tells.
        """
        if unit.spec.pinning is not Pinning.GPUS or "cpu_fallback" in unit.degraded:
            return
        models = [model for model in unit.models if model.name not in on_cpu_by_wish and not _is_as_asked(unit, model)]
        fallen = [model.name for model in models if _has_fallen(unit, model)]
        if fallen:
            reason = f"{', '.join(fallen)} was loaded wholly into host memory: it computes on the CPU"
            self._fault(unit, FALLEN, unit.spec.on.cpu_fallback, f"{reason}{_hint_of_sleep(unit)}")
            return
        if unit.degraded.pop(FALLEN, None) is not None:
            self._core.note(unit, "no model is wholly in host memory any more")
        if any(model.size_vram_bytes > 0 for model in models):  # that it starts on its GPU does not prove as much
            unit.incidents.discard(FALLEN)
            unit.asked_incidents.discard(FALLEN)
        spills = {model.name: said for model in models if (said := _spill(unit, model)) is not None}
        whole = {f"spill:{model.name}" for model in unit.models} - {f"spill:{name}" for name in spills}
        unit.incidents -= whole
        if not spills:
            if unit.degraded.pop("spill", None) is not None:
                self._core.note(unit, "nothing is spilled any more")
            return
        told = "; ".join(f"{name}: {said}" for name, said in spills.items())
        keys = {f"spill:{name}" for name in spills}
        self._fault(unit, "spill", unit.spec.on.spill, f"spilled out of the GPU: {told}", incidents=keys)

    def judge_gpus(self, unit: Unit) -> None:
        """Judge the cards themselves, and mend now what could not be mended while their driver did not answer."""
        self._cards.judge(unit)
        for kind in _ON_CPU:
            reason = unit.degraded.get(kind)
            if reason is not None and unit.state.phase is Phase.READY:
                self._fault(unit, kind, unit.spec.on.cpu_fallback, reason)

    def _fault(
        self, unit: Unit, kind: str, policy: FaultPolicy, reason: str, *, incidents: set[str] | None = None
    ) -> bool:
        """Do what the policy says; True where the instance goes on as it is. A spill is one incident per model."""
        gen = unit.state.gen
        new = (incidents or {kind}) - unit.incidents
        if policy is FaultPolicy.STOP:
            self._core.dispatch(unit, ev.DeviceStopAsked(gen=gen, reason=reason))
            return False
        if policy is FaultPolicy.RESTART and new and self._may_help(unit, kind):
            unit.incidents |= new
            self._core.dispatch(unit, ev.DeviceRestartAsked(gen=gen, reason=reason))
            return False
        if unit.degraded.get(kind) != reason:
            unit.degraded[kind] = reason
            if unit.state.phase is Phase.READY:
                self._core.note(unit, f"degraded: {reason}")
        return True

    def _may_help(self, unit: Unit, kind: str) -> bool:
        """Whether a restart now could mend it: not while the driver does not answer for the cards."""
        if kind not in _ON_CPU or not unit.gpus:
            return True
        inventory = self._gpus.inventory
        if self._gpus.trouble is not None or inventory is None or inventory.error is not None:
            return False
        return all(gpu.state == "ok" for gpu in self._gpus.current(unit.gpus))


def _account(unit: Unit, model: LoadedModel) -> Account | None:
    seen = unit.seen_loads.get(model.name)
    return None if seen is None else seen.account


def _is_as_asked(unit: Unit, model: LoadedModel) -> bool:
    account = _account(unit, model)
    return account is not None and account.is_as_asked


def _has_fallen(unit: Unit, model: LoadedModel) -> bool:
    account = _account(unit, model)
    return (model.size_bytes > 0 and model.size_vram_bytes == 0) if account is None else account.has_fallen


def _spill(unit: Unit, model: LoadedModel) -> str | None:
    """Say what of a model is not on its GPU; None where all of it is."""
    account, beside = _account(unit, model), spilled(model)
    if account is not None and account.offloaded is not None:
        if account.shortfall is None:
            return None
        return account.shortfall + (f", {format_size(beside)} is in host memory" if beside else "")
    return f"{format_size(beside)} of {format_size(model.size_bytes)} is in host memory" if beside else None


def _hint_of_sleep(unit: Unit) -> str:
    """Return the likeliest cause where the machine has slept, which no restart of a server mends (docs/gpu.mdx)."""
    if asleep_s() < _SLEPT_S or not any(gpu.vendor == "nvidia" for gpu in unit.gpus):
        return ""
    return "; the machine has slept, and CUDA may be gone until its module is loaded anew: ollamux doctor tells how"
