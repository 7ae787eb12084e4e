"""Every state a small box can reach keeps every property, and comes to rest from there."""

from __future__ import annotations

import pytest

from ollamux.domain.phases import Phase
from ollamux.domain.spec import RestartPolicy, RestartSpec

from .actions import ACTIONS
from .search import ABSTRACT, SMALL, search, small_world

SPECS = {
    "two failures are enough": SMALL,
    "the first failure is enough": RestartSpec(failure_limit=1),
    "waits before the first restart": RestartSpec(failure_limit=2, first_s=2.0),
    "no slow retry": RestartSpec(failure_limit=2, retry_failed_s=0.0),
    "never comes back": RestartSpec(policy=RestartPolicy.NEVER, failure_limit=2),
    "comes back after failures only": RestartSpec(policy=RestartPolicy.ON_FAILURE, failure_limit=2),
}


@pytest.mark.parametrize("name", SPECS)
def test_every_reachable_state_keeps_every_property(name: str) -> None:
    whole = name == "two failures are enough"
    actions = ACTIONS if name == "comes back after failures only" else ABSTRACT
    found = search(small_world(SPECS[name]), actions=actions, most_states=40_000 if whole else 2_500)
    assert found.violation is None, f"{found.violation}\nafter: {' > '.join(found.story)}"
    if whole:
        assert found.phases == set(Phase), "the search must see every phase"
        assert found.states < 40_000, "the search must see every state"
        assert found.steps > 50_000
