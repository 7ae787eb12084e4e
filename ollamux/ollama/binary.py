"""Find the `ollama` program and ask it for its version, without starting a server."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from typing import NoReturn

from ollamux.domain.errors import DeniedError, NotFoundError
from ollamux.domain.text import safe_text
from ollamux.ollama.version import Version, parse_version

INSTALL_HINT = 'install ollama (https://ollama.com/download), or set "ollama" to the path of its program'
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
# The discard port: nothing listens there, so the program tells its own version, not a server's.
_DEAD_SERVER = "127.0.0.1:9"
_MOST_OUTPUT = 4096
_CLIENT = re.compile(r"client version is (\S{1,64})")
_SAME = re.compile(r"ollama version is (\S{1,64})")


def find_ollama(name: str, env: Mapping[str, str]) -> str:
    """Return the absolute path of a program named in the configuration, or raise with the reason it cannot be run.

    A name with a slash is a path, with `~` for the home folder; any other is looked for on PATH. The current folder is
    never searched, not even where PATH names it.
    """
    if "/" in name:
        path = _expanded(name, env)
        path = path if path.startswith("/") else os.path.abspath(path)
        if (problem := _problem(path)) is not None:
            _refuse(path, problem)
        return path
    folders = [folder for folder in env.get("PATH", _DEFAULT_PATH).split(os.pathsep) if folder.startswith("/")]
    unusable: tuple[str, str] | None = None
    for folder in folders:
        path = os.path.join(folder, name)
        problem = _problem(path)
        if problem is None:
            return path
        if problem != _MISSING and unusable is None:
            unusable = (path, problem)
    if unusable is not None:
        _refuse(*unusable)
    searched = safe_text(":".join(folders), limit=500) or "an empty PATH"
    raise NotFoundError(f"{safe_text(name, limit=200)} was not found in {searched}", hint=INSTALL_HINT)


_MISSING = "does not exist"
_DENIED = "may not be executed by this user"
_UNREACHABLE = "lies in a folder that this user may not enter"


def _expanded(name: str, env: Mapping[str, str]) -> str:
    home = env.get("HOME")
    return f"{home}/{name[2:]}" if name.startswith("~/") and home else name


def _refuse(path: str, problem: str) -> NoReturn:
    error = DeniedError if problem in (_DENIED, _UNREACHABLE) else NotFoundError
    raise error(f"{safe_text(path, limit=300)} {problem}", hint=INSTALL_HINT)


def _problem(path: str) -> str | None:
    """Say why a path cannot be run; None where it can."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "is a link to nothing" if os.path.islink(path) else _MISSING
    except PermissionError:
        return _UNREACHABLE
    except (OSError, ValueError) as error:
        return f"cannot be looked at: {error}"
    if stat.S_ISDIR(found.st_mode):
        return "is a folder"
    if not stat.S_ISREG(found.st_mode):
        return "is no ordinary file"
    if not os.access(path, os.X_OK):
        return _DENIED
    return _script_problem(_head(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=16)
def _head(path: str, *identity: int) -> bytes | None:
    """Return how a file begins. Read once for as long as it stays the same file: a respawn is not to wait for it."""
    try:
        with open(path, "rb") as file:
            return file.read(256)
    except OSError:
        return None


def _script_problem(head: bytes | None) -> str | None:
    if head is None:
        return None
    if not head:
        return "is empty"
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].split()
    interpreter = os.fsdecode(words[0]) if words else ""
    if not interpreter or not os.access(interpreter, os.X_OK):
        return f"is a script whose interpreter {safe_text(interpreter, limit=100) or '(none)'} is missing"
    return None


def binary_version(path: str, timeout_s: float = 5.0) -> Version | None:
    """Ask a program for its own version; None where it cannot be learnt in time, or is a build without a number."""
    text = version_text(path, timeout_s)
    return None if text is None else parse_version(text)


def version_text(path: str, timeout_s: float = 5.0) -> str | None:
    """Ask a program for its own version, as it writes it."""
    import subprocess  # neither is needed to start a server
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ollamux-version-") as home:
        # Without HOME the program panics; with the user's own it would write there.
        env = {"PATH": _DEFAULT_PATH, "HOME": home, "OLLAMA_HOST": _DEAD_SERVER}
        try:
            answer = subprocess.run(
                [path, "--version"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                start_new_session=True,
                check=False,
                cwd="/",
            )
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None
    return parse_version_output(answer.stdout[:_MOST_OUTPUT].decode("utf-8", "replace"))


def parse_version_output(output: str) -> str | None:
    """Read what `ollama --version` prints; with a server running, the program's own version stands in a warning."""
    match = _CLIENT.search(output) or _SAME.search(output)
    return None if match is None else safe_text(match[1])
