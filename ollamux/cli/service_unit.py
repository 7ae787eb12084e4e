"""The text of `ollamux.service`: which settings, and why. Pure: reads nothing and asks nobody."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ollamux.domain.spec import OnDeath

NAME = "ollamux.service"
WATCHDOG_S = 30
STOP_MARGIN_S = 15.0
"""What a stop may take beyond what the supervisor allows itself."""
POINTLESS = (2, 4, 6, 7, 9)
"""Exit codes after which another start is not wanted, or would end in the same way.

Usage, configuration, an end that left something behind that not even SIGKILL ends, refused, permission.
"""
_FIRST_WITH_STEPS = 254
_PLAIN = re.compile(r"[A-Za-z0-9/._=:@+,$-]+")
_HEAD = "# Written by `ollamux service install`. "
_SUM = "# Unchanged since if this is its sum: "


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """What a unit is made from. `run_as` is the user of a system service, None for a user's own.

    `command` starts ollamux; `stop_s` is how long the supervisor takes at most to stop; `systemd` is its version.
    """

    run_as: str | None
    command: tuple[str, ...]
    config: str
    environment: tuple[tuple[str, str], ...]
    on_death: OnDeath
    stop_s: float
    umask: int | None
    systemd: int | None


_KILL = {
    OnDeath.KEEP: (
        "# on_death is keep: servers outlive a supervisor that dies, and the next one adopts them.",
        "KillMode=process",
    ),
    OnDeath.STOP: (
        "# on_death is stop: SIGTERM goes to the supervisor alone; what is left after it is killed.",
        "KillMode=mixed",
    ),
}


class Origin(Enum):
    """Whose text a unit is."""

    OURS = "ours"
    EDITED = "edited"
    FOREIGN = "foreign"


def unit_text(plan: UnitPlan) -> str:
    """Return the whole unit, its head with the sum of the rest."""
    sections = (("Unit", _unit(plan)), ("Service", _service(plan)), ("Install", _install(plan)))
    body = "\n".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections)
    scope = "--user " if plan.run_as is None else ""
    how = f"Change it with: systemctl {scope}edit ollamux\n"
    return f"{_HEAD}{how}{_SUM}{_sum(body)}\n{body}"


def origin(text: str) -> Origin:
    """Say whether a unit is as we wrote it."""
    first, _, rest = text.partition("\n")
    second, _, body = rest.partition("\n")
    if not first.startswith(_HEAD.rstrip()):
        return Origin.FOREIGN
    return Origin.OURS if second == f"{_SUM}{_sum(body)}" else Origin.EDITED


def _sum(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _unit(plan: UnitPlan) -> list[str]:
    lines = ["Description=ollamux: one ollama server per GPU"]
    if plan.run_as is not None:
        # Ordering only: none of them has to exist.
        lines.append("After=network.target remote-fs.target nvidia-persistenced.service")
    # A start that fails is tried again for as long as it takes, as an instance is.
    return [*lines, "StartLimitIntervalSec=0"]


def _service(plan: UnitPlan) -> list[str]:
    lines = [
        "Type=notify",
        f"ExecStart={exec_line([*plan.command, 'up', '--config', plan.config])}",
        # Not waited for: a restart may load gigabytes, and systemd gives a reload 90 s.
        f"ExecReload={exec_line([*plan.command, 'reload', '--no-wait', '-q'])}",
    ]
    if plan.on_death is OnDeath.KEEP:
        # With "-": there is nobody to ask when the supervisor has ended by itself, or by `ollamux down`.
        lines.append(f"ExecStop=-{exec_line([*plan.command, 'down', '-q'])}")
    if plan.run_as is not None:
        lines.append(f"User={plan.run_as}")
    lines += [f"Environment={quoted(f'{name}={value}')}" for name, value in plan.environment]
    lines += _runtime_directory(plan)
    lines += ["Restart=on-failure", "RestartSec=2"]
    if plan.systemd is not None and plan.systemd >= _FIRST_WITH_STEPS:
        lines += ["RestartSteps=5", "RestartMaxDelaySec=60"]
    lines += [
        f"RestartPreventExitStatus={' '.join(map(str, POINTLESS))}",
        f"WatchdogSec={WATCHDOG_S}",
        # A core file of a hung supervisor explains nothing, and could hold secrets.
        "WatchdogSignal=SIGKILL",
        *_KILL[plan.on_death],
        f"TimeoutStopSec={round(plan.stop_s + STOP_MARGIN_S)}",
        # One runner that the kernel ends for want of memory must not take the others with it.
        "OOMPolicy=continue",
        "LimitNOFILE=65536:524288",
        "NoNewPrivileges=yes",
    ]
    if plan.umask is not None:
        lines.append(f"UMask={plan.umask:04o}")
    return [*lines, "SyslogIdentifier=ollamux"]


def _runtime_directory(plan: UnitPlan) -> list[str]:
    """Return what makes the folder of the control socket, unless the user has one of his own."""
    if any(name == "OLLAMUX_RUNTIME_DIR" for name, _ in plan.environment):
        return []
    # A user's own is where every command looks first; the machine's is found through the folder of state.
    where = [] if plan.run_as is None else ["Environment=OLLAMUX_RUNTIME_DIR=%t/ollamux"]
    # Preserved: commands that wait for the next supervisor find it where the last one was.
    return [*where, "RuntimeDirectory=ollamux", "RuntimeDirectoryMode=0700", "RuntimeDirectoryPreserve=yes"]


def _install(plan: UnitPlan) -> list[str]:
    return [f"WantedBy={'default.target' if plan.run_as is None else 'multi-user.target'}"]


def exec_line(words: Sequence[str]) -> str:
    """Write a command as ExecStart= reads it: a dollar stands for a variable, but not in the path of the program."""
    return " ".join([quoted(words[0]), *(quoted(word.replace("$", "$$")) for word in words[1:])])


def quoted(text: str) -> str:
    """Write text so that systemd reads it back exactly: quotes, backslashes, specifiers, control characters."""
    written = "".join(map(_written, text))
    return written if written == text and _PLAIN.fullmatch(text) else f'"{written}"'


def _written(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    if character == "%":
        return "%%"
    return f"\\x{code:02x}" if code < 0x20 or code == 0x7F else character
