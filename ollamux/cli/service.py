"""`ollamux service`: hand the supervisor to systemd, take it back, or show what would be written."""

from __future__ import annotations

import os
import pwd
import shlex
from dataclasses import dataclass
from pathlib import Path

from ollamux.cli import screen, start
from ollamux.cli.service_plan import UnitPlan, account, make_plan, own_command
from ollamux.cli.service_unit import NAME, Origin, origin, unit_text
from ollamux.domain.errors import DeniedError, Exit, NotFoundError, OllamuxError, RefusedError, UsageError
from ollamux.domain.text import safe_text
from ollamux.system import systemctl
from ollamux.system.files import folder_error, write_atomic
from ollamux.system.places import home

_SYSTEM_FOLDER = "/etc/systemd/system"
_LARGEST_UNIT = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose manager is meant: the machine's (`run_as` is the user of the service), or the user's own."""

    run_as: str | None

    @property
    def user(self) -> bool:
        """Whether it is the user's own manager."""
        return self.run_as is None

    @property
    def word(self) -> str:
        """Return what stands between `systemctl` and its words."""
        return " --user" if self.user else ""

    @property
    def path(self) -> Path:
        """Return where the unit stands."""
        if not self.user:
            return Path(_SYSTEM_FOLDER) / NAME
        xdg = os.environ.get("XDG_CONFIG_HOME", "")
        base = Path(xdg) if xdg.startswith("/") else Path(home(os.environ)) / ".config"
        return base / "systemd" / "user" / NAME


def show(config: str | None, *, system: bool | None, run_as: str | None) -> int:
    """Print what `install` would write."""
    scope = _scope(system, run_as)
    screen.write(unit_text(make_plan(config, run_as=scope.run_as, systemd=systemctl.version())))
    return int(Exit.OK)


def install(config: str | None, *, system: bool | None, run_as: str | None, now: bool, force: bool) -> int:
    """Write the unit, enable it and, if asked, start it."""
    scope = _scope(system, run_as)
    plan = make_plan(config, run_as=scope.run_as, systemd=systemctl.version(), check=True)
    _require_manager(scope, plan)
    text = unit_text(plan)
    present = _present(scope.path)
    if present is not None and present != text:
        _refuse_strangers(scope, present, force=force, what="install")
    active = systemctl.call("is-active", "--quiet", NAME, user=scope.user)[0] == 0
    other = _other_supervisor(plan, active=active)
    if other and now:
        raise RefusedError(
            "a supervisor is running already, and not as this service; nothing was changed",
            hint="ollamux down ends it; then ollamux service install --now",
        )
    _write(scope.path, text)
    _do(scope, "daemon-reload")
    _do(scope, "enable", NAME)
    done = "was there already" if present == text else "written"
    screen.say(f"{scope.path} {done}, enabled: it starts {'when you log in' if scope.user else 'at boot'}\n")
    if now:
        _start(scope)
    _say_next(scope, running=active or now, changed=active and present != text, other=other)
    return int(Exit.OK)


def uninstall(*, system: bool | None, force: bool) -> int:
    """Stop the service, and remove its unit."""
    root = os.geteuid() == 0
    scope = Scope(run_as="root" if (root if system is None else system) else None)
    present = _present(scope.path)
    if present is None:
        screen.say(f"there is no {scope.path}; nothing to remove\n")
        return int(Exit.OK)
    if not scope.user and not root:
        raise _only_root("uninstall --system")
    _refuse_strangers(scope, present, force=force, what="uninstall")
    _require_manager(scope, None)
    screen.say("stops the service and with it all instances …\n")
    _do(scope, "disable", "--now", NAME, patience_s=None)
    scope.path.unlink(missing_ok=True)
    _do(scope, "daemon-reload")
    systemctl.call("reset-failed", NAME, user=scope.user)  # fails where there is nothing to forget
    screen.say(f"removed {scope.path}\n")
    return int(Exit.OK)


