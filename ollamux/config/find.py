"""Where the configuration file is. Looks, but reads nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ollamux.domain.errors import NotFoundError
from ollamux.domain.text import safe_text

FILE_NAME = "ollamux.toml"
SYSTEM_FILE = Path("/etc/ollamux/config.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place where a configuration may be. `why` says what makes us look there, `state` what we saw."""

    path: Path
    why: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The file that counts, or none. `looked` ends with the hit; `shown` is the path as a person would write it."""

    path: Path | None
    why: str | None
    shown: str
    looked: tuple[Place, ...]

    def required(self) -> Path:
        """Return the path, or say where we looked and how to get a file."""
        if self.path is not None:
            return self.path
        places = "\n".join(f"  {safe_text(str(place.path))}  ({place.state})" for place in self.looked)
        raise NotFoundError(
            f"there is no configuration file; looked at\n{places}",
            hint="ollamux init writes one for the GPUs of this machine",
        )


def here() -> Path:
    """Return the current folder, also one that somebody has deleted below us: nothing is found in it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/proc/self/cwd")


def find_config(explicit: str | None, env: Mapping[str, str], cwd: Path) -> Found:
    """Return the first configuration file that is there; a file that was asked for by name has to be."""
    for named, why in ((explicit, "--config"), (env.get("OLLAMUX_CONFIG") or None, "$OLLAMUX_CONFIG")):
        if named is not None:
            return _named(named, why, env, cwd)
    looked: list[Place] = []
    for path, why in _usual_places(env, cwd):
        place = Place(path=path, why=why, state=_state(path))
        looked.append(place)
        if place.state == "found":
            shown = FILE_NAME if path == cwd / FILE_NAME else str(path)
            return Found(path=path, why=why, shown=shown, looked=tuple(looked))
    return Found(path=None, why=None, shown="", looked=tuple(looked))


def _named(text: str, why: str, env: Mapping[str, str], cwd: Path) -> Found:
    home = _home(env)
    # cron and systemd pass a "~" on as it is.
    expanded = home / text[2:] if text.startswith("~/") and home else Path(text)
    path = Path(os.path.normpath(cwd / expanded))
    state = _state(path)
    if not text or state == "not there":
        shown = safe_text(text)
        raise NotFoundError(
            f"{why}: there is no file {shown or 'of an empty name'}",
            hint=f"name another one, or leave {why} out: ollamux config path shows what is found then",
        )
    return Found(path=path, why=why, shown=text, looked=(Place(path=path, why=why, state=state),))


def _usual_places(env: Mapping[str, str], cwd: Path) -> list[tuple[Path, str]]:
    places = [(cwd / FILE_NAME, "in the current folder")]
    xdg, home = env.get("XDG_CONFIG_HOME", ""), _home(env)
    if xdg.startswith("/"):  # the XDG rules: a relative path is to be ignored
        places.append((Path(xdg) / "ollamux" / "config.toml", "in $XDG_CONFIG_HOME"))
    elif home is not None:
        places.append((home / ".config" / "ollamux" / "config.toml", "in your ~/.config"))
    return [*places, (SYSTEM_FILE, "for the whole machine")]


def _home(env: Mapping[str, str]) -> Path | None:
    home = env.get("HOME", "")
    if home.startswith("/"):
        return Path(home)
    import pwd  # only where HOME is missing, as in a bare cron or container

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _state(path: Path) -> str:
    try:
        os.lstat(path)  # a dangling link is a hit: reading it will say so, skipping it would hide it
    except PermissionError:
        return "no permission to look"
    except (OSError, ValueError):
        return "not there"
    return "found"
