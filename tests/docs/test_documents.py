"""What is written about the program is true, and the picture is the one it draws."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ollamux.render.picture import draw_picture
from ollamux.render.sample import sample_status

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command(marker: str) -> str:
    """Return the one line to paste behind a marker of the README."""
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.+)\n```", README)
    assert found is not None, f"the README has no command behind <!-- {marker} -->"
    return found[1]


def test_picture_of_the_first_table_is_current() -> None:
    drawn = draw_picture(sample_status())
    hint = "run: python -m ollamux.render.picture docs/status.svg"
    assert (ROOT / "docs/status.svg").read_text(encoding="utf-8") == drawn, hint


@pytest.mark.parametrize("marker", ["run", "test"])
def test_readme_commands_start_from_a_fresh_environment(marker: str) -> None:
    assert command(marker).startswith("python3 -m venv .venv && .venv/bin/pip install -q ")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    extraction = next(line for line in script.splitlines() if "sed -n" in line)
    inner = re.search(r"\$\((sed .+ README\.md)\)", extraction)
    assert inner is not None
    done = subprocess.run(["bash", "-c", inner[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == command("test")


def test_every_command_of_the_readme_exists() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "ollamux", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for line in README.splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([a-z]+)[^`]*`", line.split("|")[1]):
                if name not in ("check", "show", "path", "schema"):
                    assert re.search(rf"^\s+{name}\b", help_text, re.MULTILINE), f"{name} is not a command"


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
