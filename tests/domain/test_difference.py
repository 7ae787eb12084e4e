"""What differs between two configurations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.difference import LIVE_FIELDS, Kind, difference
from ollamux.domain.spec import (
    FleetSpec,
    GpuRef,
    GpuRefKind,
    HealthSpec,
    InstanceSpec,
    OnDeath,
    Pinning,
    PinSpec,
    SupervisorSpec,
)

A = InstanceSpec(name="a", port=1, pinning=Pinning.CPU)
B = InstanceSpec(name="b", port=2, pinning=Pinning.CPU)
M = PinSpec(name="m")
CARD = GpuRef(kind=GpuRefKind.INDEX, value="0")


def fleet(*instances: InstanceSpec, supervisor: SupervisorSpec | None = None) -> FleetSpec:
    return FleetSpec(supervisor=supervisor or SupervisorSpec(), instances=instances)


@pytest.mark.parametrize(
    ("new", "kind", "keys"),
    [
        (replace(A, port=9), Kind.RESTART, [(None, "port")]),
        (replace(A, pinning=Pinning.GPUS, gpus=(CARD,)), Kind.RESTART, [(None, "pinning"), (None, "gpus")]),
        (replace(A, env=(("X", "1"),)), Kind.RESTART, [(None, "env")]),
        (replace(A, store="/models"), Kind.RESTART, [(None, "store")]),
        (replace(A, preload=(M,)), Kind.LIVE, [(None, "preload")]),
        (replace(A, health=HealthSpec(interval_s=1.0)), Kind.LIVE, [("health", "interval_s")]),
        (replace(A, allow_lan=True, share_gpu=True), Kind.LIVE, [(None, "share_gpu"), (None, "allow_lan")]),
        (replace(A, enabled=False), Kind.DISABLED, [(None, "enabled")]),
        (replace(A, enabled=False, port=9), Kind.DISABLED, [(None, "port"), (None, "enabled")]),
    ],
)
def test_R47_what_a_change_means(new: InstanceSpec, kind: Kind, keys: list[tuple[str | None, str]]) -> None:
    (change,) = difference(fleet(A, B), fleet(new, B)).changes
    assert change.name == "a"
    assert change.kind is kind
    assert sorted((key.group or "", key.field) for key in change.keys) == sorted((g or "", f) for g, f in keys)


def test_what_goes_is_named_first_and_the_rest_is_in_the_order_of_the_file() -> None:
    c = replace(A, name="c", port=3)
    found = difference(fleet(A, B), fleet(c, replace(B, port=7)))
    assert [(change.name, change.kind) for change in found.changes] == [
        ("a", Kind.REMOVED),
        ("c", Kind.ADDED),
        ("b", Kind.RESTART),
    ]
    assert found.renames == ()


def test_a_rename_is_recognised() -> None:
    assert difference(fleet(A, B), fleet(replace(A, name="main"), B)).renames == (("a", "main"),)


def test_the_supervisor_s_own_keys_are_told_apart() -> None:
    found = difference(fleet(A), fleet(A, supervisor=SupervisorSpec(on_death=OnDeath.STOP)))
    assert found.changes == ()
    assert [(key.field, key.old, key.new) for key in found.supervisor] == [("on_death", OnDeath.KEEP, OnDeath.STOP)]


SPECS = st.builds(
    InstanceSpec,
    name=st.sampled_from("abcd"),
    port=st.integers(1, 3),
    pinning=st.sampled_from(Pinning),
    enabled=st.booleans(),
    preload=st.sampled_from([(), (M,)]),
    store=st.sampled_from([None, "/x"]),
)
FLEETS = st.lists(SPECS, max_size=4, unique_by=lambda spec: spec.name).map(lambda specs: fleet(*specs))


@given(FLEETS, FLEETS)
def test_R47_nothing_that_differs_is_missed_and_nothing_that_does_not_is_named(old: FleetSpec, new: FleetSpec) -> None:
    named = {change.name: change for change in difference(old, new).changes}
    for name in "abcd":
        was, now = old.instance(name), new.instance(name)
        assert (name in named) == (was != now)
        if name in named and was is not None and now is not None:
            expected = {key.group or key.field for key in named[name].keys}
            assert expected == {slot for slot in InstanceSpec.__slots__ if getattr(was, slot) != getattr(now, slot)}
            live = expected <= LIVE_FIELDS - {"enabled"}
            assert (named[name].kind is Kind.LIVE) == live


@given(FLEETS)
def test_C25_a_configuration_does_not_differ_from_itself(one: FleetSpec) -> None:
    found = difference(one, one)
    assert (found.changes, found.supervisor, found.renames) == ((), (), ())
