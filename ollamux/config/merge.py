"""From validated tables to the specification: the defaults under each instance. Checks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollamux.config.keys import ANY
from ollamux.domain.spec import (
    CanarySpec,
    FleetSpec,
    GpuRef,
    HealthSpec,
    InstanceSpec,
    ModelSpec,
    OnFault,
    Pinning,
    RestartSpec,
    SupervisorSpec,
)

if TYPE_CHECKING:
    from ollamux.config.schema import DefaultsTable, Document, InstanceTable

_GROUPS = {"health": HealthSpec, "restart": RestartSpec, "on": OnFault, "canary": CanarySpec}


def fleet_of(document: Document) -> FleetSpec:
    """Return the fleet that a valid document asks for, instances in the order of the file."""
    return FleetSpec(
        supervisor=SupervisorSpec(**_given(document.supervisor)),
        instances=tuple(_instance(name, each, document.defaults) for name, each in document.instances.items()),
        placement=document.placement,
        models=tuple(ModelSpec(name=name, **_given(each)) for name, each in document.models.items()),
    )


def _instance(name: str, own: InstanceTable, defaults: DefaultsTable) -> InstanceSpec:
    values = {**_given(defaults), **_given(own)}
    for group, spec in _GROUPS.items():
        values[group] = spec(**{**_given(getattr(defaults, group)), **_given(getattr(own, group))})
    values["env"] = tuple(sorted({**defaults.env, **own.env}.items()))
    pinning, gpus = _pinning(own.gpus)
    return InstanceSpec(**{**values, "name": name, "pinning": pinning, "gpus": gpus})


def _pinning(gpus: object) -> tuple[Pinning, tuple[GpuRef, ...]]:
    if gpus == ANY or not isinstance(gpus, tuple):
        return Pinning.ANY, ()
    return (Pinning.GPUS if gpus else Pinning.CPU), gpus


def _given(table: Any) -> dict[str, Any]:
    """Return what the file sets itself, by the names of the specification."""
    return {name: getattr(table, name) for name in table.model_fields_set}
