"""What `ollamux.service` is to hold, found on this machine: the command, the configuration, the user's settings."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ollamux.cli.service_unit import UnitPlan
from ollamux.config.find import find_config, here
from ollamux.config.load import parse
from ollamux.config.source import first_open_port, foreign_writer, read_source
from ollamux.domain.errors import DeniedError, NotFoundError, RefusedError
from ollamux.domain.text import safe_text
from ollamux.supervisor.boot import longest_stop_s
from ollamux.supervisor.programs import check_programs

__all__ = ["UnitPlan", "account", "make_plan", "own_command"]

_OWN_PLACES = ("OLLAMUX_STATE_DIR", "OLLAMUX_RUNTIME_DIR", "OLLAMUX_LOG_DIR")

_NOT_IN_PROGRAMS = frozenset("\"'\\\n\t")


def make_plan(config: str | None, *, run_as: str | None, systemd: int | None, check: bool = False) -> UnitPlan:
    """Return what the unit is made from; with `check` a service that could not start is refused."""
    user = None if run_as is None else account(run_as)
    command = own_command()
    environment = _environment(own=user is None or user.pw_uid == os.getuid())
    with _acting_as(user):  # nothing is imported in here: the user might not reach our files
        found = find_config(config, os.environ if user is None else {**os.environ, **_places_of(user)}, here())
        path = found.required()
        source, open_port = read_source(path), first_open_port()
        if check and user is not None:
            _require_usable(user, command[0], environment)
    fleet = parse(source, found.shown, open_port=open_port)
    if check:
        if user is not None and user.pw_uid == 0:
            _refuse_foreign_program(command[0])
        check_programs(fleet, {**os.environ, **dict(environment)})
    config_path = os.path.abspath(path)
    for text in (*command, config_path, *(value for _, value in environment)):
        _require_utf8(text)
    if set(command[0]) & _NOT_IN_PROGRAMS:
        raise RefusedError(
            f"systemd takes no program whose path has a quote or a backslash in it: {safe_text(command[0])}",
            hint="move ollamux, or use cron: ollamux up --ensure -q",
        )
    mask = os.umask(0o022)
    os.umask(mask)
    return UnitPlan(
        run_as=run_as,
        command=command,
        config=config_path,
        environment=environment,
        on_death=fleet.supervisor.on_death,
        stop_s=longest_stop_s(fleet.instances),
        umask=mask if user is None else None,
        systemd=systemd,
    )


def account(name: str) -> pwd.struct_passwd:
    """Return a user of this machine. Raises NotFoundError."""
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise NotFoundError(
            f"there is no user {safe_text(name, limit=40)!r} on this machine", hint="--run-as takes a user's name"
        ) from None


def own_command() -> tuple[str, ...]:
    """Return how to start ollamux from anywhere: as it was started now, as far as that has a lasting path."""
    typed = os.path.abspath(sys.argv[0])
    beside = os.path.join(os.path.dirname(sys.executable), "ollamux")
    for path in (typed, beside):
        if os.path.basename(path) == "ollamux" and os.path.isfile(path) and os.access(path, os.X_OK):
            return (path,)
    return (sys.executable, "-P", "-m", "ollamux")


def _environment(*, own: bool) -> tuple[tuple[str, str], ...]:
    """Return the variables a service needs to find the same programs and folders as this command does.

    Nothing else of the shell: what servers shall see stands in the configuration.
    """
    env = os.environ
    kept = {name: env[name] for name in _OWN_PLACES if env.get(name, "").startswith("/")}
    if own and env.get("XDG_STATE_HOME", "").startswith("/"):
        kept["XDG_STATE_HOME"] = env["XDG_STATE_HOME"]
    folders = [folder for folder in env.get("PATH", "").split(os.pathsep) if folder.startswith("/")]
    if folders:
        kept["PATH"] = os.pathsep.join(dict.fromkeys(folders))
    return tuple(sorted(kept.items()))


def _require_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RefusedError(
            f"systemd takes only paths in UTF-8, and this one is not: {safe_text(text, limit=300)}",
            hint="rename it, or use cron: ollamux up --ensure -q",
        ) from None


def _places_of(user: pwd.struct_passwd) -> dict[str, str]:
    own = user.pw_uid == os.getuid()
    return {"HOME": user.pw_dir} if own else {"HOME": user.pw_dir, "XDG_CONFIG_HOME": ""}


def _require_usable(user: pwd.struct_passwd, program: str, environment: tuple[tuple[str, str], ...]) -> None:
    """Refuse what a service of this user could only fail at. To be called while acting as the user."""
    name = safe_text(user.pw_name)
    if not all(os.access(path, os.X_OK, effective_ids=True) for path in (program, sys.executable)):
        raise DeniedError(
            f"user {name} may not run {safe_text(program)}",
            hint=f"install ollamux where {name} can reach it, and run that one",
        )
    state = dict(environment).get("OLLAMUX_STATE_DIR")
    where = Path(state if state is not None else user.pw_dir)
    while state is not None and not where.exists():
        where = where.parent
    if not os.access(where, os.W_OK | os.X_OK, effective_ids=True):
        raise DeniedError(
            f"user {name} cannot write {safe_text(str(where))}, where its state would be kept",
            hint="set OLLAMUX_STATE_DIR, for this command and for those that ask the service",
        )


def _refuse_foreign_program(program: str) -> None:
    """Whoever may change the program, or swap it, would decide what root runs."""
    for path in (program, os.path.dirname(program)):
        who = foreign_writer(os.stat(path))
        if who is not None:
            raise DeniedError(
                f"{safe_text(path)} can be written by {who}; no service of root is made of it",
                hint="name that user with --run-as, or install ollamux as root",
            )


@contextmanager
def _acting_as(user: pwd.struct_passwd | None) -> Iterator[None]:
    """Look at files with the rights of the user that the service will have."""
    if user is None or os.geteuid() != 0 or user.pw_uid == 0:
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
