"""Build the two C programs into a folder. They are small enough to be built anew for every run."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchError

_SOURCES = Path(__file__).parent / "src"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Where the built programs are: the stand-in for ollama, and the limit."""

    server: str
    loop: str


def build(folder: Path) -> Programs:
    """Compile both; raise BenchError where that is impossible."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError(
            "no C compiler was found (cc, gcc or clang): install one, on Debian with: apt install gcc libc6-dev"
        )
    # Named ollama, for that is what a configuration asks for.
    server = _compile(compiler, _SOURCES / "tinyhttp.c", folder / "ollama")
    loop = _compile(compiler, _SOURCES / "forkloop.c", folder / "forkloop")
    return Programs(server=server, loop=loop)


def _compile(compiler: str, source: Path, target: Path) -> str:
    said = ""
    # Static starts faster and is what the limit should be; not every machine has a static libc.
    for linked in (["-static"], []):
        command = [compiler, "-O2", "-Wall", *linked, "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return str(target)
        said = done.stderr.strip()
    raise BenchError(f"{compiler} could not build {source.name}:\n{said}")
