"""Rules about ports, the packaged service, and who may reach a server. Pure: facts to findings."""

from __future__ import annotations

from collections.abc import Iterable

from ollamux.config.warn import is_exposed, is_loopback, trusts_every_page
from ollamux.doctor.facts import Facts, Service
from ollamux.doctor.findings import Finding, Severity
from ollamux.domain.text import safe_text
from ollamux.ollama.env import address

OFF = "sudo systemctl disable --now ollama"
_DEFAULT_PORT = 11434


def ollama_service(facts: Facts) -> Iterable[Finding]:
    """Report the packaged ollama.service: it takes 11434, may use any card, and has its own store (install.sh)."""
    service = facts.service
    if service is None or not (service.active or service.enabled):
        return
    holds_port = any(one.packaged for one in facts.obstacles)
    collides = holds_port or any(one.packaged for one in facts.strangers)
    wants_port = [spec.name for spec in facts.enabled if spec.port == _DEFAULT_PORT]
    if service.active:
        title = "ollama.service runs beside ollamux"
        evidence = "The packaged service is active. It listens on 11434 and loads models on any card"
        evidence += ", and it does so now." if collides else "; ollamux does not see when."
        severity = Severity.BROKEN if holds_port else Severity.WARNING
    else:
        title = "ollama.service starts at the next boot"
        evidence = "The packaged service is enabled. At boot it takes 11434"
        evidence += f", which {wants_port[0]} wants, and any card." if wants_port else " and any card."
        severity = Severity.WARNING if wants_port else Severity.HINT
    if facts.fleet is None:
        severity = Severity.HINT
    yield Finding(id="ollama-service", severity=severity, title=title, evidence=evidence, fix=OFF)


def port_taken(facts: Facts) -> Iterable[Finding]:
    """Report ports that somebody else holds: their instances wait (never are they fought over)."""
    for one in facts.obstacles:
        if one.address_missing:
            continue
        unknown = "somebody whom the kernel does not show"
        holder = one.holder or unknown if one.pid is None else f"{one.holder}, which is not ours"
        if one.packaged:
            fix = OFF
        elif one.pid is not None:
            fix = f"kill {one.pid}"
        else:
            fix = f"sudo ss -ltnp 'sport = :{one.port}'"
        yield Finding(
            id="port-taken",
            severity=Severity.BROKEN,
            title=f"{one.instance}: port {one.port} is taken",
            evidence=f"On {address(one.host)}:{one.port} listens {holder}. {one.instance} waits "
            f"until it is free. Or give it another port in {facts.file}.",
            fix=fix,
        )


def address_missing(facts: Facts) -> Iterable[Finding]:
    """Report an address that this machine does not have (ollama: "cannot assign requested address")."""
    for one in facts.obstacles:
        if one.address_missing:
            yield Finding(
                id="address-missing",
                severity=Severity.BROKEN,
                title=f"{one.instance}: {one.host} is no address of this machine",
                evidence="A server cannot listen on an address of another machine, or of a link that is down.",
                fix=f"set host of [instances.{one.instance}] in {facts.file} to one that this lists: ip -brief address",
                is_command=False,
            )


def exposed_host(facts: Facts) -> Iterable[Finding]:
    """Report servers that others reach: ollama has no password (its FAQ leaves that to a proxy)."""
    for spec in facts.enabled:
        if is_exposed(spec):
            yield Finding(
                id="exposed-host",
                severity=Severity.WARNING,
                title=f"{spec.name}: whoever reaches this machine may use it",
                evidence=f"host is {spec.host}, and ollama asks no password: others may run, load, pull and delete "
                "models, and fill the disk.",
                fix=f'set host = "127.0.0.1", or allow_lan = true if it is meant, in {facts.file}; '
                "then: ollamux reload",
                is_command=False,
            )


def exposed_origins(facts: Facts) -> Iterable[Finding]:
    """Report that any web page may talk to a server: the browser of whoever opens it is the way in (CORS)."""
    for spec in facts.enabled:
        if trusts_every_page(spec):
            origins = safe_text(dict(spec.env)["OLLAMA_ORIGINS"], limit=80)
            yield Finding(
                id="exposed-origins",
                severity=Severity.WARNING,
                title=f"{spec.name}: any web page that a user opens may use it",
                evidence=f"OLLAMA_ORIGINS is {origins}: a page may run models, read the answers and delete models, "
                "through the browser of somebody on this machine.",
                fix=f"list the pages that may in OLLAMA_ORIGINS in {facts.file}; then: ollamux reload",
                is_command=False,
            )


def exposed_service(facts: Facts) -> Iterable[Finding]:
    """Report that the packaged service is open to others, by the environment of its unit."""
    service = facts.service
    if service is None or not service.active or (host := _listens(service)) is None:
        return
    if host in ("", "localhost") or is_loopback(host.strip("[]")):
        return
    yield Finding(
        id="exposed-service",
        severity=Severity.WARNING,
        title="ollama.service: whoever reaches this machine may use it",
        evidence=f"Its OLLAMA_HOST is {safe_text(host, limit=80)}, and ollama asks no password.",
        fix=OFF,
    )


def _listens(service: Service) -> str | None:
    told = dict(service.environment).get("OLLAMA_HOST")
    if told is None:
        return None
    told = told.strip(" \"'").rpartition("://")[2].partition("/")[0]
    if told[:1] == ":" and told[1:].isdigit():
        return "0.0.0.0"  # noqa: S104 - shown, not bound
    return told if told.count(":") > 1 and not told.startswith("[") else told.rpartition(":")[0] or told
