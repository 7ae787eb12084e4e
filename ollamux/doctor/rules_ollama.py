"""Rules about the `ollama` programs: missing, old, several, without their libraries. Pure: facts to findings."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from ollamux.doctor.facts import Facts, Outdated, Program
from ollamux.doctor.findings import Finding, Severity
from ollamux.doctor.rules_driver import wants_nvidia
from ollamux.ollama.version import FIRST_LLAMA_SERVER, FIRST_SUPPORTED

# The installer starts a service of its own, at once and at every boot (scripts/install.sh), which would be in the way.
INSTALL = "curl -fsSL https://ollama.com/install.sh | sh && sudo systemctl disable --now ollama"
_RESTART = "ollamux restart --all --rolling"


def ollama_missing(facts: Facts) -> Iterable[Finding]:
    """Report a program that cannot be run (`ollamux up` refuses to start without it)."""
    for program in facts.programs:
        if program.problem is not None:
            yield Finding(
                id="ollama-missing",
                severity=Severity.BROKEN,
                title=f"{program.name} cannot be run",
                evidence=f"{program.problem}. {_who(facts, program)} cannot start without it.",
                fix=INSTALL if "/" not in program.name else f"set ollama to the path of its program in {facts.file}",
                is_command="/" not in program.name,
            )


def runner_missing(facts: Facts) -> Iterable[Finding]:
    """Report a missing llama-server: ollama from 0.30 on starts without it, and then every load fails (500)."""
    for program in facts.programs:
        libraries, version = program.libraries, program.version
        if libraries is None or version is None or version < FIRST_LLAMA_SERVER or libraries.has_runner:
            continue
        yield Finding(
            id="runner-missing",
            severity=Severity.BROKEN,
            title="The runner of this ollama is missing: no model can be loaded",
            evidence=f"{program.path} is of version {program.version_text}, and there is no llama-server in "
            f"{libraries.folder}. An upgrade that was cut short does this.",
            fix=INSTALL,
        )


def cuda_libraries_missing(facts: Facts) -> Iterable[Finding]:
    """Report an ollama without CUDA under an instance on an NVIDIA card: it computes on the CPU and says nothing."""
    for program in facts.programs:
        users = [spec.name for spec in facts.enabled if facts.program_of(spec) is program and wants_nvidia(spec)]
        if program.libraries is None or program.libraries.cuda or not users:
            continue
        yield Finding(
            id="cuda-libraries-missing",
            severity=Severity.BROKEN,
            title="This ollama has no CUDA: models run on the CPU",
            evidence=f"There is no cuda_v12 or cuda_v13 in {program.libraries.folder}, beside {program.path}. "
            f"{', '.join(users)} would not use the card.",
            fix=INSTALL,
        )


def ollama_unsupported(facts: Facts) -> Iterable[Finding]:
    """Report a version before 0.12.4: its log does not prove on which card it is."""
    for program in facts.programs:
        if program.version is not None and program.version < FIRST_SUPPORTED:
            yield Finding(
                id="ollama-unsupported",
                severity=Severity.WARNING,
                title=f"ollama {program.version_text} is older than ollamux supports",
                evidence=f"{program.path} runs, but whether it is on the right card cannot be proven before 0.12.4.",
                fix=INSTALL,
            )


def server_outdated(facts: Facts) -> Iterable[Finding]:
    """Report servers older than their program on disk.

    An installer replaces the runners too, and an old server then starts new ones, or none (scripts/install.sh).
    """
    old = facts.outdated
    if old:
        names = ", ".join(one.instance for one in old)
        yield Finding(
            id="server-outdated",
            severity=Severity.WARNING,
            title=f"{names}: the server is older than its program on disk",
            evidence=f"{'; '.join(map(_age, old))}. An old server starts the runners of the new version, and loads may "
            "fail.",
            fix=_RESTART,
        )


def _age(one: Outdated) -> str:
    if one.on_disk is None:
        return f"{one.program}, which {one.instance} runs, was replaced"
    return f"{one.instance} runs {one.running}, {one.program} is {one.on_disk}"


def ollama_several(facts: Facts) -> Iterable[Finding]:
    """Report ollamas of different versions on PATH: cron, systemd and a shell each may take another one."""
    versions = {program.version_text for program in facts.on_path if program.version_text is not None}
    by_name = not facts.enabled or any("/" not in spec.ollama for spec in facts.enabled)
    if len(versions) < 2 or not by_name:
        return
    listed = ", ".join(f"{program.path} ({program.version_text or 'version unknown'})" for program in facts.on_path)
    newest = max(facts.on_path, key=lambda program: program.version or ())
    yield Finding(
        id="ollama-several",
        severity=Severity.WARNING,
        title=f"There are {len(facts.on_path)} different ollamas on PATH",
        evidence=f"In this order: {listed}. Under cron or systemd PATH is another one, and so may be the ollama.",
        fix=f'write ollama = "{newest.path}" below [defaults] in {facts.file}; then: ollamux reload',
        is_command=False,
    )


def ollama_replaceable(facts: Facts) -> Iterable[Finding]:
    """Report a program that somebody else could put another one in the place of."""
    for program in facts.programs:
        if program.replaceable is not None:
            place, who = program.replaceable
            yield Finding(
                id="ollama-replaceable",
                severity=Severity.WARNING,
                title=f"{program.path} could be replaced by somebody else",
                evidence=f"It runs as this user, and {who.rstrip(',')} may write to {place}.",
                fix=f"sudo {'chmod go-w' if 'owner' not in who else 'chown root'} {shlex.quote(place)}",
            )


def _who(facts: Facts, program: Program) -> str:
    users = [spec.name for spec in facts.enabled if spec.ollama == program.name]
    return ", ".join(users) or "An instance"
