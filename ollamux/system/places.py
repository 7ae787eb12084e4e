"""Where state, sockets and logs live: found from the environment alone, by the same rule in every command.

Plain functions and tuples: this is imported before anything else by the commands that must be quick.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in ollamux.protocol.client
if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET_NAME = "ollamux.sock"
SOCKET_RECORD = "socket-path"
LONGEST_SOCKET_PATH = 107
"""Bytes that a Unix socket's address holds on Linux, without the closing zero (unix(7))."""


def home(env: Mapping[str, str]) -> str:
    """Return the user's home, also where the environment does not name it (`env -i`)."""
    named = env.get("HOME")
    if named and named.startswith("/"):
        return named
    import pwd

    return pwd.getpwuid(os.getuid()).pw_dir


def state_dir(env: Mapping[str, str], *, simulated: bool) -> str:
    """Return the folder of state: `$OLLAMUX_STATE_DIR`, else XDG's, else below home."""
    base = _absolute(env, "OLLAMUX_STATE_DIR")
    if base is None:
        xdg = _absolute(env, "XDG_STATE_HOME")
        base = (xdg or home(env) + "/.local/state") + "/ollamux"
    return base + "/simulated" if simulated else base


def log_dir(env: Mapping[str, str], *, simulated: bool) -> str:
    """Return the folder of logs: `$OLLAMUX_LOG_DIR`, else `logs` in the folder of state."""
    base = _absolute(env, "OLLAMUX_LOG_DIR")
    if base is None:
        return state_dir(env, simulated=simulated) + "/logs"
    return base + "/simulated" if simulated else base


def runtime_dirs(env: Mapping[str, str], *, simulated: bool) -> tuple[str, ...]:
    """Return where the control socket may be, the first usable one first.

    `$OLLAMUX_RUNTIME_DIR` alone where it is set. Else `$XDG_RUNTIME_DIR`, `/run/user/<uid>` (cron has no
    XDG_RUNTIME_DIR), and the folder of state.
    """
    suffix = "/simulated" if simulated else ""
    own = _absolute(env, "OLLAMUX_RUNTIME_DIR")
    if own is not None:
        return (own + suffix,)
    bases = [_absolute(env, "XDG_RUNTIME_DIR"), f"/run/user/{os.getuid()}"]
    found = [f"{base}/ollamux{suffix}" for base in dict.fromkeys(bases) if base is not None and os.path.isdir(base)]
    return (*found, state_dir(env, simulated=simulated) + "/run")


def socket_paths(env: Mapping[str, str], *, simulated: bool) -> tuple[str, ...]:
    """Return the paths at which a client looks for the supervisor, in order.

    The last is where the supervisor itself said it listens: its environment may have named a place that ours does not.
    """
    paths = [f"{folder}/{SOCKET_NAME}" for folder in runtime_dirs(env, simulated=simulated)]
    try:
        path = f"{state_dir(env, simulated=simulated)}/{SOCKET_RECORD}"
        with open(path, encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as record:
            paths.append(record.read(4096).strip())
    except (OSError, ValueError):
        pass  # no supervisor has run yet
    return tuple(dict.fromkeys(paths))


def _absolute(env: Mapping[str, str], name: str) -> str | None:
    value = env.get(name)
    return value.rstrip("/") or "/" if value and value.startswith("/") else None
