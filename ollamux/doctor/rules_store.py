"""Rules about the folders of models. Pure: facts to findings."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from ollamux.doctor.facts import Facts, Server, Store
from ollamux.doctor.findings import Finding, Severity
from ollamux.domain.text import format_size

_FULL, _NEARLY_FULL = 1024**3, 5 * 1024**3
_DROP_IN = "/etc/systemd/system/ollama.service.d/noprune.conf"
_NO_PRUNE = (
    f"sudo install -Dm644 /dev/stdin {_DROP_IN} <<< $'[Service]\\nEnvironment=OLLAMA_NOPRUNE=1' && "
    "sudo systemctl daemon-reload && sudo systemctl restart ollama"
)

_ME = "$(id -un)"  # $USER is not set everywhere, as in a container


def store_unreadable(facts: Facts) -> Iterable[Finding]:
    """Report a store that cannot be read: the server ends at its start ("open …/blobs: permission denied")."""
    for store in facts.stores:
        if store.state == "closed":
            where = store.obstacle if store.obstacle and store.obstacle.startswith("/") else store.path
            yield Finding(
                id="store-unreadable",
                severity=Severity.BROKEN,
                title=f"The store {store.path} may not be read",
                evidence=f"{where} is closed to this user. {_who(store)} would end at the start.",
                fix=_passage(store, where) + f"sudo setfacl -R -m u:{_ME}:rX {shlex.quote(store.path)}",
            )
        elif store.state == "not a folder":
            yield Finding(
                id="store-unreadable",
                severity=Severity.BROKEN,
                title=f"The store {store.path} is not a folder",
                evidence=f"Something else is in its place. {_who(store)} would end at the start.",
                fix=f"move {store.path} away, or set store in {facts.file} to a folder; then: ollamux reload",
                is_command=False,
            )


def store_missing(facts: Facts) -> Iterable[Finding]:
    """Report a store that is not there and cannot be made; else ollama makes it by itself."""
    for store in facts.stores:
        if store.state == "missing" and not store.makeable:
            path = shlex.quote(store.path)
            yield Finding(
                id="store-missing",
                severity=Severity.BROKEN,
                title=f"The store {store.path} is not there and cannot be made",
                evidence=f"This user may not make a folder in {store.obstacle}. Is a disk not mounted? {_who(store)} "
                "would end at the start.",
                fix=f"mount its disk (findmnt --fstab lists what should be); else: sudo install -d -o {_ME} {path}",
                is_command=False,
            )


def store_full(facts: Facts) -> Iterable[Finding]:
    """Report a disk without room for another model; a pull then fails near its end, and parts of it stay."""
    for store in facts.stores:
        free = store.free_bytes
        if free is None or free >= _NEARLY_FULL or not store.writable:
            continue
        path = shlex.quote(store.path)
        yield Finding(
            id="store-full",
            severity=Severity.BROKEN if free < _FULL else Severity.WARNING,
            title=f"The disk of {store.path} has {format_size(free)} left",
            evidence="A model of 8 billion parameters takes 5 GiB. A pull that does not fit fails, and its parts stay.",
            fix=f"du -xsh {path}; find {path}/blobs -name '*-partial*' -mtime +1 -delete",
        )


def store_prune(facts: Facts) -> Iterable[Finding]:
    """Report another server that prunes a store of ours at its start.

    A prune deletes what no manifest names, so also what an instance is just pulling (ollama, server/images.go); four
    servers that started at once killed each other in 57 of 80 starts (seen on 0.24.0 and 0.32.15).
    """
    for store in facts.stores:
        sharing = (server for server in facts.servers if server.store is not None and server.store == store.real_path)
        rivals = [server for server in sharing if server.prunes]
        if rivals:
            yield Finding(
                id="store-prune",
                severity=Severity.WARNING,
                title=f"Another ollama prunes the store {store.path}",
                evidence=f"{', '.join(map(_said, rivals))} shares it with {', '.join(store.instances)} and runs "
                "without OLLAMA_NOPRUNE: at its start it deletes what an instance is just pulling. It may run if it "
                "is started with OLLAMA_NOPRUNE=1.",
                fix=_NO_PRUNE if rivals[0].packaged else f"kill {rivals[0].pid}",
            )


def store_read_only(facts: Facts) -> Iterable[Finding]:
    """Report a store that may only be read: models are served, but none can be pulled (seen on 0.24.0 and 0.32.15)."""
    for store in facts.stores:
        if store.state == "folder" and not store.writable:
            yield Finding(
                id="store-read-only",
                severity=Severity.WARNING,
                title=f"The store {store.path} may not be written",
                evidence=f"{_who(store)} serves what is there; every pull, create and delete fails.",
                fix=f"sudo setfacl -R -m u:{_ME}:rwX -m d:u:{_ME}:rwX {shlex.quote(store.path)}",
            )


def store_open(facts: Facts) -> Iterable[Finding]:
    """Report a store that anybody may write: a model is data that a server parses, and a template that it runs."""
    for store in facts.stores:
        if store.open_to is not None:
            yield Finding(
                id="store-open",
                severity=Severity.WARNING,
                title=f"The store {store.path} can be written by {store.open_to}",
                evidence="Any user of this machine may change or delete the models that instances serve.",
                fix=f"chmod -R o-w {shlex.quote(store.path)}",
            )


def _passage(store: Store, closed: str) -> str:
    """Return what opens a folder above a store to be passed, no more than that; nothing where the store is closed."""
    if not store.path.startswith(closed.rstrip("/") + "/"):
        return ""
    return f"sudo setfacl -m u:{_ME}:x {shlex.quote(closed)} && "


def _who(store: Store) -> str:
    return ", ".join(store.instances)


def _said(server: Server) -> str:
    return "ollama.service" if server.packaged else f"pid {server.pid} (user {server.user})"