def _scope(system: bool | None, run_as: str | None) -> Scope:
    root = os.geteuid() == 0
    if not (root if system is None else system):
        if run_as is not None:
            raise UsageError("--run-as is for a system service", hint="add --system, or leave --run-as out")
        return Scope(run_as=None)
    if run_as is None and root:
        someone = safe_text(os.environ.get("SUDO_USER") or "USER", limit=40)
        raise UsageError(
            "a system service needs a user to run as: servers that run as root read and write files as root",
            hint=f"--run-as {someone}; or --user, for a service of your own; or --run-as root, if that is meant",
        )
    return Scope(run_as=account(run_as or pwd.getpwuid(os.getuid()).pw_name).pw_name)


def _require_manager(scope: Scope, plan: UnitPlan | None) -> None:
    """Make sure that there is somebody to ask; else say how cron does the same."""
    if not scope.user and os.geteuid() != 0:
        raise _only_root(
            f"install --system --run-as {scope.run_as}" + (f" --config {shlex.quote(plan.config)}" if plan else "")
        )
    trouble = systemctl.trouble(user=scope.user)
    if trouble is None:
        return
    whose = "of this user" if scope.user else "of this machine"
    words = [*own_command(), "up", "--ensure", "-q", *(["--config", plan.config] if plan else [])]
    ensure = shlex.join(words).replace("%", "\\%")  # crontab(5): a bare % ends the line
    raise NotFoundError(
        f"the systemd {whose} cannot be asked: {safe_text(trouble, limit=200)}",
        hint=f"cron does it too; crontab -e, and add:\n  @reboot      {ensure}\n  */5 * * * *  {ensure}",
    )


def _only_root(words: str) -> DeniedError:
    return DeniedError(
        "only root may change the services of this machine",
        hint=f"sudo {shlex.join(own_command())} service {words}",
    )


def _present(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_UNIT).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise folder_error(str(path), error) from None


def _refuse_strangers(scope: Scope, text: str, *, force: bool, what: str) -> None:
    kind = origin(text)
    if kind is Origin.OURS or force:
        return
    told = "was changed since ollamux wrote it" if kind is Origin.EDITED else "was not written by ollamux"
    better = f"keep changes apart: systemctl{scope.word} edit ollamux; " if kind is Origin.EDITED else ""
    verb = "overwrites" if what == "install" else "removes"
    raise RefusedError(
        f"{scope.path} {told}; nothing was changed", hint=f"{better}ollamux service {what} --force {verb} it"
    )


def _other_supervisor(plan: UnitPlan, *, active: bool) -> bool:
    """Whether one of the same folder of state runs already, started by a person or by cron."""
    if active:
        return False
    env = dict(plan.environment)
    if plan.run_as is not None:
        env["HOME"] = account(plan.run_as).pw_dir
    return start.is_running(False, {**os.environ, **env} if plan.run_as is None else env)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(str(path), text.encode("utf-8", "surrogateescape"), mode=0o644)
    except OSError as error:
        raise folder_error(str(path), error) from None


def _do(scope: Scope, *words: str, patience_s: float | None = 60.0) -> None:
    code, text = systemctl.call(*words, user=scope.user, patience_s=patience_s)
    if code != 0:
        raise OllamuxError(
            f"systemctl{scope.word} {' '.join(words)} failed: {safe_text(text.partition(chr(10))[0], limit=300)}",
            hint=f"systemctl{scope.word} status ollamux  may tell more",
        )


def _start(scope: Scope) -> None:
    code, _ = systemctl.call("start", NAME, user=scope.user, patience_s=None)
    if code != 0:
        raise OllamuxError(
            "the service is installed, but did not start",
            hint=f"journalctl{scope.word} -u ollamux -n 20  shows why",
        )


def _say_next(scope: Scope, *, running: bool, changed: bool, other: bool) -> None:
    if other:
        screen.say(f"a supervisor runs already: ollamux down, then systemctl{scope.word} start ollamux\n")
    elif changed:
        screen.say(f"it runs with the unit as it was: systemctl{scope.word} restart ollamux  takes the new one\n")
    elif running:
        screen.say("it runs; ollamux status shows how far the instances are\n")
    else:
        screen.say(f"systemctl{scope.word} start ollamux  starts it now\n")
    if scope.user and not _lingers():
        name = pwd.getpwuid(os.getuid()).pw_name
        screen.say(f"it ends when you log out; to run it from boot on:  loginctl enable-linger {name}\n")


def _lingers() -> bool:
    return os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(os.getuid()).pw_name}")
