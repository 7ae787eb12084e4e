"""All rules, and what they make of the facts. Pure; each rule stands in the module of its subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ollamux.doctor import (
    rules_cards,
    rules_driver,
    rules_fleet,
    rules_host,
    rules_network,
    rules_ollama,
    rules_store,
    rules_supervisor,
)
from ollamux.doctor.facts import Facts
from ollamux.doctor.findings import Finding, ranked

Rule = Callable[[Facts], Iterable[Finding]]
"""A rule that does not know says nothing."""

RULES: tuple[Rule, ...] = (
    rules_driver.driver_closed,
    rules_driver.driver_absent,
    rules_driver.gpus_unread,
    rules_driver.driver_too_old,
    rules_cards.card_troubles,
    rules_cards.card_missing,
    rules_cards.card_shared,
    rules_cards.card_unsupported,
    rules_cards.link_narrow,
    rules_cards.link_slow,
    rules_cards.persistence_off,
    rules_cards.card_strangers,
    rules_ollama.ollama_missing,
    rules_ollama.runner_missing,
    rules_ollama.cuda_libraries_missing,
    rules_ollama.ollama_unsupported,
    rules_ollama.server_outdated,
    rules_ollama.ollama_several,
    rules_ollama.ollama_replaceable,
    rules_fleet.config_invalid,
    rules_fleet.config_missing,
    rules_fleet.config_idle,
    rules_fleet.api_key_set,
    rules_fleet.kv_cache_attention,
    rules_fleet.flash_attention,
    rules_fleet.bf16_model,
    rules_fleet.fp16_model,
    rules_fleet.headroom_small,
    rules_fleet.preload_crowded,
    rules_fleet.memory_plan,
    rules_network.ollama_service,
    rules_network.port_taken,
    rules_network.address_missing,
    rules_network.exposed_host,
    rules_network.exposed_origins,
    rules_network.exposed_service,
    rules_store.store_unreadable,
    rules_store.store_missing,
    rules_store.store_full,
    rules_store.store_prune,
    rules_store.store_read_only,
    rules_store.store_open,
    rules_host.cgroup_memory,
    rules_host.oom_kills,
    rules_host.suspend_happened,
    rules_host.suspend_idle,
    rules_host.suspend_possible,
    rules_supervisor.supervisor_silent,
    rules_supervisor.instance_failed,
    rules_supervisor.instance_degraded,
)


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Return everything that is wrong, the worst first."""
    return ranked(finding for rule in RULES for finding in rule(facts))
