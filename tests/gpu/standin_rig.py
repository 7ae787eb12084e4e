"""The stand-in for NVIDIA's library: builds it, says what it is to answer, and makes the real binding load it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "standin"
SCENES = HERE / "scenes"
COMMAND = Path(sys.executable).with_name("ollamux")


def built(folder: Path, *, old: bool = False, release: str | None = None) -> Path:
    """Build the library into a folder, which is returned."""
    compiler = shutil.which("cc") or pytest.skip("the stand-in for libnvidia-ml.so.1 needs a C compiler, as cc")
    folder.mkdir()
    words = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *(["-DOLD_DRIVER"] if old else [])]
    words += [] if release is None else [f'-DRELEASE="{release}"']
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, *words, "-o", str(library), str(HERE / "nvml.c")], check=True)
    return folder


class Driver:
    """A box whose NVIDIA driver answers as a file says; `env` is the environment of what is to meet it."""

    def __init__(self, root: Path, library: Path) -> None:
        self.root = root
        self._said = root / "nvml"
        folders = {f"OLLAMUX_{name}_DIR": str(root / name.lower()) for name in ("STATE", "RUNTIME", "LOG")}
        self.env = {
            **folders,
            "HOME": str(root),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "LD_LIBRARY_PATH": str(library),
            "STANDIN_NVML": str(self._said),
        }

    def says(self, text: str) -> None:
        """Let it answer so from now on."""
        draft = self._said.with_suffix(".new")
        draft.write_text(text, encoding="utf-8")
        draft.rename(self._said)

    def plays(self, scene: str) -> None:
        """Let it answer as in a scene."""
        self.says((SCENES / f"{scene}.state").read_text(encoding="utf-8"))

    def ollamux(self, *words: str, columns: int = 200, code: int = 3) -> str:
        """Run a command, and return what it printed. Without a supervisor `status` ends with 3."""
        env = {**self.env, "COLUMNS": str(columns)}
        done = subprocess.run(
            [COMMAND, *words], env=env, cwd=self.root, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (code, "") or done.stderr.startswith("ollamux: "), done.stderr
        return done.stdout
