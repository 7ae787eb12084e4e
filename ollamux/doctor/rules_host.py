"""Rules about the machine: its memory, its control groups, its sleep. Pure: facts to findings."""

from __future__ import annotations

from collections.abc import Iterable

from ollamux.doctor.facts import Facts
from ollamux.doctor.findings import Finding, Severity
from ollamux.doctor.rules_fleet import planned_memory
from ollamux.domain.text import format_size

# One `ollama serve` with one small runner: 35 MB and 45 MB; what a model is read through counts too.
_OF_A_SERVER = 1024**3
_RELOAD = "sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm"
_MASK = "sudo systemctl mask sleep.target suspend.target hibernate.target hybrid-sleep.target"
_SLEEPY = ("suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate", "sleep")


def cgroup_memory(facts: Facts) -> Iterable[Finding]:
    """Report a limit of memory that the instances may outgrow: prompt caches count, weights on the CPU too.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, memory.max.
    """
    limit = facts.host.cgroup_memory_bytes
    planned = planned_memory(facts.enabled) + _OF_A_SERVER * len(facts.enabled)
    if limit is None or not facts.enabled or limit >= planned:
        return
    yield Finding(
        id="cgroup-memory",
        severity=Severity.WARNING,
        title=f"A limit of {format_size(limit)} on memory is less than the instances may take",
        evidence=f"The control group {facts.host.cgroup} is limited; what is enabled comes, with its prompt caches, to "
        f"{format_size(planned)}. The kernel then kills a server or its runner.",
        fix=f'raise the limit (MemoryMax= of the unit, --memory of the container), or set cache_ram = "512MiB" in '
        f"{facts.file}",
        is_command=False,
    )


def oom_kills(facts: Facts) -> Iterable[Finding]:
    """Report that the kernel has killed for want of memory: memory.events of the group, else /proc/vmstat."""
    group, machine = facts.host.cgroup_oom_kills, facts.host.oom_kills
    if group:
        title = f"The kernel has killed {_processes(group)} of this control group for want of memory"
        severity, evidence = Severity.WARNING, f"oom_kill is {group} in memory.events of {facts.host.cgroup}."
    elif machine:
        title = f"The kernel has killed {_processes(machine)} for want of memory since boot"
        severity, evidence = Severity.HINT, f"oom_kill is {machine} in /proc/vmstat."
    else:
        return
    yield Finding(
        id="oom-kills",
        severity=severity,
        title=title,
        evidence=f"{evidence} A server that is killed so leaves its runner behind; the kernel's log names it. "
        "A smaller cache_ram or context_length needs less.",
        fix="sudo journalctl -k -g 'Out of memory|oom-kill' | tail",
    )


def suspend_happened(facts: Facts) -> Iterable[Finding]:
    """Report that the machine has slept: CUDA often fails after it until nvidia_uvm is loaded anew (docs/gpu.mdx)."""
    if facts.host.sleeps and _has_nvidia(facts):
        times = "once" if facts.host.sleeps == 1 else f"{facts.host.sleeps} times"
        yield Finding(
            id="suspend-happened",
            severity=Severity.WARNING,
            title=f"This machine has slept {times} since boot",
            evidence="After a sleep CUDA often fails until its module is loaded anew, and models run on the CPU. "
            f"If that is so now: ollamux down; {_RELOAD}; ollamux up -d.",
            fix=_MASK,
        )


def suspend_idle(facts: Facts) -> Iterable[Finding]:
    """Report that logind sends an idle machine to sleep: requests over the network do not count (logind.conf(5))."""
    if facts.host.idle_action in _SLEEPY:
        yield Finding(
            id="suspend-idle",
            severity=Severity.WARNING,
            title="This machine goes to sleep while nobody types",
            evidence=f"IdleAction={facts.host.idle_action} in logind.conf; a request over the network is no typing.",
            fix=_MASK,
        )


def suspend_possible(facts: Facts) -> Iterable[Finding]:
    """Report that a desktop may send the machine to sleep: GNOME does so after a while, also of a server's."""
    if facts.host.may_sleep and facts.host.idle_action not in _SLEEPY and _has_nvidia(facts):
        yield Finding(
            id="suspend-possible",
            severity=Severity.HINT,
            title="A desktop may send this machine to sleep",
            evidence="It has a graphical login and sleep.target is not masked. A sleep cuts all requests, and CUDA "
            "often fails after it.",
            fix=_MASK,
        )


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"


def _has_nvidia(facts: Facts) -> bool:
    return any(gpu.vendor == "nvidia" for gpu in facts.gpus) or bool(facts.host.nvidia_cards)
